"""Training curves: losses, metrics and learning rates over the epochs of a fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle

from layergroups import _drawing as drawing
from layergroups._drawing import Axes, Figure
from layergroups.reports._protocols import EpochRow

_METRICS = ("#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#0b559f", "#7f7f7f")  # Okabe and Ito's
_SMOOTH = 0.9


def curves_png(
    rows: Sequence[EpochRow],
    places: Sequence[float],
    losses: Sequence[float],
    groups: Sequence[str],
    dpi: int = 200,
) -> bytes:
    return drawing.png(draw_curves(rows, places, losses, groups), dpi)


def draw_curves(
    rows: Sequence[EpochRow],
    places: Sequence[float],
    losses: Sequence[float],
    groups: Sequence[str],
) -> Figure:
    """Draw losses, and beside them metrics and rates, if any.

    `places` are those of `losses`, in epochs: 1.5 is the middle of the second.
    """
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    titles = ["loss", *(["metrics"] if names else [])]
    titles += ["highest learning rate"] if any(row.lrs for row in rows) else []
    figure = drawing.new_figure(3.6 * len(titles) + 0.2, 2.9)
    for axes, title in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles, strict=True):
        if title == "loss":
            _draw_losses(axes, rows, places, losses)
        elif title == "metrics":
            for name, colour in zip(names, cycle(_METRICS), strict=False):
                _line(axes, [row.metrics.get(name) for row in rows], colour, name)
        else:
            _draw_rates(axes, rows, groups)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=drawing.INK)
        _finish(axes)
    return figure


def _draw_losses(
    axes: Axes, rows: Sequence[EpochRow], places: Sequence[float], losses: Sequence[float]
) -> None:
    if losses:
        axes.plot(places, losses, color=drawing.BLUE, alpha=0.18, lw=0.8)
        axes.plot(places, _smoothed(losses), color=drawing.BLUE, lw=1.4, label="training")
    else:
        _line(axes, [row.train_loss for row in rows], drawing.BLUE, "training")
    _line(axes, [row.valid_loss for row in rows], drawing.ORANGE, "validation")
    valid = [row.valid_loss for row in rows if row.valid_loss is not None]
    finite = [value for value in (*_smoothed(losses), *valid) if math.isfinite(value)]
    if finite:
        axes.set_ylim(min(0.0, min(finite)), max(finite) * 1.08 or 1.0)


def _draw_rates(axes: Axes, rows: Sequence[EpochRow], groups: Sequence[str]) -> None:
    n = max(len(row.lrs) for row in rows)
    colours = drawing.group_colours(n - 1, has_head=True)
    known = list(groups) if len(groups) == n else [str(i) for i in range(n)]
    for index, (name, colour) in enumerate(zip(known, colours, strict=True)):
        trained = [index < len(row.lrs) and not any(row.frozen[index : index + 1]) for row in rows]
        values = [
            row.lrs[index] or None if t else None for row, t in zip(rows, trained, strict=True)
        ]
        _line(axes, values, colour, drawing.fitted(name, 1.2, 8))
    if any(value for row in rows for value in row.lrs):
        axes.set_yscale("log")


def _line(axes: Axes, values: Sequence[float | None], colour: str, label: str) -> None:
    known = [(i + 1, v) for i, v in enumerate(values) if v is not None and math.isfinite(v)]
    if known:
        axes.plot(*zip(*known, strict=True), color=colour, marker="o", ms=3.5, lw=1.4, label=label)


def _finish(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    drawing.style_axes(axes, "epochs", "")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if axes.get_legend_handles_labels()[1]:
        axes.legend(fontsize=8, frameon=False, labelcolor=drawing.INK)


def _smoothed(losses: Sequence[float]) -> list[float]:
    """A bias-corrected exponential moving average."""
    found, mean = [], 0.0
    for number, loss in enumerate(losses, 1):
        mean = _SMOOTH * mean + (1 - _SMOOTH) * loss
        found.append(mean / (1 - _SMOOTH**number))
    return found
