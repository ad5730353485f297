"""Ctrl-C between two steps, never within one, so that what was learned is whole."""

from __future__ import annotations

import signal
from types import FrameType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from layergroups.training import Run


class Interrupts:
    """Holds back Ctrl-C while an optimizer step is on its way; use as a context manager.

    It is a callback of the learner too. A second Ctrl-C is not held back.
    """

    def __init__(self) -> None:
        self.steps = 0
        self._stepping = False
        self._waiting = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def before_step(self, run: Run) -> None:
        """From here on Ctrl-C waits."""
        self._stepping = True

    def after_step(self, run: Run) -> None:
        """The weights have moved: now it may come."""
        self._stepping = False
        self.steps += 1
        if self._waiting:
            raise KeyboardInterrupt

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._stepping or self._waiting:
            raise KeyboardInterrupt
        self._waiting = True


def ignore_interrupts() -> None:
    """From now on Ctrl-C does nothing: what was learned is being saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
