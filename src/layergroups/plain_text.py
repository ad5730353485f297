"""Tables as plain text: for `print`, for files and for pipes."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType


def plain_text(shown: RenderableType, width: int = 100) -> str:
    """What rich would print, without colours and without spaces at the ends of lines.

    Args:
        shown: a table, text, or a group of them.
        width: columns at the most.
    """
    # in a notebook a console displays what it is given, if it is not told otherwise
    console = Console(file=io.StringIO(), width=width, color_system=None, force_jupyter=False)
    with console.capture() as captured:
        console.print(shown, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
