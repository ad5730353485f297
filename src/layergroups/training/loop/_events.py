"""The events of a fit, and how callbacks receive them; `Callback` lists them in their order."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from layergroups.errors import LayerGroupsError, TrainingError
from layergroups.training.state import Event

if TYPE_CHECKING:
    from layergroups.training.loop._fit_context import FitContext

_log = logging.getLogger("layergroups")


class Callback(Protocol):
    """All events, in their order; a subclass overrides those that it needs.

        before_fit
            before_epoch
                before_step     the batch is on the device; with accumulate=n, for each of n batches
                after_step      the weights are updated; gradients are still there
                before_validate all steps of the epoch are done, in all processes; also without
                                validation
            after_epoch         validation is done, run.rows[-1] is this epoch's row
        after_fit               also after a callback has stopped the fit
        after_all               always, also after an error or Ctrl-C: to close what was opened

    A callback is any object with some of these methods; it need not inherit from anything.
    Callbacks are called in list order. To end a fit early, set `run.stop` to a reason.

    With several processes the callbacks run in all of them, each with its share of the batch, and
    must do the same to model, groups and rates; a reason to stop in one process stops all. In
    `after_all` they cannot wait for each other: one of them may have failed.

    Checkpoints of a fit include the state of callbacks that have `state_dict()` and
    `load_state_dict(state)` (tensors, numbers and strings, in any nesting of dicts and lists). A
    resumed fit calls `before_fit` first, then `load_state_dict`.
    """

    def before_fit(self, run: FitContext) -> None: ...
    def before_epoch(self, run: FitContext) -> None: ...
    def before_step(self, run: FitContext) -> None: ...
    def after_step(self, run: FitContext) -> None: ...
    def before_validate(self, run: FitContext) -> None: ...
    def after_epoch(self, run: FitContext) -> None: ...
    def after_fit(self, run: FitContext) -> None: ...
    def after_all(self, run: FitContext) -> None: ...


def notify(callbacks: Sequence[object], event: Event, run: FitContext) -> None:
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
    """Call `after_all` of every callback, even if some of them fail."""
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
    """In `after_epoch`: end the fit, and write the reason to the row of the epoch."""
    run.stop = reason
    amend_row(run, note=reason)


def amend_row(run: FitContext, **fields: Any) -> None:
    """Change fields of the row of the last epoch."""
    run.rows[-1] = replace(run.rows[-1], **fields)
    history = run.learner.history
    run.learner.history = replace(history, rows=(*history.rows[:-1], run.rows[-1]))
