"""Layer groups as an HTML table, for a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from layergroups.groups.table import HEADINGS, REASON, group_cells

if TYPE_CHECKING:
    from layergroups.groups.layer_groups import LayerGroups

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
