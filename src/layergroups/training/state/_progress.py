"""Progress bars, epoch rows and notebook pictures. Text goes to stderr: stdout is for data."""

from __future__ import annotations

import importlib
import io
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

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
from layergroups.errors import TrainingError
from layergroups.training.state._history import EpochRow, cells, headings


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
            self._widths = [max(len(c), len(v), 8) for c, v in zip(columns, values, strict=True)]
            self._print(columns, style="bold")
        self._print(values)

    def _print(self, texts: Sequence[str], style: str = "") -> None:
        line = "  ".join(t.rjust(w) for t, w in zip(texts, self._widths, strict=True))
        _console().print(line, style=style, markup=False, highlight=False, soft_wrap=True)


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
    """`Terminal` for True, `Silent` for False, or the given object."""
    if isinstance(progress, bool):
        return Terminal() if progress else Silent()
    return progress


def in_notebook() -> bool:
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def show(draw: Callable[[], Figure]) -> None:
    """Draw and show a figure in a notebook; do nothing elsewhere."""
    if in_notebook():
        display: Any = importlib.import_module("IPython.display")
        data = io.BytesIO()
        draw().savefig(data, format="png", dpi=110)
        display.display(display.Image(data=data.getvalue()))
