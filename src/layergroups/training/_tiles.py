"""Predictions of large images by tiles that overlap, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import default_collate

from layergroups._checks import number
from layergroups.data import Array, Picture, Size, as_size, height_and_width
from layergroups.training.hardware import keep_freed_memory
from layergroups.training.loop import predict_all
from layergroups.training.state import LearnerState

_AT_ONCE: Final = 4  # tiles in a forward pass


def tiled_prediction(learner: LearnerState, item: Any, tile: int | Size, overlap: float) -> Any:
    """See `Learner.predict`."""
    number("overlap", overlap, 0, 0.9, 0.25)
    picture = learner.data.opened(item)
    size = height_and_width(picture)
    # A larger tile would be filled up with repeated pixels, and the image squeezed in it.
    rows, columns = map(min, as_size(tile, "tile"), size)
    strips = _strips(learner, picture, (rows, columns), overlap)
    with keep_freed_memory():
        made = learner.task.joined(strips, size, learner.data.vocab, learner.thresh)
    return learner.data.placed(made, item)


def _strips(
    learner: LearnerState, picture: Picture, tile: Size, overlap: float
) -> Iterator[Tensor]:
    """Probabilities (C, h, width) of the rows of an image from the top on, h at most a tile's.

    Where tiles overlap, the weight of each falls linearly towards its ends.
    """
    height, width = height_and_width(picture)
    (tops, lefts) = (_starts(*each, overlap) for each in ((height, tile[0]), (width, tile[1])))
    weight = _ramp(tile[0], overlap)[:, None] * _ramp(tile[1], overlap)
    total, weights = None, torch.zeros(tile[0], max(width, tile[1]))
    for top, below in zip(tops, [*tops[1:], height], strict=True):
        for first in range(0, len(lefts), _AT_ONCE):
            some = lefts[first : first + _AT_ONCE]
            parts = [_window(picture, top, left, tile) for left in some]
            batch = default_collate([learner.data.load(part) for part in parts])
            for left, found in zip(some, predict_all(learner, [(batch, None)])[0], strict=True):
                if total is None:
                    total = torch.zeros(len(found), *weights.shape)
                full = F.interpolate(found[None].float(), size=tile, mode="bilinear")[0]
                total[..., left : left + tile[1]] += full * weight
                weights[:, left : left + tile[1]] += weight
        done = below - top
        assert total is not None
        yield (total[:, :done] / weights[:done])[..., :width]
        for kept in (total, weights):
            kept.copy_(torch.cat([kept[..., done:, :], torch.zeros_like(kept[..., :done, :])], -2))


def _starts(length: int, tile: int, overlap: float) -> list[int]:
    """Where the tiles along a side begin, evenly, so that they overlap at least that much."""
    spare = max(0, length - tile)
    gaps = math.ceil(spare / max(1, int(tile * (1 - overlap))))
    return [round(i * spare / gaps) for i in range(gaps + 1)] if gaps else [0]


def _ramp(side: int, overlap: float) -> Tensor:
    places = torch.arange(side) + 0.5
    return (torch.minimum(places, side - places) / max(1, side * overlap)).clamp(max=1)


def _window(picture: Picture, top: int, left: int, tile: Size) -> Array:
    """A part of an image; beyond its ends the last pixels are repeated."""
    height, width = height_and_width(picture)
    bottom, right = min(height, top + tile[0]), min(width, left + tile[1])
    part: Array = (
        picture[top:bottom, left:right] if isinstance(picture, np.ndarray)
        else np.asarray(picture.crop((left, top, right, bottom)))
    )  # fmt: skip
    missing = (tile[0] - (bottom - top), tile[1] - (right - left))
    ends = [(0, missing[0]), (0, missing[1]), (0, 0)][: part.ndim]
    return np.pad(part, ends, mode="edge") if any(missing) else part
