"""Progress bars, epoch rows and notebook pictures. Text goes to stderr: stdout is for data."""

from __future__ import annotations

import importlib
import io
import math
import sys
import time
from collections.abc import Callable, Sequence
from html import escape
from typing import Any, Final, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from layergroups._drawing import Figure
from layergroups._formatting import current_cell, duration, in_notebook_text, plain_text
from layergroups.errors import TrainingError
from layergroups.training.state._history import EpochRow, cells, headings, mark_live, table_of

_WIDTHS: Final = {"phase": 5, "rates": 14, "time": 10}  # of the columns whose values vary most
_LESS_NEEDED: Final = ("frozen", "rates")
_NOTEBOOK_SECONDS: Final = 0.25  # between two states of a bar


class Reporter(Protocol):
    """Shows the progress of a fit."""

    def bar(self, title: str, total: int) -> Bar:
        """A context manager around `total` steps of work."""

    def row(self, row: EpochRow) -> None:
        """Show the row of a finished epoch."""


class Bar(Protocol):
    """A progress bar; use it as a context manager."""

    def __enter__(self) -> Bar: ...
    def __exit__(self, *_: object) -> None: ...
    def advance(self, loss: float = math.nan) -> None:
        """Count one more step."""


class _RichBar:
    """A progress bar that vanishes when its work is done; shows nothing without a console."""

    def __init__(self, console: Console | None, title: str, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=console is None or not console.is_terminal,
        )
        self._done, self._drawn = 0, 0.0
        self._task: TaskID = self._progress.add_task(title, total=total, note="")

    def __enter__(self) -> _RichBar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, loss: float = math.nan) -> None:
        self._done += 1
        if self._progress.disable or time.monotonic() - self._drawn < 0.1:
            return
        self._drawn = time.monotonic()
        note = "" if math.isnan(loss) else f"loss {loss:.4f}"
        self._progress.update(self._task, completed=self._done, note=note)


class Silent:
    """A reporter that shows nothing."""

    def bar(self, title: str, total: int) -> Bar:
        return _RichBar(None, title, total)

    def row(self, row: EpochRow) -> None: ...


class Terminal:
    """Prints a table row for each epoch, and shows bars if stderr is a terminal."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._widths: list[int] = []

    def bar(self, title: str, total: int) -> Bar:
        return _RichBar(_console(), title, total)

    def row(self, row: EpochRow) -> None:
        """Print a row, with headings when the columns change."""
        names = list(row.metrics) or self._shown[4:-3]  # the metrics of the row before
        columns, values = headings(names), cells(row, names)
        if columns != self._shown or any(
            len(value) > width for value, width in zip(values, self._widths, strict=True)
        ):
            self._shown = columns
            self._widths = [
                max(len(name), len(value), _WIDTHS.get(name, 0))
                for name, value in zip(columns, values, strict=True)
            ]
            self._print(columns, style="bold")
        self._print(values)

    def _print(self, texts: Sequence[str], style: str = "") -> None:
        """Print the columns for which a terminal has room; a file gets all."""
        console = _console()
        shown = {n: t.rjust(w) for n, t, w in zip(self._shown, texts, self._widths, strict=True)}
        for name in _LESS_NEEDED if console.is_terminal else ():
            if len(" ".join(shown.values())) > console.width:
                shown.pop(name)
        gap = "  " if len("  ".join(shown.values())) <= console.width else " "
        line = gap.join(shown.values())
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


class Notebook:
    """One table of epochs with one bar below it, in one output of the cell that runs."""

    def __init__(self) -> None:
        self._cell: int | None = None
        self._handle: Any = None
        self._rows: list[EpochRow] = []

    def bar(self, title: str, total: int) -> Bar:
        return _NotebookBar(self, title, total)

    def row(self, row: EpochRow) -> None:
        self._renew()
        self._rows.append(row)
        mark_live(self._cell, self._rows)
        self.draw()

    def draw(self, bar: str = "") -> None:
        """Show the rows, and the HTML of a bar."""
        self._renew()
        display: Any = importlib.import_module("IPython.display")
        rows = in_notebook_text(plain_text(table_of(self._rows), 1000)) if self._rows else ""
        shown = display.HTML(rows + bar)
        if self._handle is None:
            self._handle = display.display(shown, display_id=True)
        else:
            self._handle.update(shown)

    def _renew(self) -> None:
        """Begin a new output in a new cell."""
        if self._cell != current_cell():
            self._cell, self._handle, self._rows = current_cell(), None, []


class _NotebookBar:
    """A progress bar in the output of a `Notebook`, which vanishes when its work is done."""

    def __init__(self, notebook: Notebook, title: str, total: int) -> None:
        self._notebook, self._title, self._total = notebook, title, total
        self._done, self._drawn, self._started = 0, 0.0, time.monotonic()

    def __enter__(self) -> _NotebookBar:
        self._draw("")
        return self

    def __exit__(self, *_: object) -> None:
        self._notebook.draw()

    def advance(self, loss: float = math.nan) -> None:
        self._done += 1
        if time.monotonic() - self._drawn >= _NOTEBOOK_SECONDS:
            self._draw("" if math.isnan(loss) else f", loss {loss:.4f}")

    def _draw(self, note: str) -> None:
        self._drawn = time.monotonic()
        elapsed = self._drawn - self._started
        left = elapsed / self._done * (self._total - self._done) if self._done else 0
        note += f", {duration(left)} left" if left >= 1 else ""
        words = escape(f"{self._title}: {self._done} of {self._total}{note}")
        bar = f'<progress value="{self._done}" max="{self._total}"></progress>'
        self._notebook.draw(f"<div>{bar} {words}</div>")


def _console() -> Console:
    # A new console each time, so that it writes to the current sys.stderr.
    return Console(file=sys.stderr)


def checked_progress(progress: bool | Reporter) -> bool | Reporter:
    if isinstance(progress, bool) or (hasattr(progress, "bar") and hasattr(progress, "row")):
        return progress
    raise TrainingError(
        f"progress={progress!r} must be True, False, or an object with bar and row."
    )


def reporter(progress: bool | Reporter) -> Reporter:
    """`Terminal` or `Notebook` for True, `Silent` for False, or the given object."""
    if not isinstance(progress, bool):
        return progress
    if not progress:
        return Silent()
    return Terminal() if current_cell() is None else Notebook()


def show(draw: Callable[[], Figure]) -> None:
    """Draw and show a figure in a notebook; do nothing elsewhere."""
    if current_cell() is not None:
        display: Any = importlib.import_module("IPython.display")
        data = io.BytesIO()
        draw().savefig(data, format="png", dpi=110)
        display.display(display.Image(data=data.getvalue()))
