"""How numbers, sizes, times, lists and tables are written, everywhere in the package."""

from __future__ import annotations

import io
import json
import math
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from html import escape
from typing import Any, ClassVar

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text


def plain_text(shown: RenderableType, width: int = 100) -> str:
    """What rich would print, without colours and without spaces at the ends of lines."""
    # in a notebook a console displays what it is given, by itself
    console = Console(file=io.StringIO(), width=width, color_system=None, force_jupyter=False)
    with console.capture() as captured:
        console.print(shown, markup=False, highlight=False)
    lines = [line.rstrip() for line in captured.get().splitlines()]
    return printable("\n".join(lines).strip("\n"))


def printable(text: str) -> str:
    """The text, with a sign in place of what is not UTF-8, as in the names of some files."""
    return _SURROGATES.sub("\ufffd", text)


_SURROGATES = re.compile("[\ud800-\udfff]")


class Printable:
    """Shows itself as a table, in print and in a notebook."""

    _columns: ClassVar[int] = 100  # where there is no terminal
    _fits_terminal: ClassVar[bool] = False  # whether its texts can be narrower or wider

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def __str__(self) -> str:
        if self._fits_terminal and sys.stdout is not None and sys.stdout.isatty():
            return plain_text(self, shutil.get_terminal_size().columns)
        return plain_text(self, self._columns)

    def _repr_html_(self) -> str:
        return in_notebook_text(plain_text(self, self._columns))


def in_notebook_text(text: str) -> str:
    """HTML of a text in columns."""
    return f'<pre style="white-space:pre;line-height:1.25">{escape(text)}</pre>'


def current_cell() -> int | None:
    """The number of the notebook cell that runs; None outside a notebook."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return None if getattr(shell, "kernel", None) is None else int(shell.execution_count)


_PIPED_WIDTH = 200  # columns of a table that no terminal limits


def say(words: RenderableType = "") -> None:
    """Write a message to stderr."""
    console = Console(file=sys.stderr, highlight=False, soft_wrap=isinstance(words, str))
    console.print(words, markup=False)


def show(data: RenderableType) -> None:
    """Write data to stdout; plain and not cut to a terminal's width when it is piped."""
    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(data, markup=False)
        return
    plain = Console(file=io.StringIO(), width=_PIPED_WIDTH, color_system=None, highlight=False)
    with plain.capture() as captured:
        plain.print(data, markup=False, soft_wrap=isinstance(data, str))
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in captured.get().splitlines())
    sys.stdout.flush()


def show_json(data: object) -> None:
    """Write JSON to stdout, and nothing else."""
    sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False) + "\n")


def show_figures(figures: Mapping[str, Any]) -> None:
    """Write names and values to stdout, one on each line."""
    width = max(map(len, figures))
    for name, value in figures.items():
        text = f"{value:.4f}" if isinstance(value, float) else str(value)
        sys.stdout.write(f"{name:<{width}}  {text}\n")
    sys.stdout.flush()


def name_of(thing: object) -> str:
    """The name of a loss, a metric or an optimizer: a string, or that of its function or class."""
    if isinstance(thing, str):
        return thing
    inner = getattr(thing, "func", thing)  # functools.partial
    return str(getattr(inner, "__name__", type(inner).__name__))


def count(n: int, one: str, several: str = "") -> str:
    """As "1 image", "1,234 images"."""
    return f"{n:,} {one if n == 1 else several or one + 's'}"


def first_few(values: Iterable[object], n: int = 5, separator: str = ", ") -> str:
    """The first of many, as "a, b, c and 3 more"."""
    listed = [str(value) for value in values]
    more = f" and {len(listed) - n:,} more" if len(listed) > n else ""
    return separator.join(listed[:n]) + more


def short(n: float) -> str:
    """12345678 as "12.3 M"."""
    for unit, name in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if n >= unit:
            return f"{n / unit:.3g}{name}" if n < 999.5 * unit else f"{n / unit:.0f}{name}"
    return f"{n:g}"


def duration(seconds: float) -> str:
    """As "8.3 s", "2 min 05 s", "3 h 12 min"."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"


def memory(size: float | None) -> str:
    """Bytes, as "1.24 GB"; a dash where it is not known."""
    if size is None:
        return "–"
    for unit in ("B", "kB", "MB"):
        if size < 999.5:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB" if size < 999.5 else f"{size:,.0f} GB"


def figure(value: float | None) -> str:
    """Four digits; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e4 or value == 0 else f"{value:.3g}"


def fixed(value: float | None) -> str:
    """Three digits after the point; a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"


def percent(part: float | None) -> str:
    """As "87.3 %"; a dash where there is none."""
    return "–" if part is None else f"{part * 100:.1f} %"


def rate(value: float, digits: int = 2) -> str:
    """A learning rate, "1e-4", "2.5e-4" or "0.1", with so many digits at most."""
    if not value or value >= 0.01:
        return f"{value:.{digits}g}"
    shown, _, power = f"{value:.{digits - 1}e}".partition("e")
    return f"{shown.rstrip('0').rstrip('.')}e{int(power)}"


def shape(sizes: tuple[int, ...]) -> str:
    """As "320 × 7 × 7"."""
    return " × ".join(map(str, sizes))


def moment(time: str) -> str:
    """An ISO time to the minute, as "2026-11-22 01:02"."""
    return time[:16].replace("T", " ")


def table(
    headings: Sequence[str], rows: Iterable[Sequence[Any]], left: Collection[str] = (), **look: Any
) -> Table:
    """A table of texts, without markup; the first column and those in `left` begin at the left."""
    usual: dict[str, Any] = {"box": box.SIMPLE_HEAD, "pad_edge": False, "title_justify": "left"}
    made = Table(**usual | look)
    for i, heading in enumerate(headings):
        if i == 0 or heading in left:
            made.add_column(Text(heading), overflow="fold")
        else:
            made.add_column(Text(heading), justify="right", no_wrap=True)
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def pairs(rows: Iterable[tuple[str, str]], style: str = "") -> Table:
    """Names in this style, each with its text."""
    made = Table(box=None, pad_edge=False, show_header=False)
    for name, text in rows:
        made.add_row(Text(name, style), Text(text))
    return made
