"""Find items of batches by position, and convert their images to pixels for display."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import default_collate

from layergroups._drawing import under_mask
from layergroups._formatting import first_few
from layergroups._forward import count_items, split_batch
from layergroups._torch import tree_leaves, tree_map_only
from layergroups.data import IndexedBatches
from layergroups.errors import LayerGroupsError
from layergroups.input_spec import InputSpec

Pixels = NDArray[np.float32]


def inputs_at(
    batches: Iterable[Any], positions: Sequence[int], targets: Tensor | None = None
) -> Any:
    """Items of batches in a fixed order, by position, as one batch of inputs of the model.

    Batches with a method `at(positions)` load only these items. The targets of an earlier pass
    show whether the order is the same.
    """
    with torch.random.fork_rng(devices=[]):  # a loader may draw its order
        if isinstance(batches, IndexedBatches):
            inputs, known = split_batch(batches.at(positions))
        else:
            inputs, known = _picked(batches, positions)
    if targets is not None and known is not None:
        wanted = targets[torch.tensor(list(positions), dtype=torch.int64)]
        if wanted.shape != known.shape or not torch.equal(wanted, known.to(wanted)):
            raise LayerGroupsError(
                "The order of the batches differs between passes, so their items cannot be found. "
                "Use a fixed order: a DataLoader with shuffle=False."
            )
    return inputs


def _picked(batches: Iterable[Any], positions: Sequence[int]) -> tuple[Any, Tensor | None]:
    count, found = 0, {}
    wanted = set(positions)
    for count, item in enumerate(each_of(batches), start=1):
        if count - 1 in wanted:
            found[count - 1] = item
        if len(found) == len(wanted):
            return collated([found[p] for p in positions])
    raise LayerGroupsError(
        f"Item {min(wanted - set(found))} is missing: this pass had {count} items. Use batches "
        "that can be iterated more than once, such as a list or a DataLoader."
    )


def each_of(batches: Iterable[Any]) -> Iterator[tuple[Any, Tensor | None]]:
    """Yield the inputs of each item of the batches, without a batch dimension, and its target."""
    for batch in batches:
        inputs, targets = split_batch(batch)
        for i in range(count_items(batch)):
            item = tree_map_only(Tensor, itemgetter(i), inputs)
            yield item, None if targets is None else targets[i]


def collated(items: Sequence[tuple[Any, Tensor | None]]) -> tuple[Any, Tensor | None]:
    inputs = default_collate([inputs for inputs, _ in items])
    known = [target for _, target in items if target is not None]
    return inputs, torch.stack(known) if known else None


def images_of(inputs: Any) -> Tensor:
    """The images (N, C, H, W) among the inputs of a model: the first such tensor."""
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    found = [t for t in tensors if t.ndim == 4 and t.is_floating_point()]
    if not found:
        shapes = first_few(f"{t.dtype} {tuple(t.shape)}" for t in tensors) or type(inputs).__name__
        raise LayerGroupsError(
            f"The inputs hold no images, float (N, C, H, W), but {shapes}: nothing can be drawn. "
            "For other items: learn.get_preds(), interp.top_losses(9); for texts interp.words(0)."
        )
    return found[0]


def as_pixels(image: Tensor, spec: InputSpec | None) -> Pixels:
    """Convert a normalised input (C, H, W) to pixels for display, float32 (H, W, 3), 0..1.

    Shows the first three channels, or the first of one or two. Without statistics for them the
    values are scaled from the darkest to the lightest.
    """
    shown = image.detach().float().cpu()
    if spec is not None and len(spec.mean) == len(shown):
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        shown = shown * std[:, None, None] + mean[:, None, None]
    else:
        low, high = shown.min(), shown.max()
        shown = (shown - low) / (high - low).clamp_min(1e-6)
    shown = shown[:3] if len(shown) >= 3 else shown[:1].expand(3, -1, -1)
    return shown.clamp(0, 1).permute(1, 2, 0).contiguous().numpy()


def overlay(pixels: Pixels, heat: Tensor) -> Pixels:
    """Draw a heat map over an image: coloured regions support the class.

    The image is grey, so its colours cannot be mistaken for heat.
    """
    from matplotlib import colormaps

    strength = heat.float().cpu().numpy()[..., None]
    colours = colormaps["inferno"](0.35 + 0.55 * strength[..., 0])[..., :3]
    grey = pixels @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
    cover = 0.72 * strength
    mixed = (0.08 + 0.84 * grey) * (1 - cover) + colours * cover
    return np.asarray(np.clip(mixed, 0, 1), dtype=np.float32)


_DIFFERENT = (0.9, 0.45, 0.1)
MASKS_SHOWN = "Each: image, actual mask, predicted mask, and in orange where they differ"


def mask_pictures(
    pixels: Pixels,
    actual: Tensor | None,
    predicted: Tensor,
    colours: Sequence[tuple[int, int, int]],
) -> tuple[Pixels, ...]:
    """An image under its actual and its predicted mask, and where they differ.

    Args:
        pixels: the image (H, W, 3).
        actual: its mask (H, W) or (C, H, W), see `under_mask`; None if unknown.
        predicted: likewise.
        colours: of the classes.
    """
    masks = [predicted] if actual is None else [actual, predicted]
    made = [under_mask(pixels, mask.numpy(), colours) for mask in masks]
    if actual is not None:
        differ = (actual != predicted) & (actual >= 0)
        made.append(marked_pixels(pixels, differ.any(dim=0) if differ.ndim == 3 else differ))
    return tuple(made)


def marked_pixels(pixels: Pixels, where: Tensor) -> Pixels:
    """A grey image, orange at some of its pixels (H, W)."""
    grey = 0.25 + 0.5 * pixels.mean(axis=2, keepdims=True)
    orange = np.array(_DIFFERENT, np.float32)
    return np.where(where.numpy()[..., None], orange, grey.repeat(3, axis=2))


@dataclass(frozen=True)
class LengthRow:
    """Texts of similar length, in words."""

    shortest: int
    longest: int
    items: int
    loss: float
    correct: float | None  # share of them; None for numbers


@dataclass(frozen=True)
class TopLoss:
    index: int  # its position in the batches, and in `Interpretation.predictions`
    path: Path | None  # its file; None if unknown
    actual: str  # its class, labels or targets, as text
    predicted: str  # likewise of the prediction
    # of the predicted class or the most probable label, 0..1; None for numbers
    probability: float | None
    loss: float  # its loss
    text: str = ""  # itself, if it is a text
    iou: float | None = None  # of its mask; see `Interpretation.ious`

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"path": None if self.path is None else str(self.path)}
