"""Get input images from batches by position, and convert them to pixels for display."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layergroups.data import IndexedBatches, paths_of
from layergroups.errors import LayerGroupsError
from layergroups.input_spec import InputSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.float32]


def images_at(
    batches: Iterable[Any], positions: Sequence[int], targets: Tensor | None = None
) -> Tensor:
    """Images of batches in a fixed order, by position, as network inputs.

    Args:
        batches: `dls.valid`, or any re-iterable batches (inputs, targets) or of inputs only. If
            they have a method `at(positions)`, only these images are loaded.
        positions: of the images, counted through all batches.
        targets: of all images in an earlier pass, to check that the order is the same.

    Returns:
        (len(positions), C, H, W), in the order of the positions.

    Raises:
        LayerGroupsError: the batches cannot be iterated again, or have a different order.
    """
    with torch.random.fork_rng(devices=[]):  # a loader may draw its order
        if isinstance(batches, IndexedBatches):
            images, known = _taken(batches.at(positions))
        else:
            images, known = _picked(batches, positions)
    if targets is not None and known is not None:
        wanted = targets[torch.tensor(list(positions), dtype=torch.int64)]
        if wanted.shape != known.shape or not torch.equal(wanted, known.to(wanted)):
            raise LayerGroupsError(
                "The order of the batches differs between passes, so their images cannot be found. "
                "Use a fixed order: a DataLoader with shuffle=False."
            )
    return images


def _taken(batch: Any) -> tuple[Tensor, Tensor | None]:
    return (batch[0], batch[1]) if isinstance(batch, (tuple, list)) else (batch, None)


def _picked(batches: Iterable[Any], positions: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    left, count = set(positions), 0
    images: dict[int, Tensor] = {}
    targets: dict[int, Tensor] = {}
    for count, (image, target) in enumerate(each_of(batches), start=1):
        if count - 1 in left:
            images[count - 1] = image
            if target is not None:
                targets[count - 1] = target
            left.discard(count - 1)
        if not left:
            break
    if left:
        raise LayerGroupsError(
            f"Image {min(left)} is missing: this pass had {count} images. Use batches that can be "
            "iterated more than once, such as a list or a DataLoader."
        )
    stacked = torch.stack([images[p] for p in positions])
    return stacked, torch.stack([targets[p] for p in positions]) if targets else None


def each_of(batches: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield each image of the batches with its target."""
    for batch in batches:
        inputs, targets = _taken(batch)
        for i, image in enumerate(inputs):
            yield image, None if targets is None else targets[i]


def files_of(batches: object, n: int) -> tuple[Path | None, ...]:
    """The file of each of n images; None if unknown."""
    known = paths_of(batches)
    return known if len(known) == n else (None,) * n


def as_pixels(image: Tensor, spec: InputSpec | None) -> Pixels:
    """Convert a network input to pixels for display.

    Args:
        image: (C, H, W), normalised. Shows the first three channels, or the first of one or two.
        spec: with the mean and standard deviation of the normalisation; None scales the values
            from the darkest to the lightest.

    Returns:
        float32 (H, W, 3), from 0 to 1.
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

    Args:
        pixels: (H, W, 3), from 0 to 1.
        heat: (H, W), from 0 to 1.
    """
    from matplotlib import colormaps

    strength = heat.float().cpu().numpy()[..., None]
    colours = colormaps["inferno"](0.35 + 0.55 * strength[..., 0])[..., :3]
    grey = pixels @ np.array([[0.299], [0.587], [0.114]], dtype=np.float32)
    cover = 0.72 * strength
    mixed = (0.08 + 0.84 * grey) * (1 - cover) + colours * cover
    return np.asarray(np.clip(mixed, 0, 1), dtype=np.float32)


@dataclass(frozen=True)
class TopLoss:
    """An item with one of the largest losses.

    Attributes:
        index: its position in the batches, and in `Interpretation.predictions`.
        path: its file; None if unknown.
        actual: its class, labels or targets, as text.
        predicted: likewise of the prediction.
        probability: of the predicted class or the most probable label, 0..1; None for numbers.
        loss: its loss.
    """

    index: int
    path: Path | None
    actual: str
    predicted: str
    probability: float | None
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return asdict(self) | {"path": None if self.path is None else str(self.path)}


def threshold_of(learn: object) -> float:
    """The probability above which a learner predicts a label."""
    return float(getattr(learn, "thresh", 0.5))
