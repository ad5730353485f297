"""Tables as plain text and as HTML for a notebook, where every text in them is escaped."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from html import escape

from rich.console import Console, RenderableType


def as_text(shown: RenderableType, width: int = 100) -> str:
    """What rich would print, as plain text."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    console.print(shown)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


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
    title = f'<caption style="text-align:left">{escape(caption)}</caption>' if caption else ""
    head = _row("th", headings, sides)
    body = "".join(_row("td", row, sides) for row in rows)
    return (
        f'<table style="border-collapse:collapse">{title}<thead>{head}</thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _row(tag: str, cells: Sequence[object], sides: Sequence[str]) -> str:
    pairs = zip(cells, sides, strict=True)
    inside = "".join(
        f'<{tag} style="text-align:{side}">{escape(str(cell))}</{tag}>' for cell, side in pairs
    )
    return f"<tr>{inside}</tr>"
