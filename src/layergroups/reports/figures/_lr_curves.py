"""Loss over learning rate: the curve of a sweep, and the figure of several curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from layergroups import _drawing as drawing
from layergroups._drawing import Axes, Figure
from layergroups._formatting import rate

_MARKERS = ("o", "^", "s", "D", "v", "P")


@dataclass(frozen=True)
class RateCurve:
    """The loss over an increasing rate, in one sweep."""

    name: str  # of the layer group that trained, or "all"
    lrs: tuple[float, ...]  # at each step; for "all", the highest rate of all groups
    losses: tuple[float, ...]  # at each step, smoothed
    raw: tuple[float, ...]  # not smoothed
    suggestions: Mapping[str, float] = field(default_factory=dict)  # by kind
    end: str = ""  # why the sweep ended
    skip: int = 0  # ignored first steps, which average too few batches
    missing: Mapping[str, str] = field(default_factory=dict)  # by kind, why none was found

    @property
    def points(self) -> list[tuple[float, float]]:
        """Rate and smoothed loss of each step, without the skipped steps if others remain."""
        pairs = list(zip(self.lrs, self.losses, strict=True))
        return pairs[self.skip :] or pairs

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return asdict(self)


def draw_rates(curves: Sequence[RateCurve], note: str = "") -> Figure:
    """Draw the smoothed losses of sweeps over the rate, with suggestions on each curve.

    The first curve is that of all groups together, unless there is only one.
    """
    figure = drawing.new_figure(9.2, 3.9, "Loss over learning rate", note)
    axes = figure.subplots()
    colours = [drawing.INK, *drawing.group_colours(max(0, len(curves) - 2), len(curves) > 1)]
    kinds = dict.fromkeys(kind for curve in curves for kind in curve.suggestions)
    markers = dict(zip(kinds, _MARKERS, strict=False))
    for i, (curve, colour) in reversed(list(enumerate(zip(curves, colours, strict=True)))):
        _draw(axes, curve, colour, markers, thick=i == 0)
    # from the lowest loss to slightly above the first; diverging curves leave the plot
    lowest = min(loss for curve in curves for _, loss in curve.points)
    begin = max(curve.points[0][1] for curve in curves)
    room = max(begin - lowest, abs(begin) * 0.02, 1e-9)
    axes.set_xscale("log")
    axes.set_ylim(lowest - 0.08 * room, begin + 0.45 * room)
    drawing.style_axes(axes, "learning rate", "loss, smoothed")
    _legend(figure, curves, colours, markers)
    return figure


def _draw(
    axes: Axes, curve: RateCurve, colour: str, markers: Mapping[str, str], *, thick: bool
) -> None:
    lrs, losses = zip(*curve.points, strict=True)
    axes.plot(lrs, losses, color=colour, lw=2.4 if thick else 1.5, zorder=3 + thick)
    for kind, lr in ((k, r) for k, r in curve.suggestions.items() if k in markers):
        loss = np.interp(math.log(lr), np.log(lrs), losses)
        axes.plot(
            [lr], [loss], marker=markers[kind], markersize=7, color=colour,
            markeredgecolor="white", markeredgewidth=1, ls="none", zorder=5,
        )  # fmt: skip


def _legend(
    figure: Figure, curves: Sequence[RateCurve], colours: Sequence[str], markers: Mapping[str, str]
) -> None:
    from matplotlib.lines import Line2D

    lines, names = [], []
    main = next(iter(curves[0].suggestions), "")
    for curve, colour in zip(curves, colours, strict=True):
        lines.append(Line2D([], [], color=colour, lw=2))
        name = drawing.fitted(curve.name, 0.9, 9)
        first = [f"{main} {rate(curve.suggestions[main])}"] if main in curve.suggestions else []
        names.append(", ".join([name, *first]))
    for kind, marker in markers.items():
        lines.append(Line2D([], [], color=drawing.GREY, marker=marker, ls="none", markersize=6))
        names.append(kind)
    figure.legend(
        lines, names, loc="outside right upper", frameon=False, fontsize=9,
        labelcolor=drawing.INK, handlelength=1.4, borderaxespad=0,
    )  # fmt: skip
