"""The feature maps of an image network, one for each resolution, found in a dry run.

A decoder for masks reads them. There is no table of encoders: a map is what a module returns at a
time when nothing else is needed later, so the whole network up to there went into it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layergroups._torch import tree_flatten
from layergroups.anatomy import Call, Flow, Trace, is_vector

FIRST, LAST, TOKENS = "channels first", "channels last", "tokens"
_MOST_PREFIX = 16  # class and register tokens before those of the patches
_END = 1 << 60  # after every operation


@dataclass(frozen=True)
class FeatureMap:
    """What a module of a network returns, as a map.

    Attributes:
        path: of the module in the body; "" for the image itself.
        stride: pixels of the image for each of the map, along a side.
        channels: of the map.
        layout: "channels first" (N, C, H, W), "channels last" (N, H, W, C) or "tokens" (N, T, C).
        prefix: tokens before those of the patches.
    """

    path: str
    stride: int
    channels: int
    layout: str = FIRST
    prefix: int = 0

    def __post_init__(self) -> None:
        if self.layout not in (FIRST, LAST, TOKENS):
            raise ValueError(f"layout={self.layout!r} of a map: expected {FIRST}, {LAST}, {TOKENS}")

    def of(self, value: Tensor, height: int, width: int) -> Tensor:
        """A returned value as a map (N, C, h, w); height and width are those of the image."""
        if self.layout == LAST:
            return value.permute(0, 3, 1, 2)
        if self.layout == TOKENS:
            sides = (height // self.stride, width // self.stride)
            patches: Tensor = value[:, self.prefix :].transpose(1, 2).unflatten(2, sides)
            return patches
        return value


class Encoder(nn.Module):
    """A network without its classifier that returns its feature maps, the largest first."""

    def __init__(self, body: nn.Module, maps: tuple[FeatureMap, ...]) -> None:
        super().__init__()
        self.body = body
        self.maps = maps

    def forward(self, images: Tensor) -> list[Tensor]:
        """Maps (N, C, h, w) of images (N, channels, H, W)."""
        paths = [each.path for each in self.maps if each.path]
        seen = outputs_at(self.body, paths, images)[1] | {"": images}
        height, width = images.shape[2:]
        return [each.of(seen[each.path], height, width) for each in self.maps]

    def extra_repr(self) -> str:
        return ", ".join(f"{each.path or 'the image'}: 1/{each.stride}" for each in self.maps)


def outputs_at(
    body: nn.Module, paths: Sequence[str], images: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """What a body returns, and the first tensor that its modules at these paths return."""
    seen: dict[str, Tensor] = {}

    def keep(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        leaves = [output] if isinstance(output, Tensor) else tree_flatten(output)[0]
        seen[path] = next(leaf for leaf in leaves if isinstance(leaf, Tensor))

    handles = [
        body.get_submodule(path).register_forward_hook(partial(keep, path)) for path in paths
    ]
    try:
        last = body(images)
    finally:
        for handle in handles:
            handle.remove()
    if missing := [path for path in paths if path not in seen]:
        raise RuntimeError(f"{', '.join(missing)} did not run, so its output cannot be read.")
    return last, seen


def find_maps(found: Trace, body: nn.Module) -> tuple[FeatureMap, ...]:
    """The last map of each resolution, the largest first; empty if there is none.

    It is what a stage returns, not what is expanded inside of the next block.
    """
    best: dict[int, tuple[tuple[int, int], FeatureMap]] = {}
    for end, seen in all_maps(found):
        rank = (-depth(body, seen.path), end)
        if seen.stride not in best or best[seen.stride][0] < rank:
            best[seen.stride] = rank, seen
    maps = [best[stride][1] for stride in sorted(best)]
    ends = [best[stride][0][1] for stride in sorted(best)]
    # Each is made after the larger ones: a network may enlarge a map again, such as a mask.
    later = [*ends[1:], _END]
    return tuple(m for m, end, after in zip(maps, ends, later, strict=False) if end < after)


def spread_maps(
    found: Trace, body: nn.Module, last: FeatureMap, n: int = 4
) -> tuple[FeatureMap, ...]:
    """Maps like the last one, of its blocks, evenly spread, ending with it; empty if too few."""
    alike = [each for _, each in all_maps(found) if replace(each, path=last.path) == last]
    kinds = Counter(type(body.get_submodule(each.path)) for each in alike)
    kind, times = kinds.most_common(1)[0]
    if times < n:
        return ()
    blocks = [each for each in alike if type(body.get_submodule(each.path)) is kind]
    return (*(blocks[i * times // n - 1] for i in range(1, n)), last)


def depth(body: nn.Module, path: str) -> int:
    """How many modules other than plain containers hold the module at a path."""
    names = path.split(".")[:-1]
    around = (body.get_submodule(".".join(names[: n + 1])) for n in range(len(names)))
    return sum(type(module) is not nn.Sequential for module in around)


def all_maps(found: Trace) -> Iterator[tuple[int, FeatureMap]]:
    """Each map through which all data flow, and when it was made."""
    flow = Flow(found)
    image = next(value.shape for value in found.values if value.producer == -1)
    times = Counter(call.path for call in found.calls)
    for call in found.calls[1:]:
        if times[call.path] == 1 and flow.live_values(call.end, call.end, _END) <= 1:
            for seen in _as_map(call, flow, image):
                yield call.end, seen


def _as_map(call: Call, flow: Flow, image: tuple[int, ...]) -> Iterator[FeatureMap]:
    shape = call.shape
    if not shape or shape[0] != image[0] or is_vector(shape):
        return
    if len(shape) == 4:
        sides, layout = min(
            ((shape[2:4], FIRST), (shape[1:3], LAST)), key=lambda each: _distortion(each[0], image)
        )
        if _distortion(sides, image) < 0.3 and sides[0] <= image[2]:
            stride = 2 ** round(math.log2(image[2] / sides[0]))
            exact = image[2] // sides[0] if image[2] % sides[0] == 0 else stride
            yield FeatureMap(call.path, exact, shape[1 if layout == FIRST else 3], layout)
    if len(shape) == 3:
        for op in flow.between(0, call.end)[::-1]:
            for grid in _grids([flow.shape(v) for v in op.writes], image):
                prefix = shape[1] - math.prod(grid)
                if 0 <= prefix <= _MOST_PREFIX and image[2] % grid[0] == 0:
                    yield FeatureMap(call.path, image[2] // grid[0], shape[2], TOKENS, prefix)
                    return


def _grids(shapes: Sequence[tuple[int, ...]], image: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Sides of the maps among some shapes: those with the aspect of the image."""
    for shape in shapes:
        for sides in (shape[2:], shape[1:3]) if len(shape) == 4 else ():
            if _distortion(sides, image) < 0.3:
                yield sides


def _distortion(sides: tuple[int, ...], image: tuple[int, ...]) -> float:
    """How far the aspect of a map is from the image's, as a logarithm."""
    return abs(math.log(sides[0] / sides[1] * image[3] / image[2]))


def padded_to(images: Tensor, stride: int) -> Tensor:
    """Images with their edges repeated at the right and at the bottom, to multiples of a stride."""
    height, width = (-side % stride for side in images.shape[2:])
    if not height and not width:
        return images
    return torch.nn.functional.pad(images, (0, width, 0, height), mode="replicate")
