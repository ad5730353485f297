"""A batch as a picture: images as the network sees them, with their labels."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from layergroups import _drawing as drawing
from layergroups._drawing import Figure
from layergroups._paths import path_of
from layergroups.errors import DataError, LayerGroupsError
from layergroups.input_spec import InputSpec
from layergroups.tasks import Task

_LETTERS = 24  # in a line below an image
_LABELS_SHOWN = 4


@dataclass(frozen=True, eq=False)
class BatchPicture:
    """A drawn batch; a notebook shows it."""

    figure: Figure  # of matplotlib
    labels: tuple[str, ...]  # the text below each image

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as .png, .svg or .pdf; missing folders are made."""
        path = path_of(path, DataError, 'show_batch("batch.png")')
        try:
            return drawing.save(self.figure, drawing.check_ending(path), dpi=130)
        except LayerGroupsError as cause:
            raise DataError(str(cause)) from cause.__cause__

    def _repr_png_(self) -> bytes:
        return drawing.png(self.figure, dpi=90)


def draw_batch(
    x: torch.Tensor, y: torch.Tensor, task: Task, vocab: Sequence[str], spec: InputSpec
) -> BatchPicture:
    """A batch as a picture; the arguments are those of the data."""
    labels = tuple(label_text(target, task, vocab) for target in y)
    pictures: list[tuple[Any, ...]] = [(image,) for image in _pixels(x, spec)]
    if task.per_pixel:
        masks = y.cpu().numpy()
        pictures = [
            (image, drawing.under_mask(image, mask, task.colours(len(vocab))))
            for (image,), mask in zip(pictures, masks, strict=True)
        ]
    tiles = [_tile(shown, label) for shown, label in zip(pictures, labels, strict=True)]
    columns = math.ceil(math.sqrt(len(tiles)))
    return BatchPicture(drawing.draw_images(tiles, columns=columns), labels)


def label_text(target: torch.Tensor, task: Task, vocab: Sequence[str]) -> str:
    """A target in words: a class, labels, or numbers with their names."""
    words = task.words(target, vocab)
    more = f" +{len(words) - _LABELS_SHOWN}" if len(words) > _LABELS_SHOWN else ""
    return ", ".join(words[:_LABELS_SHOWN]) + more if words else f"(no {task.one})"


def _pixels(x: torch.Tensor, spec: InputSpec) -> list[Any]:
    """Normalised images (N, C, H, W) as arrays to draw, (H, W) grey or (H, W, 3), from 0 to 1.

    Of two or of more than three channels the first one or three are shown, each stretched from its
    darkest to its brightest percent.
    """
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (spec.mean, spec.std))
    pixels = x * std + mean
    if x.shape[1] not in (1, 3):
        pixels = pixels[:, : 3 if x.shape[1] > 3 else 1]
        low, high = (pixels.flatten(2).quantile(q, -1)[..., None, None] for q in (0.01, 0.99))
        pixels = (pixels - low) / (high - low).clamp(min=1e-8)
    arrays = pixels.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    return [array[..., 0] if array.shape[-1] == 1 else array for array in arrays]


def _tile(pictures: tuple[Any, ...], label: str) -> drawing.Tile:
    first, *rest = textwrap.wrap(label, _LETTERS, max_lines=3, placeholder=" …") or [" "]
    return drawing.Tile(pictures, first, lines=tuple(rest))
