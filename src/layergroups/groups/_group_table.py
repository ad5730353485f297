"""Layer groups as a table for the terminal.

Layer groups as an HTML table, for a notebook.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from layergroups._formatting import plain_text

if TYPE_CHECKING:
    from layergroups.groups._layer_groups import LayerGroup, LayerGroups


HEADINGS = ("#", "group", "blocks", "layers", "parameters", "trainable", "rate")


REASON = "begins here because"


def rich_table(groups: LayerGroups) -> Table:
    """A rich table: a row for each group, nearest the input first."""
    title = f"Layer groups of {groups.network} (rule: {groups.rule})"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for column in HEADINGS:
        table.add_column(column, justify="left" if column in ("group", "blocks") else "right")
    table.add_column(REASON, max_width=58)
    for group in groups:
        table.add_row(*group_cells(group))
    return table


def group_cells(group: LayerGroup) -> tuple[str, ...]:
    """The row of a group: a cell for each of `HEADINGS`, and the reason."""
    parameters = list(group.parameters())
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return (
        str(group.index),
        group.name,
        _blocks(group),
        str(len(group.layers)),
        f"{sum(p.numel() for p in parameters):,d}",
        f"{trainable:,d}" if trainable else "frozen" if group.frozen else "0",
        f"{group.lr:.4g}",
        group.reason,
    )


def _blocks(group: LayerGroup) -> str:
    blocks = group.blocks
    if not blocks:
        return "-"
    first, last = blocks[0].name, blocks[-1].name
    span = first if len(blocks) == 1 else f"{first} … {last}"
    return f"{len(blocks)}: {span}"


def group_table(groups: LayerGroups, width: int | None = None) -> str:
    """The table as plain text."""
    return plain_text(rich_table(groups), width or 160)


_HEAD = "#d55e00"  # vermilion, as in the picture of a network


_LEFT = ("group", "blocks", REASON)


def groups_html(groups: LayerGroups) -> str:
    """A table on its own, with its styles inside: a row in its colour for each group."""
    caption = escape(f"Layer groups of {groups.network} (rule: {groups.rule})")
    columns = (*HEADINGS, REASON)
    headings = "".join(f"<th{_align(c)}>{escape(c)}</th>" for c in columns)
    rows = "".join(
        f'<tr style="border-left:0.6em solid {colour}">{_cells(columns, group_cells(group))}</tr>'
        for group, colour in zip(groups, _colours(groups), strict=True)
    )
    return (
        f'<table style="border-collapse:collapse"><caption style="text-align:left">{caption}'
        f"</caption><thead><tr>{headings}</tr></thead><tbody>{rows}</tbody></table>"
    )


def _cells(columns: tuple[str, ...], cells: tuple[str, ...]) -> str:
    pairs = zip(columns, cells, strict=True)
    return "".join(f"<td{_align(column)}>{escape(cell)}</td>" for column, cell in pairs)


def _align(column: str) -> str:
    return f' style="text-align:{"left" if column in _LEFT else "right"}"'


def _colours(groups: LayerGroups) -> list[str]:
    """The body from dark to light blue, the head in a colour of its own."""
    has_head = groups.anatomy.has_head and len(groups) > 1
    n = len(groups) - has_head
    body = [f"hsl(207, 75%, {32 + 40 * i / max(1, n - 1):.0f}%)" for i in range(n)]
    return [*body, *[_HEAD] * has_head]
