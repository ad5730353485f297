"""Figure of a network and its layer groups: a stack of blocks from input to output."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergroups import _drawing as drawing
from layergroups._drawing import Axes, Figure
from layergroups._formatting import count, shape, short
from layergroups.anatomy import Block
from layergroups.groups import LayerGroup, LayerGroups

if TYPE_CHECKING:
    from matplotlib.transforms import Transform


_LINE = 0.17  # inches of a line of text
_MOST_ROWS = 64  # blocks above which runs of similar blocks become one bar
_FEW_GROUPS = 8
_PARAMETERS, _OUTPUT = 6, 66  # left edges of columns, points to the right of the bars


@dataclass(frozen=True)
class BlockRow:
    """A bar of the stack: a block, or a run of similar blocks."""

    name: str
    parameters: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class GroupStack:
    name: str
    rows: tuple[BlockRow, ...]
    colour: str
    parameters: int
    blocks: int
    frozen: bool
    rate: float
    reason: str


def network_picture(groups: LayerGroups, path: str | Path, title: str | None = None) -> Path:
    """Draw a model as a stack of blocks, coloured by layer group.

    The width of a block is proportional to its parameters. The text between two groups is the
    reason for the boundary. Frozen groups are hatched.
    """
    path = drawing.check_ending(path)
    return drawing.save(draw_network(groups, title), path)


def draw_network(groups: LayerGroups, title: str | None = None) -> Figure:
    stacks = stacks_of(groups)
    rows = [row for stack in stacks for row in stack.rows]
    size, pitch = (7.5, 0.185) if len(rows) > 30 else (9.0, 0.27)
    places, end = _lay_out(stacks, pitch)
    blocks = sum(stack.blocks for stack in stacks)
    total = short(sum(stack.parameters for stack in stacks))
    note = f"{count(len(stacks), 'layer group')}, {blocks} blocks, {total} parameters; input on top"
    figure = drawing.new_figure(9.5, end + 0.7, title or groups.anatomy.model, note)
    axes = figure.subplots()
    column = _OUTPUT + 20 + 0.6 * size * max(8, *(len(shape(row.shape)) for row in rows))
    for x, words in ((_PARAMETERS, "parameters"), (_OUTPUT, "output"), (column, "layer group")):
        _write(axes, x, -0.15, words, 8, drawing.GREY)
    for stack, (top, bottom) in zip(stacks, places, strict=True):
        _draw_bars(axes, stack, top, bottom, size)
        _draw_group(axes, stack, top, bottom, column)
        if top > 0:
            _draw_border(axes, stack, top)
    hatched = " Hatched: frozen." if any(groups.frozen) else ""
    foot = f"Bars are proportional to parameters. Rule: {groups.rule}.{hatched}"
    axes.set_xlabel(foot, fontsize=8, color=drawing.GREY, loc="left", parse_math=False)
    axes.set(xlim=(0, None), ylim=(end, -0.3), xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    return figure


def stacks_of(groups: LayerGroups) -> list[GroupStack]:
    """Layer groups with blocks and colours; in deep networks runs of similar blocks are one row."""
    listed = [group for group in groups if any(True for _ in group.parameters())]
    has_head = groups.anatomy.has_head and len(listed) > 1
    colours = drawing.group_colours(len(listed) - has_head, has_head)
    fold = sum(len(group.blocks) for group in listed) > _MOST_ROWS
    return [_stack(group, colour, fold) for group, colour in zip(listed, colours, strict=True)]


def _stack(group: LayerGroup, colour: str, fold: bool) -> GroupStack:
    runs = [[block] for block in group.blocks]
    if fold:
        runs = [list(run) for _, run in groupby(group.blocks, lambda b: (b.kind, b.shape[1:]))]
    rows = [_row(run) for run in runs]
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


def _row(run: Sequence[Block]) -> BlockRow:
    first, last = run[0].name, run[-1].name
    name = first if len(run) == 1 else f"{first} … {last.rpartition('.')[2]}  ({len(run)})"
    return BlockRow(name, sum(block.n_parameters for block in run), run[-1].shape)


# Drawing; heights are in inches from the top


def _lay_out(stacks: Sequence[GroupStack], pitch: float) -> tuple[list[tuple[float, float]], float]:
    """Top and bottom of each stack, which has room for its text, and the end of all."""
    y = 0.0
    places: list[tuple[float, float]] = []
    lines = 3 if len(stacks) <= _FEW_GROUPS else 2
    for stack in stacks:
        top = y + (len(_reason(stack)) * _LINE + 0.2 if places else 0)
        y = top + max(len(stack.rows) * pitch, lines * _LINE + 0.05)
        places.append((top, y))
    return places, y


def _reason(stack: GroupStack) -> list[str]:
    return textwrap.wrap(stack.reason[:1].upper() + stack.reason[1:], 110)


def _draw_border(axes: Axes, stack: GroupStack, top: float) -> None:
    words = _reason(stack)
    line = top - len(words) * _LINE - 0.1
    axes.axhline(line, color=drawing.GREY, lw=0.9, ls=(0, (4, 3)))
    for i, part in enumerate(words):
        y = line + 0.05 + (i + 0.5) * _LINE
        _write(axes, 0, y, part, 8.5, drawing.INK, edge=0, style="italic")


def _draw_bars(axes: Axes, stack: GroupStack, top: float, bottom: float, size: float) -> None:
    step = (bottom - top) / len(stack.rows)
    look: dict[str, Any] = {"facecolor": stack.colour}
    if stack.frozen:
        look = {"facecolor": "white", "edgecolor": stack.colour, "hatch": "//////", "lw": 0.8}
    for i, row in enumerate(stack.rows):
        y = top + (i + 0.5) * step
        axes.barh(y, row.parameters, min(step, 0.27) * 0.8, **look)
        name = drawing.fitted(row.name, 2.5, size)
        _write(axes, -6, y, name, size, drawing.INK, edge=0, ha="right")
        _write(axes, _PARAMETERS, y, short(row.parameters), size, drawing.INK)
        _write(axes, _OUTPUT, y, shape(row.shape), size, drawing.GREY)


def _draw_group(axes: Axes, stack: GroupStack, top: float, bottom: float, column: float) -> None:
    axes.plot(
        [1, 1], [top + 0.02, bottom - 0.02], color=stack.colour, lw=4, solid_capstyle="butt",
        transform=_beside(axes, column - 9), clip_on=False,
    )  # fmt: skip
    blocks = f"{count(stack.blocks, 'block')}, " if stack.blocks else ""
    size, state = short(stack.parameters), "frozen"
    if not stack.frozen:
        state = f"trains at {stack.rate:.2g}"
    lines = [stack.name, f"{blocks}{size} parameters", state]
    if bottom - top < 3 * _LINE:
        lines = [stack.name, f"{size}, {state}"]
    first = (top + bottom - (len(lines) - 1) * _LINE) / 2
    for i, words in enumerate(lines):
        look = (8.5, drawing.GREY) if i else (10, drawing.INK)
        fitting = drawing.fitted(words, 2.1, 10)
        weight = "normal" if i else "bold"
        _write(axes, column, first + i * _LINE, fitting, *look, weight=weight)


def _write(
    axes: Axes, x: float, y: float, words: str, size: float, colour: str, edge: int = 1, **look: Any
) -> None:
    """Write text at `x` points from the right (1) or left edge (0) of the bars."""
    axes.text(
        edge, y, words, transform=_beside(axes, x), fontsize=size, color=colour, va="center",
        parse_math=False, **look,
    )  # fmt: skip


def _beside(axes: Axes, points: float) -> Transform:
    from matplotlib.transforms import offset_copy

    return offset_copy(
        axes.get_yaxis_transform(), axes.get_figure(root=True), x=points, units="points"
    )
