"""Layer groups as a table for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from layergroups.plain_text import plain_text

if TYPE_CHECKING:
    from layergroups.groups.layer_group import LayerGroup
    from layergroups.groups.layer_groups import LayerGroups


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
