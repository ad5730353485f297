"""What a person sees while training: a bar and a row for each epoch, pictures in a notebook.

Text goes to stderr, so that stdout stays free for data.
"""

from __future__ import annotations

import importlib
import io
import math
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from layergroups.errors import TrainingError
from layergroups.training.state._history import EpochRow, cells, headings

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Reporter(Protocol):
    """What the loop tells whoever shows it."""

    def bar(self, title: str, total: int) -> Bar:
        """A context manager around `total` steps of work."""

    def row(self, row: EpochRow) -> None:
        """An epoch is done."""


class Bar(Protocol):
    """Steps of work being done; use as a context manager."""

    def __enter__(self) -> Bar: ...
    def __exit__(self, *_: object) -> None: ...
    def advance(self, loss: float = math.nan) -> None:
        """One more step is done."""


class Silent:
    """Shows nothing."""

    def bar(self, title: str, total: int) -> Bar:
        """A bar that shows nothing."""
        return _NoBar()

    def row(self, row: EpochRow) -> None:
        """Nothing."""


class _NoBar:
    def __enter__(self) -> _NoBar:
        return self

    def __exit__(self, *_: object) -> None: ...
    def advance(self, loss: float = math.nan) -> None: ...


class _RichBar:
    """A progress bar that vanishes when its work is done."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
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
        if time.monotonic() - self._drawn < 0.1:
            return
        self._drawn = time.monotonic()
        note = "" if math.isnan(loss) else f"loss {loss:.4f}"
        self._progress.update(self._task, completed=self._done, note=note)


class Terminal:
    """Bars where stderr is a terminal; a table row for each epoch in any case."""

    def __init__(self) -> None:
        self._shown: list[str] = []
        self._widths: list[int] = []

    def bar(self, title: str, total: int) -> Bar:
        """A live bar in a terminal, nothing elsewhere."""
        console = _console()
        return _RichBar(console, title, total) if console.is_terminal else _NoBar()

    def row(self, row: EpochRow) -> None:
        """Print a row, below headings when the columns are new."""
        names = list(row.metrics) or self._metrics_shown()
        columns, values = headings(names), cells(row, names)
        if columns != self._shown or any(
            len(value) > width for value, width in zip(values, self._widths, strict=True)
        ):
            self._shown = columns
            self._widths = [max(len(c), len(v), 8) for c, v in zip(columns, values, strict=True)]
            self._print(columns, style="bold")
        self._print(values)

    def _metrics_shown(self) -> list[str]:
        return self._shown[4:-3]

    def _print(self, texts: Sequence[str], style: str = "") -> None:
        line = "  ".join(t.rjust(w) for t, w in zip(texts, self._widths, strict=True))
        _console().print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def _console() -> Console:
    # Made when it is needed, so that it writes to what sys.stderr is then.
    return Console(file=sys.stderr)


def reporter(progress: bool | Reporter) -> Reporter:
    """`Terminal` for True, `Silent` for False, or the one that is given."""
    if isinstance(progress, bool):
        return Terminal() if progress else Silent()
    if not (hasattr(progress, "bar") and hasattr(progress, "row")):
        raise TrainingError(
            f"progress={progress!r} must be True, False, or an object with bar and row."
        )
    return progress


def in_notebook() -> bool:
    """Whether this runs in a kernel that can show pictures."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def show(draw: Callable[[], Figure]) -> None:
    """Draw and show a picture, if this is a notebook."""
    if in_notebook():
        display: Any = importlib.import_module("IPython.display")
        data = io.BytesIO()
        draw().savefig(data, format="png", dpi=110)
        display.display(display.Image(data=data.getvalue()))
