"""Tables as plain text and as HTML for a notebook, where every text in them is escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from rich.console import RenderableType

from layergroups.plain_text import plain_text


def as_text(shown: RenderableType, width: int = 100) -> str:
    """A table as plain text, without empty lines around it."""
    return plain_text(shown, width).strip("\n")


def html_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    caption: str = "",
    *,
    left: Sequence[str] = (),
) -> str:
    """A table on its own, with its styles inside.

    Args:
        headings: of the columns.
        rows: a cell for each column, shown as its `str`.
        caption: what the table shows.
        left: headings of the columns whose text begins at the left; the first does always.
    """
    sides = ["left" if i == 0 or h in left else "right" for i, h in enumerate(headings)]
    title = (
        f'<caption style="text-align:left;white-space:nowrap">{escape(caption)}</caption>'
        if caption
        else ""
    )
    head = _row("th", headings, sides)
    body = "".join(_row("td", row, sides) for row in rows)
    return (
        f'<table style="border-collapse:collapse;margin:0.5em 0">{title}<thead>{head}</thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _row(tag: str, cells: Sequence[object], sides: Sequence[str]) -> str:
    pairs = zip(cells, sides, strict=True)
    inside = "".join(
        f'<{tag} style="text-align:{side};padding:0.15em 0.6em">{escape(str(cell))}</{tag}>'
        for cell, side in pairs
    )
    return f"<tr>{inside}</tr>"
