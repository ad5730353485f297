"""Grid of images with predictions and further text below each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from layergroups import _drawing as drawing
from layergroups._formatting import printable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from layergroups.reports._images import Pixels


RIGHT = "#00725a"
WRONG = "#c0440a"
_IMAGE = 1.75  # inches
_GAP = 0.22
_PAIR_GAP = 0.04
_MARGIN = 0.3
_LINE = 0.175
_TITLE = 0.62


@dataclass(frozen=True, eq=False)
class Tile:
    """One item: its image, optionally with a heat map, and text below.

    Attributes:
        pictures: one or two, each (H, W, 3), 0..1, of one shape in all tiles.
        heading: the prediction.
        right: whether the prediction is correct; None if unknown or not applicable.
        lines: further text.
    """

    pictures: tuple[Pixels, ...]
    heading: str
    right: bool | None
    lines: tuple[str, ...] = ()


def draw_images(tiles: Sequence[Tile], title: str, note: str = "", columns: int = 0) -> Figure:
    """Draw a grid of tiles, row by row.

    Args:
        tiles: at least one.
        title: of the figure.
        note: a lighter line below the title.
        columns: number of tiles in a row; 0 for a nearly square grid.
    """
    side_by_side = len(tiles[0].pictures)
    title, note = printable(title), printable(note)
    columns = min(len(tiles), columns or _columns(len(tiles), side_by_side))
    high, wide = tiles[0].pictures[0].shape[:2]
    tall = _IMAGE * high / wide
    across = side_by_side * _IMAGE + (side_by_side - 1) * _PAIR_GAP
    below = _LINE * (1 + max(len(tile.lines) for tile in tiles)) + 0.06
    rows = math.ceil(len(tiles) / columns)
    words = max(drawing.text_width(title, 13, bold=True), drawing.text_width(note, 9))
    width = 2 * _MARGIN + max(columns * (across + _GAP) - _GAP, words * 1.03)
    height = _TITLE + rows * (tall + below + _GAP) - _GAP + _MARGIN * 0.5
    figure = drawing.new_figure(width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    _write(axes, _MARGIN, 0.24, title, 13, drawing.INK, bold=True)
    _write(axes, _MARGIN, 0.47, note, 9, drawing.GREY)
    for i, tile in enumerate(tiles):
        row, column = divmod(i, columns)
        left = _MARGIN + column * (across + _GAP)
        _draw_tile(axes, tile, left, _TITLE + row * (tall + below + _GAP), tall, across)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return figure


def _columns(n: int, side_by_side: int) -> int:
    most = 5 if side_by_side == 1 else 3
    return min(most, math.ceil(math.sqrt(n / side_by_side)))


def _draw_tile(axes: Axes, tile: Tile, left: float, top: float, tall: float, across: float) -> None:
    for i, pixels in enumerate(tile.pictures):
        x = left + i * (_IMAGE + _PAIR_GAP)
        axes.imshow(pixels, extent=(x, x + _IMAGE, top + tall, top), aspect="auto", vmin=0, vmax=1)
    colour = drawing.INK if tile.right is None else RIGHT if tile.right else WRONG
    place = top + tall + 0.13
    _write(axes, left, place, drawing.fitted(tile.heading, across, 10.5), 10, colour, bold=True)
    for number, line in enumerate(tile.lines, start=1):
        words = drawing.fitted(line, across, 8.5)
        _write(axes, left, place + number * _LINE, words, 8.5, drawing.GREY)


def _write(
    axes: Axes, x: float, y: float, words: str, size: float, colour: str, *, bold: bool = False
) -> None:
    axes.text(
        x, y, words, fontsize=size, color=colour, va="center", parse_math=False,
        fontweight="bold" if bold else "normal",
    )  # fmt: skip
