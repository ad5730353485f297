"""Charts of what a model says: its calibration, and predicted beside actual numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from layergroups.reports import drawing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from layergroups.reports.calibration import Calibration, CalibrationBin
    from layergroups.reports.residuals import OutputErrors

_SIDE = 3.6  # inches of a square plot


def draw_calibration(calibration: Calibration) -> Figure:
    """How often predictions of each probability are right, and below it how many there are."""
    width, height = 5.0, 6.0
    figure = drawing.new_figure(width, height)
    left = 0.75
    axes = figure.add_axes(
        (left / width, 1.65 / height, _SIDE / width, _SIDE / height), xlim=(0, 1), ylim=(0, 1)
    )
    axes.plot([0, 1], [0, 1], color=drawing.GREY, lw=1, ls=(0, (4, 3)), zorder=3)
    for each in calibration.bins:
        _draw_bin(axes, each)
    axes.text(0.03, 0.94, "orange: how far it is off", fontsize=8.5, color=drawing.ORANGE)
    axes.set_ylabel("part that is right", fontsize=10, color=drawing.GREY)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], [""] * 5)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    _plain(axes)
    counts = figure.add_axes(
        (left / width, 0.75 / height, _SIDE / width, 0.75 / height), xlim=(0, 1)
    )
    _draw_counts(counts, calibration)
    _head(figure, "Calibration", calibration.caption, height, width)
    return figure


def _draw_bin(axes: Axes, each: CalibrationBin) -> None:
    """A bar as high as what is right; an orange line from it to what was said."""
    if each.said is None or each.right is None:
        return
    wide = each.high - each.low
    axes.bar(each.low, each.right, wide * 0.92, align="edge", color="#9cc4e4", zorder=2)
    centre = each.low + wide * 0.46
    axes.plot(
        [centre, centre], sorted((each.right, each.said)), color=drawing.ORANGE, lw=2, zorder=4
    )
    axes.plot([centre], [each.right], "o", color=drawing.BLUE, ms=4.5, zorder=5)


def _draw_counts(axes: Axes, calibration: Calibration) -> None:
    for each in calibration.bins:
        wide = each.high - each.low
        axes.bar(each.low, each.count, wide * 0.92, align="edge", color="#b9c2ca")
    most = max((b.count for b in calibration.bins), default=0)
    axes.set_ylim(0, max(1, most) * 1.05)
    axes.set_yticks([0, most] if most else [0])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_xlabel("probability that the model says", fontsize=10, color=drawing.GREY, labelpad=5)
    axes.set_ylabel("count", fontsize=10, color=drawing.GREY)
    _plain(axes)


def draw_residuals(predicted: Tensor, actual: Tensor, errors: Sequence[OutputErrors]) -> Figure:
    """Predicted numbers over actual ones, a plot for each number; on the line they are equal.

    Args:
        predicted: (N, K).
        actual: (N, K).
        errors: what they come to, a row for each number.
    """
    shown = errors[:_MOST_NUMBERS]
    step = _SIDE + 1.3
    width, height = max(5.4, _LEFT + len(shown) * step), _SIDE + 1.75
    figure = drawing.new_figure(width, height)
    for k, row in enumerate(shown):
        place = (_LEFT + k * step) / width, 0.7 / height, _SIDE / width, _SIDE / height
        _draw_numbers(figure.add_axes(place), predicted[:, k], actual[:, k], row)
    more = f"; {len(shown)} of {len(errors)} are shown" if len(shown) < len(errors) else ""
    note = f"{len(predicted)} items; on the line, predicted and actual are the same{more}"
    _head(figure, "Predicted and actual", note, height, width)
    return figure


_MOST_NUMBERS = 4
_LEFT = 1.05  # inches, for the numbers on the axis


def _draw_numbers(axes: Axes, predicted: Tensor, actual: Tensor, row: OutputErrors) -> None:
    from matplotlib.ticker import MaxNLocator

    x, y = actual.double().numpy(), predicted.double().numpy()
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    room = (high - low) * 0.05 or 1.0
    limits = (low - room, high + room)
    axes.plot(limits, limits, color=drawing.GREY, lw=1, ls=(0, (4, 3)))
    for actual_one, said in zip(x.tolist(), y.tolist(), strict=True) if len(x) <= _LINES else ():
        axes.plot([actual_one] * 2, [actual_one, said], color=drawing.ORANGE, lw=0.8, alpha=0.5)
    clear = 0.85 if len(x) <= _LINES else max(0.08, _LINES / len(x))
    axes.plot(x, y, "o", color=drawing.BLUE, ms=4, alpha=clear, mew=0)
    axes.set(xlim=limits, ylim=limits)
    ticks = [t for t in MaxNLocator(5).tick_values(*limits) if limits[0] <= t <= limits[1]]
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    axes.set_xlabel("actual", fontsize=10, color=drawing.GREY)
    axes.set_ylabel("predicted", fontsize=10, color=drawing.GREY)
    r2 = "" if row.r2 is None else f", R² {row.r2:.3f}"
    words = f"{drawing.fitted(row.name, 1.4, 9.5)}: mean absolute error {row.mean_absolute:.3g}{r2}"
    axes.set_title(
        drawing.fitted(words, _SIDE, 9.5), fontsize=9.5, color=drawing.INK, loc="left",
        parse_math=False,
    )  # fmt: skip
    _plain(axes)


_LINES = 200  # items up to which each is tied to the line


def _plain(axes: Axes) -> None:
    axes.tick_params(length=3, color=drawing.FAINT, labelcolor=drawing.INK, labelsize=8.5)
    axes.grid(color=drawing.FAINT, lw=0.6)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(drawing.FAINT)


def _head(figure: Figure, title: str, note: str, height: float, width: float) -> None:
    left, top = 0.3 / width, 1 - 0.25 / height
    figure.text(left, top, title, fontsize=13, fontweight="bold", color=drawing.INK, va="top")
    lower = top - 0.27 / height
    figure.text(left, lower, note, fontsize=9, color=drawing.GREY, va="top", parse_math=False)
