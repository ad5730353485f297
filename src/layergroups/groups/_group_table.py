"""Layer groups as rows of figures, and as a table for the terminal or a notebook."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

from layergroups._formatting import pairs, rate, table

HEADINGS = ("#", "group", "blocks", "layers", "parameters", "trainable", "rate")
_REASON = "begins here because"


@dataclass(frozen=True, kw_only=True)
class GroupRow:
    index: int  # 0 is nearest the input
    name: str  # such as "head"
    blocks: tuple[str, ...]  # names of its blocks, in the order of execution
    layers: int  # number of its leaf modules
    parameters: int  # number of elements in its parameters
    trainable: int  # of these, how many train
    by_user: int  # of these, how many the user froze by `requires_grad_(False)`
    frozen: bool  # whether the group is frozen, and nothing in it was freed
    rate: float  # its base learning rate
    reason: str  # why it begins where it does
    freed: int = 0  # of these, how many train in a frozen group, because the user let them

    def __repr__(self) -> str:
        state = "frozen" if self.frozen else f"trains at {self.rate:g}"
        by_user = f", {self.by_user:,d} frozen by the user" if self.by_user else ""
        if self.freed:
            state = f"frozen but for {self.freed:,d} that the user lets train at {self.rate:g}"
        return (
            f"LayerGroup({self.index}, {self.name!r}, {self.parameters:,d} parameters, "
            f"{state}{by_user})"
        )


@dataclass(frozen=True)
class GroupTable:
    """The table; where the reasons do not fit beside it, they are below it."""

    rows: Sequence[GroupRow]
    title: str

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        cells, title = [group_cells(row) for row in self.rows], Text(self.title)
        left = ("group", "blocks", _REASON)
        made = table((*HEADINGS, _REASON), cells, left=left, title=title, pad_edge=True)
        made.columns[-1].max_width = 58
        if Measurement.get(console, options.update(width=1000), made).maximum <= options.max_width:
            yield made
            return
        made = table(HEADINGS, (row[:-1] for row in cells), left=left, title=title)
        made.columns[1].no_wrap = True
        yield made
        yield Text(f" {_REASON}")
        yield pairs((f" {row.name} ", row.reason) for row in self.rows)


def group_cells(row: GroupRow) -> tuple[str, ...]:
    last = f" … {row.blocks[-1]}" if len(row.blocks) > 1 else ""
    blocks = f"{len(row.blocks)}: {row.blocks[0]}{last}" if row.blocks else "-"
    figures = (str(row.layers), f"{row.parameters:,d}", _trainable(row), rate(row.rate, 4))
    return str(row.index), row.name, blocks, *figures, row.reason


def _trainable(row: GroupRow) -> str:
    if row.freed:
        rest = " (rest frozen)" if row.trainable < row.parameters else ""
        return f"{row.trainable:,d}{rest}"
    if row.by_user and not row.frozen:
        return f"{row.trainable:,d} (rest by user)" if row.trainable else "frozen by user"
    return f"{row.trainable:,d}" if row.trainable else "frozen" if row.frozen else "0"
