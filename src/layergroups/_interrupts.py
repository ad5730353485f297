"""Ctrl-C and SIGTERM between two steps, never within one: they wait until all weights are updated.

In a fit SIGTERM (from schedulers and containers) is the same as Ctrl-C: it raises
KeyboardInterrupt, so that callbacks close what they opened and worker processes end.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Final

_SIGNALS: Final[tuple[int, ...]] = (signal.SIGINT, signal.SIGTERM)
_Handler = Callable[[int, FrameType | None], object]


class _Interrupts:
    """The handler of both signals while `interrupts` is active; setting one takes 10 µs."""

    def __init__(self, before: dict[int, _Handler]) -> None:
        self.before = before
        self.holding = False
        self._process = os.getpid()
        self._received: tuple[int, FrameType | None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process and number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)  # a forked worker ends as any process
            os.kill(os.getpid(), number)
        elif self.holding:
            self._received = (number, frame)
        else:
            self.before[number](number, frame)

    def release(self) -> None:
        """Pass on a signal that was held back, and those that follow."""
        received, self.holding, self._received = self._received, False, None
        if received is not None:
            self.before[received[0]](*received)


@contextmanager
def interrupts() -> Iterator[None]:
    """For a whole fit: SIGTERM acts as Ctrl-C, and the many `uninterrupted` moments are quick."""
    before: dict[int, _Handler] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            if number == signal.SIGTERM and handler is signal.SIG_DFL:
                before[number] = _terminate
            elif callable(handler) and not isinstance(handler, _Interrupts):
                before[number] = handler
    own = _Interrupts(before)
    replaced = {number: signal.signal(number, own) for number in before}
    try:
        yield
    finally:
        for number, handler in replaced.items():
            if signal.getsignal(number) is own:  # else somebody has set another meanwhile
                signal.signal(number, handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)  # see `is_termination`


def is_termination(cause: KeyboardInterrupt) -> bool:
    """Whether it comes from SIGTERM, which ends the program, and not from Ctrl-C."""
    return cause.args == (signal.SIGTERM.name,)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back for a moment; they act on leaving."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    in_fit = isinstance(signal.getsignal(signal.SIGINT), _Interrupts)
    with nullcontext() if in_fit else interrupts():
        handlers = [h for h in map(signal.getsignal, _SIGNALS) if isinstance(h, _Interrupts)]
        handlers = [handler for handler in dict.fromkeys(handlers) if not handler.holding]
        for handler in handlers:
            handler.holding = True
        try:
            yield
        finally:
            for handler in handlers:
                handler.release()
