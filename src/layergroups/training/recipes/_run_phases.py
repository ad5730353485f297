"""Run the phases of a fit, one after the other (`run_phases`)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

from layergroups._interrupts import interrupts, uninterrupted
from layergroups.groups import LayerGroups, spread_rates
from layergroups.tasks import check_metrics
from layergroups.training.callbacks import check_folders
from layergroups.training.hardware import keep_freed_memory
from layergroups.training.loop import FitContext, Snapshot
from layergroups.training.recipes._held_out import HeldOut
from layergroups.training.recipes._phases import (
    FitSetup,
    Phase,
    fit_phase,
)
from layergroups.training.recipes._plan import FineTunePlan, RecordPlan
from layergroups.training.recipes._train_head import train_head
from layergroups.training.state import History

if TYPE_CHECKING:
    from layergroups.training.state import LearnerState

_log = logging.getLogger("layergroups")
# Many passes of the head are cheap up to this part of the network's work, or so many operations for
# each item: a linear layer for 1000 classes is a third of a small network on small images.
_CHEAP = 0.05
_FEW = 10_000_000


def run_phases(
    state: LearnerState,
    phases: Sequence[Phase],
    setup: FitSetup,
    plan: FineTunePlan | None = None,
) -> History:
    """Run the phases of a fit in order; those of `fine_tune` complete its plan.

    A phase that fails before its first optimizer step (a wrong callback or loss, a folder with an
    earlier run, nothing to train) leaves the learner unchanged, its random states too.
    """
    rows, record = History(), None if plan is None else RecordPlan(plan)
    if record is not None:
        setup = replace(setup, callbacks=(*setup.callbacks, record))
    if any(phase.interpolate and phase.epochs for phase in phases):
        setup = replace(setup, held_out=HeldOut.of(state.data, setup.figures.hold_out))
    if setup.checkpoints is not None:
        with state.processes.failing_together():
            signatures = [setup.signature(state, phase) for phase in phases if phase.epochs]
            check_folders(setup.checkpoints, state, signatures)
    with interrupts(), keep_freed_memory():
        for number, phase in enumerate(phases, start=1):
            state.placed_model()
            before, runs = Snapshot(state, weights=False), list[FitContext]()
            notes = SimpleNamespace(before_fit=runs.append)
            try:
                later = phases[number:]
                noted = replace(
                    setup, callbacks=(*setup.callbacks, notes), earlier=rows, is_last=not later
                )
                done = _run_phase(state, phase, noted, later)
            except BaseException:
                if not any(run.begun for run in runs):
                    with uninterrupted():
                        before.restore()
                raise
            if record is not None:
                record.resume(done.rows)
                state._last_plan = record.plan
            rows += done
    return rows


def _run_phase(
    state: LearnerState, phase: Phase, setup: FitSetup, later: Sequence[Phase]
) -> History:
    check_metrics(state.metrics, state.task)  # one may have been appended to the list
    groups = state.layer_groups
    phase.apply(groups)
    if phase.from_store:
        work = [sum(block.flops for block in group.blocks) for group in groups]
        training = sum(work) - sum(work[index] for index in groups.inactive)
        share = training / max(1, sum(work))
        if share <= _CHEAP or (training <= _FEW and not state.task.per_pixel):
            # Outputs at the boundaries of later phases are cached in the same passes.
            also = [_boundary(groups, other) for other in later if other.stored]
            also = [boundary for boundary in also if boundary and boundary != groups.inactive]
            return train_head(state, phase, setup, also)
        _log.warning(
            "The head trains through the whole network, because the layers that train are %.0f%% "
            "of the network, too much for many passes.",
            100 * share,
        )
    return fit_phase(state, phase, setup)


def _boundary(groups: LayerGroups, phase: Phase) -> tuple[int, ...]:
    rates = groups.rates
    if phase.lr is not None:
        rates = spread_rates(phase.lr, groups.names, rates)
    first = 0 if phase.freeze_to is None else groups[phase.freeze_to].index
    return tuple(index for index, rate in enumerate(rates) if index < first or rate == 0)
