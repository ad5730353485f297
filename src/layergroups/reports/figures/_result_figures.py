"""Figures of results: confusion matrix, calibration, predicted against actual numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from layergroups import _drawing as drawing
from layergroups._drawing import Axes, Figure
from layergroups.tasks import Calibration, OutputErrors

if TYPE_CHECKING:
    from torch import Tensor


_CELL = 0.52  # inches
_SIDE = 10.4  # inches of a large matrix
_MAX_NUMBERS = 40  # classes up to which cells show numbers
_MAX_NAMES = 65  # classes up to which all are named
_PLOT = 3.6  # inches of a square plot
_MAX_TARGETS = 4
_MAX_LINES = 200  # items up to which each is connected to the diagonal
_QUARTERS = (0, 0.25, 0.5, 0.75, 1)


def confusion_matrix_picture(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], path: str | Path
) -> Path:
    """Draw how many items of each class were predicted as each class.

    Rows are actual classes, columns predicted classes. Cells on the diagonal are blue, errors
    orange; a darker cell is a larger fraction of its row.
    """
    path = drawing.check_ending(path)
    return drawing.save(draw_confusion(matrix, classes), path)


def draw_confusion(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], what: str = "items"
) -> Figure:
    n = len(classes)
    step = -(-n // _MAX_NAMES)
    side = n * _CELL if n <= 20 else _SIDE
    letters = 10.0 if n <= 20 else max(4.0, side / n * step * 20)
    names = [drawing.fitted(name, 1.9, letters) for name in classes[::step]]
    counts = np.array(matrix)
    total = int(counts.sum())
    accuracy = f"{counts.trace() / total:.1%}" if total else "none"
    title = f"{accuracy} of {total:,d} {what} are correct"
    room = max(map(len, names)) * letters / 110 + 0.5  # of the names, inches
    size = (max(side + room, 5.0), side + room)
    figure = drawing.new_figure(*size, title, "blue: correct, orange: errors")
    axes = figure.subplots()
    _draw_cells(axes, counts, letters if n <= _MAX_NUMBERS else 0)
    places = [i + 0.5 for i in range(0, n, step)]
    words: dict[str, Any] = {"fontsize": letters, "color": drawing.INK, "parse_math": False}
    axes.set_yticks(places, names, **words)
    axes.set_xticks(places, names, rotation=90 if max(map(len, names)) > 4 else 0, **words)
    axes.set_xlabel("predicted", fontsize=10, color=drawing.GREY, labelpad=6)
    axes.set_ylabel("actual", fontsize=10, color=drawing.GREY, labelpad=6)
    axes.tick_params(which="both", length=0, pad=5)
    axes.spines[:].set_visible(False)
    return figure


def _draw_cells(axes: Axes, counts: Any, letters: float) -> None:
    """Draw one image, not a patch for each cell: a thousand classes have a million cells."""
    from matplotlib.colors import to_rgb

    n = len(counts)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    diagonal = np.eye(n, dtype=bool)
    strength = np.where(diagonal, shares, np.minimum(1, 2 * shares))[..., None]
    full = np.where(diagonal[..., None], to_rgb(drawing.BLUE), to_rgb(drawing.ORANGE))
    colours = 0.965 + (full - 0.965) * np.where(strength, 0.04 + 0.96 * strength, 0)
    axes.imshow(colours, extent=(0, n, n, 0), interpolation="nearest")
    if n <= _MAX_NAMES:
        edges = range(n + 1)
        axes.set_xticks(edges, minor=True)
        axes.set_yticks(edges, minor=True)
        axes.grid(which="minor", color="white", lw=1.2)
    for i, j in zip(*counts.nonzero(), strict=True) if letters else ():
        dark = shares[i, j] > (0.45 if i == j else 0.3)
        axes.text(
            j + 0.5, i + 0.52, str(counts[i, j]), ha="center", va="center",
            fontsize=letters, color="white" if dark else drawing.INK,
        )  # fmt: skip


def draw_calibration(calibration: Calibration) -> Figure:
    """Draw the accuracy at each confidence, and the number of predictions."""
    figure = drawing.new_figure(4.6, 5.4, "Calibration", calibration.caption)
    axes, counts = figure.subplots(2, 1, height_ratios=(5, 1))
    axes.plot([0, 1], [0, 1], color=drawing.GREY, lw=1, ls=(0, (4, 3)), zorder=3)
    for each in calibration.bins:
        wide = (each.high - each.low) * 0.92
        counts.bar(each.low, each.count, wide, align="edge", color="#b9c2ca")
        if each.confidence is None or each.accuracy is None:
            continue
        axes.bar(each.low, each.accuracy, wide, align="edge", color="#9cc4e4", zorder=2)
        centre, ends = each.low + wide / 2, sorted((each.accuracy, each.confidence))
        axes.plot([centre, centre], ends, color=drawing.ORANGE, lw=2, zorder=4)
        axes.plot([centre], [each.accuracy], "o", color=drawing.BLUE, ms=4.5, zorder=5)
    axes.text(0.03, 0.94, "orange: gap to the diagonal", fontsize=8.5, color=drawing.ORANGE)
    most = max((b.count for b in calibration.bins), default=0)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    counts.set(xlim=(0, 1), ylim=(0, max(1, most) * 1.05))
    axes.set(xticks=_QUARTERS, yticks=_QUARTERS, xticklabels=[])
    counts.set(xticks=_QUARTERS, yticks=[0, most] if most else [0])
    drawing.style_axes(axes, "", "accuracy")
    drawing.style_axes(counts, "confidence", "count")
    return figure


def draw_residuals(predicted: Tensor, actual: Tensor, errors: Sequence[OutputErrors]) -> Figure:
    """Draw predicted against actual numbers (N, K), a plot for each target."""
    shown = errors[:_MAX_TARGETS]
    more = f"; {len(shown)} of {len(errors)} targets" if len(shown) < len(errors) else ""
    note = f"{len(predicted)} items; on the line, predicted equals actual{more}"
    width = max(5.0, len(shown) * (_PLOT + 0.9))
    figure = drawing.new_figure(width, _PLOT + 0.9, "Predicted and actual", note)
    for k, axes in enumerate(figure.subplots(1, len(shown), squeeze=False)[0]):
        _draw_target(axes, predicted[:, k], actual[:, k], shown[k])
    return figure


def _draw_target(axes: Axes, predicted: Tensor, actual: Tensor, row: OutputErrors) -> None:
    from matplotlib.ticker import MaxNLocator

    x, y = actual.double().numpy(), predicted.double().numpy()
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    room = (high - low) * 0.05 or 1.0
    limits = (low - room, high + room)
    axes.plot(limits, limits, color=drawing.GREY, lw=1, ls=(0, (4, 3)))
    if len(x) <= _MAX_LINES:
        axes.vlines(x, np.minimum(x, y), np.maximum(x, y), drawing.ORANGE, lw=0.8, alpha=0.5)
    alpha = 0.85 if len(x) <= _MAX_LINES else max(0.08, _MAX_LINES / len(x))
    axes.plot(x, y, "o", color=drawing.BLUE, ms=4, alpha=alpha, mew=0)
    axes.set(xlim=limits, ylim=limits, box_aspect=1)
    ticks = [t for t in MaxNLocator(5).tick_values(*limits) if limits[0] <= t <= limits[1]]
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    r2 = "" if row.r2 is None else f", R² {row.r2:.3f}"
    words = f"{drawing.fitted(row.name, 1.4, 9.5)}: mean absolute error {row.mean_absolute:.3g}{r2}"
    axes.set_title(
        drawing.fitted(words, _PLOT, 9.5), fontsize=9.5, color=drawing.INK, loc="left",
        parse_math=False,
    )  # fmt: skip
    drawing.style_axes(axes, "actual", "predicted")
