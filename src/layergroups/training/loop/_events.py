"""Callbacks: what may happen at which moment of a fit. The one list of all events is here.

Order within a fit:

    before_fit
        before_epoch
            before_step     the batch is on the device; with accumulate=n, for each of n batches
            after_step      the weights have moved; gradients are still there
            before_validate all steps of the epoch are done, in all processes; also without
                            validation
        after_epoch         validation is done, run.rows[-1] is this epoch's row
    after_fit               also after a callback has stopped the fit
    after_all               always, also after an error or Ctrl-C: to close what was opened

Ready ones are in `training.callbacks`. A callback is any object with some of these methods; it
need not inherit from anything. Callbacks are called in the order in which they are listed. To end
a fit early, set `run.stop` to a reason.

With several processes the callbacks run in all of them, each with its share of the batch, and must
do the same to model, groups and rates; a reason to stop in one process stops all. In `after_all`
they cannot wait for each other: one of them may have failed.

A callback with `state_dict()` and `load_state_dict(state)` has its state in the checkpoints of a
fit (tensors, numbers, texts, in any nesting of dicts and lists); a resumed fit calls `before_fit`
first, then `load_state_dict`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, Literal, Protocol, get_args

from layergroups.errors import LayerGroupsError, TrainingError

if TYPE_CHECKING:
    from layergroups.training.loop._fit_context import FitContext


Event = Literal[
    "before_fit",
    "before_epoch",
    "before_step",
    "after_step",
    "before_validate",
    "after_epoch",
    "after_fit",
    "after_all",
]
_log = logging.getLogger("layergroups")
EVENTS: Final[tuple[str, ...]] = get_args(Event)


class Callback(Protocol):
    """All events; a class that inherits from this one overrides those it needs."""

    def before_fit(self, run: FitContext) -> None:
        """Once, before the first epoch."""

    def before_epoch(self, run: FitContext) -> None:
        """Before the epoch's first batch."""

    def before_step(self, run: FitContext) -> None:
        """The model may still be changed here; the step sees the change."""

    def after_step(self, run: FitContext) -> None:
        """After the optimizer has moved the weights."""

    def before_validate(self, run: FitContext) -> None:
        """After the epoch's last step; what is in the model now is validated."""

    def after_epoch(self, run: FitContext) -> None:
        """After validation."""

    def after_fit(self, run: FitContext) -> None:
        """Once, after the last epoch."""

    def after_all(self, run: FitContext) -> None:
        """Once, whatever happened."""


def notify(callbacks: Sequence[object], event: Event, run: FitContext) -> None:
    """Call one event of every callback that has it."""
    for callback in callbacks:
        method = getattr(callback, event, None)
        if method is None:
            continue
        try:
            method(run)
        except LayerGroupsError:
            raise
        except Exception as cause:
            raise TrainingError(
                f"Callback {type(callback).__name__} failed in {event} "
                f"(epoch {run.epoch}, step {run.step}): {type(cause).__name__}: {cause}"
            ) from cause


def notify_last(callbacks: Sequence[object], run: FitContext, *, quietly: bool) -> None:
    """Call `after_all` of every callback, whatever the others do."""
    failures: list[LayerGroupsError] = []
    for callback in callbacks:
        try:
            notify([callback], "after_all", run)
        except LayerGroupsError as failure:
            failures.append(failure)
    for other in failures[0 if quietly else 1 :]:
        _log.warning("%s", other)
    if failures and not quietly:
        raise failures[0]


def end_after(run: FitContext, reason: str) -> None:
    """In `after_epoch`: end the fit, and note why in the row of the epoch."""
    run.stop = reason
    noted = replace(run.rows[-1], note=reason)
    run.rows[-1] = noted
    run.learner.history = replace(run.learner.history, rows=(*run.learner.history.rows[:-1], noted))


def checked(callbacks: Sequence[object] | None) -> list[object]:
    """The callbacks as a list; None for none."""
    if callbacks is None:
        return []
    if not isinstance(callbacks, Sequence):
        raise TrainingError(f"callbacks={callbacks!r} must be a list: callbacks=[{callbacks!r}].")
    for callback in callbacks:
        if isinstance(callback, type):
            raise TrainingError(
                f"{callback.__name__} is a class; callbacks are objects: {callback.__name__}()."
            )
        if not any(hasattr(callback, event) for event in EVENTS):
            raise TrainingError(
                f"{type(callback).__name__} has none of the events of a callback: "
                f"{', '.join(EVENTS)}."
            )
    return list(callbacks)
