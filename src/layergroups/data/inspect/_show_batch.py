"""A batch as a picture: images as the network sees them, with their labels."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from layergroups import _drawing as drawing
from layergroups._paths import path_of
from layergroups.errors import DataError, LayerGroupsError
from layergroups.input_spec import InputSpec
from layergroups.tasks import Task

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_SIDE = 2.0  # inches of an image
_LETTERS = 9.0  # points
_LABELS_SHOWN = 4


@dataclass(frozen=True, eq=False)
class BatchPicture:
    """A drawn batch; a notebook shows it.

    Attributes:
        figure: of matplotlib.
        labels: the text above each image.
    """

    figure: Figure
    labels: tuple[str, ...]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as .png, .svg or .pdf; missing folders are made.

        Raises:
            DataError: another ending, or the file cannot be written.
        """
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
    return BatchPicture(_draw(_pixels(x, spec), labels), labels)


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


def _draw(images: Sequence[Any], labels: Sequence[str]) -> Figure:
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    height, width = images[0].shape[:2]
    wide = _SIDE * min(1.6, max(1.0, width / height))
    texts = [_lines(label, wide) for label in labels]
    above = 0.1 + 0.16 * max(text.count("\n") + 1 for text in texts)
    high = wide * height / width + above
    gap = 0.12
    total = (columns * (wide + gap) + gap, rows * (high + gap) + gap)
    figure = drawing.new_figure(*total)
    for i, (image, text) in enumerate(zip(images, texts, strict=True)):
        left, top = gap + (i % columns) * (wide + gap), gap + (i // columns) * (high + gap) + above
        axes = drawing.axes_at(figure, left, top, wide, high - above)
        axes.imshow(image, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        axes.set_axis_off()
        # No mathematics in the names of classes.
        axes.set_title(
            text, fontsize=_LETTERS, color=drawing.INK, loc="left", pad=3, parse_math=False
        )
    return figure


def _lines(text: str, width: float) -> str:
    import textwrap

    letters = max(8, int(width * 72 / (_LETTERS * 0.56)))
    return "\n".join(textwrap.wrap(text, letters, max_lines=3, placeholder=" …")) or " "
