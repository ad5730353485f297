"""Images as a network has seen them: taken from batches again, and turned back into pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from layergroups.errors import LayerGroupsError
from layergroups.input_spec import InputSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Pixels = NDArray[np.float32]


def images_at(
    batches: Iterable[Any], positions: Sequence[int], targets: Tensor | None = None
) -> Tensor:
    """Some images of batches that keep their order, as the network takes them.

    Args:
        batches: `dls.valid`, or any batches (inputs, targets) or of inputs only that can be gone
            through again. Those with a method `at(positions)` make these images only.
        positions: which images, counted through all batches.
        targets: of all images as they were at an earlier pass, to see that the order is the same.

    Returns:
        (len(positions), C, H, W), in the order of the positions.

    Raises:
        LayerGroupsError: the batches cannot be gone through again, or come in another order.
    """
    at = getattr(batches, "at", None)
    found = _taken(at(positions)) if callable(at) else _picked(batches, positions)
    images, known = found
    if targets is not None and known is not None:
        wanted = targets[torch.tensor(list(positions), dtype=torch.int64)]
        if wanted.shape != known.shape or not torch.equal(wanted, known.to(wanted)):
            raise LayerGroupsError(
                "The batches come in another order at each pass, so their images cannot be found "
                "again. Give batches that keep their order: a DataLoader with shuffle=False."
            )
    return images


def _taken(batch: Any) -> tuple[Tensor, Tensor | None]:
    return (batch[0], batch[1]) if isinstance(batch, (tuple, list)) else (batch, None)


def _picked(batches: Iterable[Any], positions: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """The items at the positions; goes no further than the last of them."""
    left, start = set(positions), 0
    images: dict[int, Tensor] = {}
    targets: dict[int, Tensor] = {}
    for batch in batches:
        inputs, known = _taken(batch)
        for position in [p for p in left if start <= p < start + len(inputs)]:
            images[position] = inputs[position - start]
            if known is not None:
                targets[position] = known[position - start]
            left.discard(position)
        start += len(inputs)
        if not left:
            break
    if left:
        raise LayerGroupsError(
            f"There is no image {min(left)} in the batches any more: they gave {start} images in "
            "this pass. Give batches that can be gone through more than once, such as a list or a "
            "DataLoader."
        )
    stacked = torch.stack([images[p] for p in positions])
    return stacked, torch.stack([targets[p] for p in positions]) if targets else None


def paths_of(batches: object, n: int) -> tuple[Path | None, ...]:
    """The file of each of n images, None where the batches do not know it."""
    known = tuple(getattr(batches, "paths", ()) or ())
    return tuple(map(Path, known)) if len(known) == n else (None,) * n


def as_pixels(image: Tensor, spec: InputSpec | None) -> Pixels:
    """An image as a network takes it, as pixels that a person can look at.

    Args:
        image: (C, H, W), normalised; one or three channels. Of more, the first three are shown, of
            two the first.
        spec: whose mean and standard deviation were used; without it the values are spread from
            the darkest to the lightest.

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
    """A picture with a heat map laid over it: what is warm spoke for the class.

    What did not speak stays as it is, only paler, so that the photo can still be made out.

    Args:
        pixels: (H, W, 3), from 0 to 1.
        heat: (H, W), from 0 to 1.
    """
    from matplotlib import colormaps

    strength = heat.float().cpu().numpy()[..., None]
    colours = colormaps["inferno"](0.25 + 0.7 * strength[..., 0])[..., :3]
    cover = 0.7 * np.clip(strength * 1.6 - 0.15, 0, 1)
    pale = pixels * 0.75 + 0.25 * pixels.mean(axis=2, keepdims=True)
    mixed = pale * (1 - cover) + colours * cover
    return np.asarray(np.clip(mixed, 0, 1), dtype=np.float32)
