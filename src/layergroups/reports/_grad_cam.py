"""Grad-CAM: which regions of an image support a class, for any network that anatomy can read.

Source: Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
Localization", on the last spatial feature map. A run on one image shows which blocks of the body
return maps or tokens. Tokens are reshaped to their grid, without class and register tokens. If the
head reads only the class token, the last layer whose patch tokens affect the score is used: the
first norm of the last block.

For tokens the gradient is not averaged: each token is multiplied by its own (Draelos and Carin
2020, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
networks"). If the head averages tokens, both are the same. With a class token they are not: in ten
small transformers trained on the colour of a square, the hottest quarter had the square in 34 % of
the images with averaged gradients, little more than by chance, and in 76 % with each token's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layergroups import _drawing as drawing
from layergroups._drawing import Figure
from layergroups._forward import call_model, run_model, single_batch
from layergroups._paths import is_within
from layergroups._torch import tree_flatten, tree_leaves, tree_map_only, tree_unflatten
from layergroups.anatomy import (
    Anatomy,
    eval_mode,
    is_vector,
    read_anatomy,
    restoring,
    spatial_size,
    unwrap,
)
from layergroups.data import data_source
from layergroups.errors import AnatomyError, LayerGroupsError
from layergroups.reports._images import Pixels, as_pixels, images_of, overlay
from layergroups.reports._protocols import Answering
from layergroups.tasks import output_names

_PREFIX_MOST = 16  # class and register tokens
_ASPECTS_APART = 0.3  # most by which the logarithms of height over width may differ


@dataclass(frozen=True)
class Place:
    """A module whose output is a spatial map of the image."""

    path: str
    layout: str  # "NCHW", "NHWC" or "NTC" (tokens)
    grid: tuple[int, int]  # height and width of the map
    prefix: int = 0  # tokens before those of the grid, such as a class token

    def as_map(self, tensor: Tensor) -> Tensor:
        """Reshape the module's output, or its gradient, to (N, C, H, W)."""
        if self.layout == "NHWC":
            return tensor.permute(0, 3, 1, 2)
        if self.layout == "NTC":
            tokens = tensor[:, self.prefix :].transpose(1, 2)
            return tokens.reshape(*tokens.shape[:2], *self.grid)
        return tensor


def grad_cam(
    model: nn.Module,
    images: Any,
    target: int | Sequence[int] | Tensor | None = None,
    *,
    anatomy: Anatomy | None = None,
) -> Tensor:
    """Heat maps of a class, one for each image; the model does not change.

    Args:
        model: from images to scores (N, classes), or of each pixel, (N, classes, H, W); frozen or
            not, in any mode.
        images: float (N, C, H, W), normalised; or all inputs of the model, a dict or a tuple.
        target: the class, one for all images or one for each; None for the predicted class. For a
            regression: index of the target. Of a mask the scores of all pixels count of which it is
            the most likely class (Vinogradova et al. 2020, "Towards Interpretable Semantic
            Segmentation via Gradient-weighted Class Activation Mapping").
        anatomy: of the model; None reads it.

    Returns:
        float32 (N, H, W) on the CPU, from 0, no support, to 1, the strongest support in each
        image. All 0 if no region supports the class.

    Raises:
        AnatomyError: the body has no spatial map, or the model does not return one row of scores
            for each image.
        LayerGroupsError: images or target are invalid.
    """
    return explained(model, images, target, anatomy)[0]


def explained(
    model: nn.Module,
    inputs: Any,
    target: int | Sequence[int] | Tensor | None = None,
    anatomy: Anatomy | None = None,
) -> tuple[Tensor, Place]:
    """The maps of `grad_cam`, and the module whose output they are from."""
    model, size = unwrap(model), _checked(inputs).shape[-2:]
    with torch.inference_mode(False):
        inputs = _like_weights(inputs, model)
        first = tree_map_only(Tensor, lambda t: t[:1], inputs)
        twice = tree_map_only(Tensor, lambda t: torch.cat([t, t]), first)
        if anatomy is None:
            anatomy = read_anatomy(model, twice)
        with eval_mode(model), restoring(model), torch.enable_grad():
            place = _find(model, twice, anatomy)
            features, gradient = _gradient_at(model, inputs, place, target)
    features, gradient = place.as_map(features).float(), place.as_map(gradient).float()
    if place.layout != "NTC":
        gradient = gradient.mean(dim=(2, 3), keepdim=True)
    small = (gradient * features).sum(dim=1, keepdim=True).relu()
    large = F.interpolate(small, size=tuple(size), mode="bilinear", align_corners=False)[:, 0]
    highest = large.amax(dim=(1, 2), keepdim=True)
    return (large / highest.clamp_min(torch.finfo(large.dtype).tiny)).clamp(0, 1).cpu(), place


def _find(model: nn.Module, twice: Any, anatomy: Anatomy) -> Place:
    found = list(_places(model, twice, anatomy))
    if not found:
        raise AnatomyError(
            f"Grad-CAM needs a spatial map; no block of the body of {anatomy.model} returns a map "
            "(N, C, H, W) or (N, H, W, C) or tokens (N, T, C) of more than one position. Output "
            "shapes: "
            f"{', '.join(f'{b.name} {b.shape}' for b in anatomy.body[-3:]) or 'none'}."
        )
    for place in reversed(found):
        _, gradient = _gradient_at(model, twice, place, None)
        if place.layout != "NTC" or bool(gradient[:, place.prefix :].any()) or not gradient.any():
            return place
    raise AnatomyError(
        f"Grad-CAM cannot explain {anatomy.model}: only class tokens affect its output, no tokens "
        "of the image."
    )


def _places(model: nn.Module, inputs: Any, anatomy: Anatomy) -> Iterator[Place]:
    shapes, images = _shapes(model, inputs), images_of(inputs)
    pieces = {path for block in anatomy.body for path in block.modules if path}
    pieces = {p for p in pieces if not any(o != p and is_within(o, p) for o in pieces)}
    head = [path for block in anatomy.head for path in block.modules if path]
    inside = [
        any(is_within(path, p) for p in pieces) and not any(is_within(path, p) for p in head)
        for path, _ in shapes
    ]
    aspect = images.shape[-2] / images.shape[-1]
    maps: list[tuple[int, int]] = []
    whole: list[Place] = []
    within: list[Place] = []
    for (path, shape), own in zip(shapes, inside, strict=True):
        place = _place(path, shape, len(images), maps, aspect) if own else None
        if place is not None:
            (whole if path in pieces else within).append(place)
        if len(shape) == 4 and shape[0] == len(images):
            maps.append((shape[2], shape[3]))
    yield from _with_first_norms(whole, within) if whole else within


def _with_first_norms(whole: Sequence[Place], within: Sequence[Place]) -> Iterator[Place]:
    """Add before each block of tokens its first layer.

    In a transformer that is a norm, which is the better map: in the block's input single channels
    outweigh all others.
    """
    for place in whole:
        first = next(
            (p for p in within if p.path != place.path and is_within(p.path, place.path)), None
        )
        if place.layout == "NTC" and first is not None and first.layout == "NTC":
            yield first
        yield place


def _place(
    path: str, shape: tuple[int, ...], n: int, maps: Sequence[tuple[int, int]], aspect: float
) -> Place | None:
    """The place of a module's output; None if it is not a spatial map."""
    if len(shape) not in (3, 4) or shape[0] != n or is_vector(shape):
        return None
    if len(shape) == 4:
        found = spatial_size(shape, aspect)
        height, width = (0, 0) if found is None else (int(found[0]), int(found[1]))
        layout = "NCHW" if (height, width) == shape[2:] else "NHWC"
        return Place(path, layout, (height, width)) if height * width > 1 else None
    grid = _grid(shape[1], maps, aspect)
    return None if grid is None else Place(path, "NTC", grid, shape[1] - grid[0] * grid[1])


def _grid(tokens: int, maps: Sequence[tuple[int, int]], aspect: float) -> tuple[int, int] | None:
    """Height and width of the grid of tokens, which class and register tokens may precede.

    It is the last of the earlier `maps` that fits, else the grid closest to the image's `aspect`.
    """
    for height, width in reversed(maps):
        fits = 0 <= tokens - height * width <= _PREFIX_MOST
        if fits and height * width > 1 and _alike(height / width, aspect):
            return height, width
    for prefix in range(min(_PREFIX_MOST, tokens - 2)):
        n = tokens - prefix
        height = max(1, round(math.sqrt(n * aspect)))
        if n % height == 0 and _alike(height * height / n, aspect):
            return height, n // height
    return None


def _alike(ratio: float, aspect: float) -> bool:
    return abs(math.log(ratio / aspect)) < _ASPECTS_APART


def _shapes(model: nn.Module, inputs: Any) -> list[tuple[str, tuple[int, ...]]]:
    """The shape of each module's first output, in order of execution."""
    seen: list[tuple[str, tuple[int, ...]]] = []
    paths = {module: path for path, module in model.named_modules() if path}

    def note(module: nn.Module, args: object, output: object) -> None:
        tensor = next((t for t in tree_leaves(output) if isinstance(t, Tensor)), None)
        if tensor is not None:
            seen.append((paths[module], tuple(tensor.shape)))

    with torch.no_grad(), _hooked(paths, note):
        run_model(model, inputs)
    return seen


def _gradient_at(
    model: nn.Module, inputs: Any, place: Place, target: int | Sequence[int] | Tensor | None
) -> tuple[Tensor, Tensor]:
    """The output of a place for the images, and the gradient of the target's score.

    The graph begins there, so the layers before it need no memory and get no gradient.
    """
    leaf: list[Tensor] = []

    def cut(module: nn.Module, args: object, output: object) -> object:
        leaves, spec = tree_flatten(output)
        at = next(i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        leaf[:] = [leaves[at].detach().clone().requires_grad_()]
        leaves[at] = leaf[0].clone()  # later layers may work in place
        return tree_unflatten(leaves, spec)

    copied = tree_map_only(Tensor, Tensor.clone, inputs)
    with _hooked([model.get_submodule(place.path)], cut):
        scores = _scores(call_model(model, copied), len(images_of(inputs)))
    chosen = _targets(target, scores)
    score = scores.gather(1, chosen[:, None]).sum()
    gradient = None
    if score.requires_grad:
        (gradient,) = torch.autograd.grad(score, leaf, allow_unused=True)
    if gradient is None:
        raise AnatomyError(
            f"Grad-CAM: the scores have no gradient with respect to {place.path}. A later layer is "
            "not differentiable, or runs under torch.no_grad()."
        )
    return leaf[0].detach(), gradient


def _scores(outputs: Any, n: int) -> Tensor:
    if isinstance(outputs, Tensor) and outputs.shape == (n,):
        return outputs[:, None]
    if isinstance(outputs, Tensor) and outputs.ndim == 2 and len(outputs) == n:
        return outputs
    if isinstance(outputs, Tensor) and outputs.ndim == 4 and len(outputs) == n:
        # Of a mask: how many pixels are of the class, with the gradient of their scores.
        here = F.one_hot(outputs.argmax(1), outputs.shape[1]).movedim(-1, 1)
        return ((outputs - outputs.detach() + 1) * here).sum((2, 3))
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    raise AnatomyError(
        f"Grad-CAM needs a model that returns one row of scores for each image, ({n}, classes), or "
        f"one of each pixel, ({n}, classes, H, W), not {shape}."
    )


def _targets(target: int | Sequence[int] | Tensor | None, scores: Tensor) -> Tensor:
    n, classes = scores.shape
    if target is None:
        return scores.detach().argmax(dim=1)
    cause = None
    try:
        given = torch.as_tensor(target)
        chosen = given.to(scores.device, torch.int64).expand(n)
        whole = not given.is_floating_point() and given.dtype != torch.bool
        if whole and bool(((chosen >= 0) & (chosen < classes)).all()):
            return chosen
    except (TypeError, ValueError, RuntimeError) as error:
        cause = error
    raise LayerGroupsError(
        f"target={target!r} must be a class from 0 to {classes - 1}, such as target=0, or {n} of "
        "them, or None for the predicted class."
    ) from cause


@contextmanager
def _hooked(modules: Iterable[nn.Module], hook: Callable[..., Any]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _checked(inputs: Any) -> Tensor:
    images: Any = inputs
    if isinstance(inputs, Mapping | tuple | list):
        images = images_of(inputs)
    if not isinstance(images, Tensor) or images.ndim != 4 or not images.is_floating_point():
        is_tensor = isinstance(images, Tensor)
        what = f"{images.dtype} {tuple(images.shape)}" if is_tensor else type(images).__name__
        raise LayerGroupsError(
            f"Grad-CAM takes images, float (N, C, H, W), not {what}. For a file: "
            "learn.grad_cam('image.jpg')."
        )
    if not len(images):
        raise LayerGroupsError("Grad-CAM needs at least one image, not a batch (0, C, H, W).")
    return images


def _like_weights(inputs: Any, model: nn.Module) -> Any:
    """The inputs copied, on the device and in the precision of the weights."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))

    def like(tensor: Tensor) -> Tensor:
        dtype = weight.dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(weight.device, dtype, copy=True)

    return tree_map_only(Tensor, like, inputs)


@dataclass(frozen=True, eq=False)
class HeatMap:
    """Which regions of an image support a class."""

    heat: Tensor  # float32 (H, W), 0..1; 1 is the strongest support
    pixels: Pixels  # the input image, float32 (H, W, 3), 0..1
    target: str  # name of the class
    predicted: str  # the prediction as text
    probability: float | None  # of the target, of a mask its mean; None for a regression
    layer: str  # path of the layer whose output was used

    def plot(self, path: str | Path | None = None) -> Path | Figure:
        """Draw the image, and beside it the image with the heat map; see `save_or_return`."""
        return drawing.save_or_return(self._figure(), path)

    def _figure(self) -> Figure:
        sure = [] if self.probability is None else [f"probability {self.probability:.2f}"]
        where = f"layer {self.layer}" if self.heat.any() else "no region supports it"
        lines = (*sure, where)
        tile = drawing.Tile(
            (self.pixels, overlay(self.pixels, self.heat)), self.target, None, lines
        )
        return drawing.draw_images(
            [tile], f"Evidence for {self.target}", f"Predicted: {self.predicted}"
        )

    def __repr__(self) -> str:
        height, width = self.heat.shape
        sure = "" if self.probability is None else f", probability {self.probability:.3f}"
        return f"HeatMap({height} x {width} for {self.target!r}{sure}, on {self.layer!r})"

    def _repr_png_(self) -> bytes:
        return drawing.png(self._figure(), dpi=100)


def heat_map(learn: Answering, item: Any, target: int | str | None = None) -> HeatMap:
    """Which regions of an image support a class; see `Learner.grad_cam`."""
    data, task = data_source(learn.dls), learn.task
    batch = single_batch(item)
    image = _checked(batch)[0]
    predictions: Tensor = learn.get_preds([(batch, None)])[0]
    is_mask = predictions.ndim == 4
    values = predictions.mean((2, 3))[0] if is_mask else predictions.reshape(-1)
    names = output_names(data.vocab, len(values))
    number = int(values.argmax()) if target is None else _number(target, data.vocab, len(values))
    rows = predictions if is_mask else predictions.reshape(1, -1)
    decision = task.decide(rows, learn.thresh)[0]
    heat, place = explained(learn.model, batch, number, learn.layer_groups.anatomy)
    return HeatMap(
        heat=heat[0],
        pixels=as_pixels(image, data.input),
        target=names[number],
        predicted=task.text(decision, names),
        probability=None if task.confidence(values) is None else float(values[number]),
        layer=place.path,
    )


def _number(target: object, names: tuple[str, ...], n: int) -> int:
    if isinstance(target, str) and target in names:
        return names.index(target)
    if isinstance(target, Tensor) and target.numel() == 1:
        target = target.item()
    number = target if isinstance(target, int) and not isinstance(target, bool) else -1
    if not 0 <= number < n:
        known: Any = ", ".join(map(repr, names[:10])) or f"0 to {n - 1}"
        raise LayerGroupsError(
            f"target={target!r} is not one of the classes {known}: "
            f"learn.grad_cam(item, target={names[0] if names else 0!r})."
        )
    return number
