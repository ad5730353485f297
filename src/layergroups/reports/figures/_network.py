"""Figure of a network and its layer groups: a stack of blocks from input to output.

`_lay_out` first computes all positions, in inches from the top, with room for the texts, so texts
never overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergroups import _drawing as drawing
from layergroups._formatting import shape, short
from layergroups.anatomy import Block

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from layergroups.groups import LayerGroup, LayerGroups


_MARGIN = 0.3
_TITLE = 0.62  # heights, in inches
_HEADINGS = 0.3
_FOOT = 0.42
_LINE = 0.165
_BAR = 2.9  # widths, in inches
_FIGURES = 1.05
_GROUP = 2.15
_NAME_MOST = 2.5
_MOST_ROWS = 64  # blocks above which runs of similar blocks become one bar
_FEW_GROUPS = 8


@dataclass(frozen=True)
class BlockRow:
    """A bar of the stack: a block, or a run of similar blocks."""

    name: str
    parameters: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GroupStack:
    """A layer group and its bars."""

    name: str
    rows: tuple[BlockRow, ...]
    colour: str
    parameters: int
    blocks: int
    frozen: bool
    rate: float
    reason: str


@dataclass(frozen=True)
class Placed:
    """A stack with its position, in inches from the top of the figure."""

    stack: GroupStack
    border: float  # of the boundary before it
    words: tuple[str, ...]  # lines of the reason for that boundary; empty for the first
    top: float
    row: float  # height of a bar with the space below it
    bottom: float


@dataclass(frozen=True)
class Columns:
    """Left edges of the columns, and the width of all, in inches."""

    bars: float
    figures: float
    shapes: float
    groups: float
    width: float


def network_picture(groups: LayerGroups, path: str | Path, title: str | None = None) -> Path:
    """Draw a model as a stack of blocks, coloured by layer group.

    The width of a block is proportional to its parameters. The text between two groups is the
    reason for the boundary. Frozen groups are hatched.

    Args:
        groups: layer groups of the model.
        path: a file ending with .png, .svg or .pdf.
        title: of the figure; default is the class of the model.

    Raises:
        LayerGroupsError: a different ending, or the file cannot be written.
    """
    path = drawing.check_ending(path)
    return drawing.save(draw_network(groups, title), path)


def draw_network(groups: LayerGroups, title: str | None = None) -> Figure:
    """The figure of `network_picture`."""
    stacks = stacks_of(groups)
    small = sum(len(s.rows) for s in stacks) > 30
    letters = 7.5 if small else 9.0
    columns = _columns(stacks, letters)
    placed = _lay_out(stacks, columns, row=0.185 if small else 0.27)
    height = placed[-1].bottom + _FOOT
    figure = drawing.new_figure(columns.width, height)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, columns.width), ylim=(height, 0))
    axes.axis("off")
    _draw_title(axes, columns, title or groups.anatomy.model, stacks)
    most = max(row.parameters for stack in stacks for row in stack.rows)
    for place in placed:
        _draw_border(axes, columns, place)
        _draw_bars(axes, columns, place, most, letters)
        _draw_group(axes, columns, place)
    _draw_foot(axes, columns, height, groups)
    return figure


# Content


def stacks_of(groups: LayerGroups) -> list[GroupStack]:
    """Layer groups with blocks and colours; in deep networks runs of similar blocks are one row."""
    listed = [group for group in groups if any(True for _ in group.parameters())]
    has_head = groups.anatomy.has_head and len(listed) > 1
    colours = drawing.group_colours(len(listed) - has_head, has_head)
    fold = sum(len(group.blocks) for group in listed) > _MOST_ROWS
    return [_stack(group, colour, fold) for group, colour in zip(listed, colours, strict=True)]


def _stack(group: LayerGroup, colour: str, fold: bool) -> GroupStack:
    runs = [list(run) for _, run in groupby(group.blocks, _kind)] if fold else None
    rows = [_row(run) for run in runs or [[block] for block in group.blocks]]
    parameters = sum(p.numel() for p in group.parameters())
    return GroupStack(
        name=group.name,
        rows=tuple(rows) or (BlockRow(group.name, parameters, ()),),
        colour=colour,
        parameters=parameters,
        blocks=len(group.blocks),
        frozen=group.frozen,
        rate=group.lr,
        reason=group.reason,
    )


def _kind(block: Block) -> tuple[str, tuple[int, ...]]:
    return block.kind, block.shape[1:]


def _row(run: Sequence[Block]) -> BlockRow:
    first, last = run[0].name, run[-1].name
    name = first if len(run) == 1 else f"{first} … {last.rpartition('.')[2]}  ({len(run)})"
    return BlockRow(name, sum(block.n_parameters for block in run), run[-1].shape)


# Layout


def _columns(stacks: Sequence[GroupStack], letters: float) -> Columns:
    rows = [row for stack in stacks for row in stack.rows]
    names = min(_NAME_MOST, max(drawing.text_width(row.name, letters) for row in rows) * 1.04)
    bars = _MARGIN + max(0.6, names) + 0.12
    figures = bars + _BAR + 0.08
    shapes = figures + _FIGURES
    widest = max(drawing.text_width(shape(row.shape), letters) for row in rows)
    groups = shapes + max(0.6, widest * 1.04) + 0.4
    return Columns(bars, figures, shapes, groups, groups + _GROUP + _MARGIN)


def _lay_out(stacks: Sequence[GroupStack], columns: Columns, row: float) -> list[Placed]:
    """Position each stack; its height is that of its bars or its text, whichever is larger."""
    few = len(stacks) <= _FEW_GROUPS
    y = _MARGIN + _TITLE + _HEADINGS
    placed = []
    for number, stack in enumerate(stacks):
        words = _words(stack, columns) if number else []
        border = y + 0.1
        top = border + 0.06 + len(words) * _LINE + 0.06 if number else y
        height = max(len(stack.rows) * row, len(_facts(stack, few)) * _LINE + 0.08)
        placed.append(
            Placed(stack, border, tuple(words), top, height / len(stack.rows), top + height)
        )
        y = top + height
    return placed


def _words(stack: GroupStack, columns: Columns) -> list[str]:
    sentence = stack.reason[:1].upper() + stack.reason[1:]
    return drawing.wrapped(sentence, columns.width - columns.bars - _MARGIN, 8.5)


def _facts(stack: GroupStack, few: bool = True) -> list[str]:
    blocks = f"{stack.blocks} block{'' if stack.blocks == 1 else 's'}, " if stack.blocks else ""
    state = "frozen" if stack.frozen else f"trains at {stack.rate:.2g}"
    if not few:
        return [stack.name, f"{short(stack.parameters)}, {state}"]
    return [stack.name, f"{blocks}{short(stack.parameters)} parameters", state]


# Drawing


def _draw_title(axes: Axes, columns: Columns, title: str, stacks: Sequence[GroupStack]) -> None:
    total = sum(stack.parameters for stack in stacks)
    blocks = sum(stack.blocks for stack in stacks)
    room = columns.width - 2 * _MARGIN
    axes.text(
        _MARGIN, _MARGIN, drawing.fitted(title, room * 0.9, 15), fontsize=15, fontweight="bold",
        color=drawing.INK, va="top",
    )  # fmt: skip
    count = f"{len(stacks)} layer group{'' if len(stacks) == 1 else 's'}"
    summary = f"{count}, {blocks} blocks, {short(total)} parameters; input on top, output below"
    _write(axes, _MARGIN, _MARGIN + 0.38, summary, 9, drawing.GREY)
    y = _MARGIN + _TITLE + _HEADINGS / 2
    for x, words in ((columns.figures, "parameters"), (columns.shapes, "output"),
                     (columns.groups, "layer group")):  # fmt: skip
        _write(axes, x, y, words, 8, drawing.GREY)
    _write(axes, columns.bars - 0.12, y, "block", 8, drawing.GREY, ha="right")


def _draw_border(axes: Axes, columns: Columns, place: Placed) -> None:
    if not place.words:
        return
    axes.plot(
        [_MARGIN, columns.width - _MARGIN], [place.border] * 2, color=drawing.GREY,
        linewidth=0.9, linestyle=(0, (4, 3)),
    )  # fmt: skip
    for number, words in enumerate(place.words):
        y = place.border + 0.06 + (number + 0.5) * _LINE
        _write(axes, columns.bars, y, words, 8.5, drawing.INK, style="italic")


def _draw_bars(axes: Axes, columns: Columns, place: Placed, most: int, letters: float) -> None:
    from matplotlib.patches import Rectangle

    stack = place.stack
    for number, row in enumerate(stack.rows):
        top = place.top + number * place.row
        middle, height = top + place.row / 2, min(place.row, 0.27) * 0.8
        width = max(0.02, _BAR * row.parameters / max(1, most))
        look = (
            {"facecolor": "white", "edgecolor": stack.colour, "hatch": "//////", "lw": 0.8}
            if stack.frozen
            else {"facecolor": stack.colour, "edgecolor": "none"}
        )
        axes.add_patch(Rectangle((columns.bars, middle - height / 2), width, height, **look))
        name = drawing.fitted(row.name, _NAME_MOST, letters)
        _write(axes, columns.bars - 0.12, middle, name, letters, drawing.INK, ha="right")
        _write(axes, columns.figures, middle, short(row.parameters), letters, drawing.INK)
        _write(axes, columns.shapes, middle, shape(row.shape), letters, drawing.GREY)


def _draw_group(axes: Axes, columns: Columns, place: Placed) -> None:
    axes.plot(
        [columns.groups - 0.14] * 2, [place.top + 0.02, place.bottom - 0.02],
        color=place.stack.colour, linewidth=4, solid_capstyle="butt",
    )  # fmt: skip
    room = place.bottom - place.top
    facts = _facts(place.stack, few=room >= 3 * _LINE)
    first = (place.top + place.bottom) / 2 - (len(facts) - 1) / 2 * _LINE
    for number, words in enumerate(facts):
        size, colour = (10, drawing.INK) if number == 0 else (8.5, drawing.GREY)
        bold = "bold" if number == 0 else "normal"
        fitting = drawing.fitted(words, _GROUP * (0.9 if number == 0 else 1), size)
        _write(axes, columns.groups, first + number * _LINE, fitting, size, colour, weight=bold)


def _draw_foot(axes: Axes, columns: Columns, height: float, groups: LayerGroups) -> None:
    words = f"Bars are proportional to parameters. Rule: {groups.rule}."
    if any(groups.frozen):
        words += " Hatched: frozen."
    _write(axes, _MARGIN, height - 0.2, words, 8, drawing.GREY)


def _write(
    axes: Axes, x: float, y: float, words: str, size: float, colour: str, **look: Any
) -> None:
    axes.text(x, y, words, fontsize=size, color=colour, va="center", **look)
