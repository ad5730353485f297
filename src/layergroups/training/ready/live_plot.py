"""Curves that grow in a notebook while training."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layergroups.reports.curves import curves_png
from layergroups.training.ready.arguments import number

if TYPE_CHECKING:
    from layergroups.training.run import Run

_log = logging.getLogger("layergroups")
_REST = 10  # drawing takes at most a tenth of the time
_POINTS = 2000  # losses of steps that are kept; beyond it every second one is left out


class LivePlot:
    """Draws losses, metrics and rates of all groups below the cell in which a fit runs.

    It draws after each epoch, and within one at most every few seconds. In a terminal it draws
    nothing and says so. `png()` gives the last picture anywhere. In fastai: ShowGraphCallback.

    Args:
        seconds: from one picture to the next within an epoch.

    Raises:
        TrainingError: `seconds` is no number of seconds.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        self.seconds = number("seconds", seconds, 0, 3600, 2.0)
        self._places: list[float] = []
        self._losses: list[float] = []
        self._every = 1
        self._handle: Any = None
        self._next = 0.0
        self._rows: list[Any] = []
        self._names: tuple[str, ...] = ()

    def before_fit(self, run: Run) -> None:
        """A new picture; nothing but a word where there is no notebook."""
        self._places, self._losses, self._every, self._handle = [], [], 1, None
        self._rows, self._names = [], tuple(run.groups.names)
        if run.processes.is_main and not in_notebook():
            _log.warning("LivePlot draws in notebooks only; here the rows tell the same.")

    def after_step(self, run: Run) -> None:
        """Keep the loss, and draw where it is time."""
        if run.step % self._every == 0 and not math.isnan(run.losses.latest):
            self._places.append(run.step / run.steps * run.epochs)
            self._losses.append(run.losses.latest)
        if len(self._losses) > _POINTS:
            self._places, self._losses = self._places[::2], self._losses[::2]
            self._every *= 2
        if time.monotonic() >= self._next:
            self._draw(run)

    def after_epoch(self, run: Run) -> None:
        """Draw the new row."""
        self._draw(run)

    def after_all(self, run: Run) -> None:
        """Draw a last time, also the row of an interrupted epoch."""
        self._draw(run)

    def png(self) -> bytes:
        """The picture of the last fit, as a PNG file."""
        return curves_png(self._rows, self._places, self._losses, self._names)

    def state_dict(self) -> dict[str, Any]:
        """The losses of the steps."""
        return {"places": self._places, "losses": self._losses, "every": self._every}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._places, self._losses = list(state["places"]), list(state["losses"])
        self._every = int(state["every"])

    def _draw(self, run: Run) -> None:
        self._rows, started = list(run.rows), time.monotonic()
        if not run.processes.is_main or not in_notebook():
            return
        from IPython.display import Image, display

        picture = Image(data=self.png(), format="png", retina=True)
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        took = time.monotonic() - started
        self._next = time.monotonic() + max(self.seconds, _REST * took)


def in_notebook() -> bool:
    """Whether this runs in a kernel that can show pictures."""
    if "IPython" not in sys.modules:
        return False
    shell = sys.modules["IPython"].get_ipython()
    return shell is not None and hasattr(shell, "kernel")
