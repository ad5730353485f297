"""The picture of a confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergroups.reports import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        *place, f"{accuracy} of {total} photos are right", fontsize=13, fontweight="bold",
        color=drawing.INK, va="top",
    )  # fmt: skip
    x, y = place
    lower = y - 0.27 / figure.get_figheight()  # type: ignore[union-attr] # never a subfigure
    figure.text(x, lower, "blue: right, orange: mistaken", fontsize=9, color=drawing.GREY, va="top")
