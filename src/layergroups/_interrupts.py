"""Ctrl-C between two steps, never within one: it is held back until the weights have all moved."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class _Interrupts:
    """Holds back Ctrl-C at a flag while it is the handler of it; setting a handler takes 10 µs."""

    def __init__(self, before: Callable[[int, FrameType | None], object]) -> None:
        self.before = before
        self.holding = False
        self._received: tuple[int, FrameType | None] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.holding:
            self._received = (number, frame)
        else:
            self.before(number, frame)

    def release(self) -> None:
        """Let through what was held back, and what comes."""
        received, self.holding, self._received = self._received, False, None
        if received is not None:
            self.before(*received)


@contextmanager
def interrupts() -> Iterator[None]:
    """For a whole fit, so that the many `uninterrupted` moments in it are quick."""
    before = signal.getsignal(signal.SIGINT)
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or not callable(before) or isinstance(before, _Interrupts):
        yield
        return
    own = _Interrupts(before)
    signal.signal(signal.SIGINT, own)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is own:  # else somebody has set another meanwhile
            signal.signal(signal.SIGINT, before)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C for a moment; it is raised on leaving."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    if not isinstance(handler, _Interrupts):
        with interrupts():
            handler = signal.getsignal(signal.SIGINT)
            yield from _held(handler)
        return
    yield from _held(handler)


def _held(handler: object) -> Iterator[None]:
    if not isinstance(handler, _Interrupts) or handler.holding:
        yield
        return
    handler.holding = True
    try:
        yield
    finally:
        handler.release()
