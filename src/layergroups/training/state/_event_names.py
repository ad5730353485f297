"""The names of the events of a fit, and which objects are callbacks."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final, Literal, get_args

from layergroups._formatting import first_few
from layergroups._suggestions import nearest
from layergroups.errors import TrainingError

_log = logging.getLogger("layergroups")
Event = Literal[
    "before_fit", "before_epoch", "before_step", "after_step",
    "before_validate", "after_epoch", "after_fit", "after_all",
]  # fmt: skip
EVENTS: Final[tuple[str, ...]] = get_args(Event)


def checked_callbacks(callbacks: Sequence[object] | None) -> list[object]:
    """A list of callbacks: objects, each with an event at least."""
    if callbacks is None:
        return []
    if not isinstance(callbacks, Sequence):
        raise TrainingError(f"callbacks={callbacks!r} must be a list: callbacks=[{callbacks!r}].")
    for callback in callbacks:
        if isinstance(callback, type):
            raise TrainingError(
                f"{callback.__name__} is a class; callbacks are objects: {callback.__name__}()."
            )
        _check_events(callback)
    return list(callbacks)


def _check_events(callback: object) -> None:
    """It has events of a callback, and no method that looks like one and is never called."""
    kind: Any = type(callback)
    inherited = {getattr(base, e, None) for base in kind.__mro__ for e in EVENTS if _is_base(base)}
    own = [e for e in EVENTS if hasattr(callback, e) and getattr(kind, e, 0) not in inherited]
    if not own:
        raise TrainingError(
            f"{kind.__name__} has none of the events of a callback: {', '.join(EVENTS)}."
        )
    _warn_of_odd_events(kind)


@lru_cache(maxsize=64)  # once for each class
def _warn_of_odd_events(kind: type) -> None:
    alike = [name for name in dir(kind) if name.startswith(("before_", "after_", "on_"))]
    if odd := [name for name in alike if name not in EVENTS]:
        _log.warning(
            "%s: a fit never calls %s, since the events are %s.%s",
            kind.__name__, first_few(odd), ", ".join(EVENTS), nearest(odd[0], EVENTS),
        )  # fmt: skip


def _is_base(kind: type) -> bool:
    """Whether it is `Callback`, whose events do nothing."""
    return kind.__name__ == "Callback" and kind.__module__.startswith("layergroups.")
