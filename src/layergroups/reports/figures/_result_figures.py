"""The picture of a confusion matrix.

Charts of what a model says: its calibration, and predicted beside actual numbers.

The picture of the photos of which a model's answers are furthest off.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergroups import _drawing as drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from layergroups.tasks.measures import Calibration, CalibrationBin, OutputErrors


_CELL = 0.52  # inches
_WIDEST = 0.8
_NUMBERS_UP_TO = 40  # classes beyond which cells are too small for numbers


def confusion_matrix_picture(
    matrix: Sequence[Sequence[int]], classes: Sequence[str], path: str | Path
) -> Path:
    """Draw how many photos of each class were predicted as each class.

    Rows are actual classes, columns predicted ones. Cells on the diagonal are blue, mistakes
    orange; a cell is the darker, the larger its part of the row.

    Args:
        matrix: counts (C, C).
        classes: C names.
        path: a file ending with .png, .svg or .pdf.

    Raises:
        LayerGroupsError: another ending, or the file cannot be written.
    """
    path = drawing.check_ending(path)
    return drawing.save(draw_confusion(matrix, classes), path)


def draw_confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> Figure:
    """The figure of `confusion_matrix_picture`."""
    n = len(classes)
    cell = _CELL if n <= 20 else max(0.16, 10.4 / n)
    letters = 10.0 if n <= 20 else max(4.0, cell * 20)
    names = [drawing.fitted(name, 1.9, letters) for name in classes]
    longest = max(drawing.text_width(name, letters) for name in names)
    if n <= 12:
        cell = max(cell, min(_WIDEST, longest * 1.1))  # wide enough that names need not be turned
    room = longest + 0.2
    low = room if _slanted(names, cell, letters) else 0.3
    side = n * cell
    left, below, above, right = room + 0.35, low + 0.35, 0.85, 0.75
    width, height = max(left + side + right, 5.0), below + side + above
    figure = drawing.new_figure(width, height)
    axes = figure.add_axes((left / width, below / height, side / width, side / height))
    _draw_cells(axes, matrix, letters if n <= _NUMBERS_UP_TO else 0)
    _label(axes, names, letters, slanted=low == room)
    _title(axes, matrix, (0.3 / width, 1 - 0.25 / height))
    return figure


def _slanted(names: Sequence[str], cell: float, letters: float) -> bool:
    return any(drawing.text_width(name, letters) > cell * 0.94 for name in names)


def _draw_cells(axes: Axes, matrix: Sequence[Sequence[int]], letters: float) -> None:
    from matplotlib.patches import Rectangle

    for i, row in enumerate(matrix):
        total = sum(row)
        for j, count in enumerate(row):
            share = count / total if total else 0.0
            colour = _shade(
                drawing.BLUE if i == j else drawing.ORANGE, share if i == j else min(1.0, share * 2)
            )
            axes.add_patch(Rectangle((j, i), 1, 1, facecolor=colour, edgecolor="white", lw=1.2))
            if letters and count:
                dark = share > 0.45 if i == j else share > 0.3
                axes.text(
                    j + 0.5, i + 0.52, str(count), ha="center", va="center",
                    fontsize=letters, color="white" if dark else drawing.INK,
                )  # fmt: skip
    axes.set(xlim=(0, len(matrix)), ylim=(len(matrix), 0))


def _shade(colour: str, strength: float) -> tuple[float, ...]:
    """From nearly white to the full colour."""
    from matplotlib.colors import to_rgb

    part = 0.04 + 0.96 * strength if strength else 0.0
    return tuple(0.965 + (value - 0.965) * part for value in to_rgb(colour))


def _label(axes: Axes, names: Sequence[str], letters: float, *, slanted: bool) -> None:
    places = [i + 0.5 for i in range(len(names))]
    words: dict[str, Any] = {
        "fontsize": letters,
        "color": drawing.INK,
        "parse_math": False,
    }  # "$" is a letter
    axes.set_yticks(places, names, **words)
    axes.set_xticks(places, names, rotation=90 if slanted else 0, **words)
    axes.tick_params(length=0, pad=5)
    axes.set_xlabel("predicted", fontsize=10, color=drawing.GREY, labelpad=6)
    axes.set_ylabel("actual", fontsize=10, color=drawing.GREY, labelpad=6)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _title(axes: Axes, matrix: Sequence[Sequence[int]], place: tuple[float, float]) -> None:
    total = sum(map(sum, matrix))
    right = sum(row[i] for i, row in enumerate(matrix))
    accuracy = f"{right / total:.1%}" if total else "none"
    figure = axes.figure
    figure.text(
        *place, f"{accuracy} of {total} items are right", fontsize=13, fontweight="bold",
        color=drawing.INK, va="top",
    )  # fmt: skip
    x, y = place
    lower = y - 0.27 / figure.get_figheight()  # type: ignore[union-attr] # never a subfigure
    figure.text(x, lower, "blue: correct, orange: errors", fontsize=9, color=drawing.GREY, va="top")


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
    axes.text(0.03, 0.94, "orange: gap to the diagonal", fontsize=8.5, color=drawing.ORANGE)
    axes.set_ylabel("accuracy", fontsize=10, color=drawing.GREY)
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
    if each.confidence is None or each.accuracy is None:
        return
    wide = each.high - each.low
    axes.bar(each.low, each.accuracy, wide * 0.92, align="edge", color="#9cc4e4", zorder=2)
    centre = each.low + wide * 0.46
    ends = sorted((each.accuracy, each.confidence))
    axes.plot([centre, centre], ends, color=drawing.ORANGE, lw=2, zorder=4)
    axes.plot([centre], [each.accuracy], "o", color=drawing.BLUE, ms=4.5, zorder=5)


def _draw_counts(axes: Axes, calibration: Calibration) -> None:
    for each in calibration.bins:
        wide = each.high - each.low
        axes.bar(each.low, each.count, wide * 0.92, align="edge", color="#b9c2ca")
    most = max((b.count for b in calibration.bins), default=0)
    axes.set_ylim(0, max(1, most) * 1.05)
    axes.set_yticks([0, most] if most else [0])
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    axes.set_xlabel("confidence", fontsize=10, color=drawing.GREY, labelpad=5)
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
