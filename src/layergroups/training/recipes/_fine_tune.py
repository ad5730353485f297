"""`fine_tune` as a list of phases (`plan_fine_tune`), and running phases (`run_phases`)."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

from layergroups._checks import number, whole_number
from layergroups._interrupts import interrupts, uninterrupted
from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups, Rate, spread_rates
from layergroups.tasks import check_metrics
from layergroups.training.callbacks import check_folders
from layergroups.training.hardware import keep_freed_memory
from layergroups.training.loop import FitContext, Snapshot
from layergroups.training.recipes._phases import (
    FineTuneDefaults,
    FitSetup,
    Phase,
    fit_phase,
)
from layergroups.training.recipes._train_head import train_head
from layergroups.training.state import History

if TYPE_CHECKING:
    from layergroups.training.state import LearnerState

_log = logging.getLogger("layergroups")
_CHEAP = 0.05  # maximum part of the network's work at which many passes of the head are cheap


def plan_fine_tune(
    epochs: int,
    *,
    base_lr: float | None = None,
    freeze_epochs: int = 1,
    lr: Rate | None = None,
    feature_cache: bool = True,
    defaults: FineTuneDefaults | None = None,
) -> tuple[Phase, ...]:
    """The phases of `fine_tune`: the head alone, then the groups from `lowest` on."""
    whole_number("epochs", epochs, 0, 4)
    whole_number("freeze_epochs", freeze_epochs, 0, 1)
    if base_lr is not None:
        number("base_lr", base_lr, 0, math.inf, 1e-3)
    known = defaults or FineTuneDefaults()
    head_lr = known.base_lr if base_lr is None else base_lr
    all_lr = head_lr * known.unfrozen_ratio if lr is None else lr
    phases = (
        Phase(
            name="head",
            epochs=freeze_epochs,
            freeze_to=-1,
            lr=head_lr,
            schedule=known.head_schedule,
            from_store=feature_cache,
            stored=feature_cache,
        ),
        Phase(
            name="late" if known.lowest else "all",
            epochs=epochs,
            freeze_to=known.lowest,
            lr=all_lr,
            schedule=known.schedule,
            stored=feature_cache,
            passes=known.passes,
        ),
    )
    return tuple(phase for phase in phases if phase.epochs)


def fitted(
    learner: LearnerState, defaults: FineTuneDefaults | None, lr: Rate | None = None
) -> FineTuneDefaults:
    """The settings for this learner: `lowest` adapted to its groups and to the rates."""
    if defaults is not None and not isinstance(defaults, FineTuneDefaults):
        raise TrainingError(
            f"defaults= is a {type(defaults).__name__}. Use fine_tune(4, "
            "defaults=FineTuneDefaults(lowest=0))."
        )
    known = defaults or FineTuneDefaults()
    groups, spec = learner.layer_groups, learner.data.input
    lowest = known.lowest
    if learner.pretrained is False or (spec and spec.channels != 3) or lowest >= len(groups) - 1:
        lowest = 0
    if defaults is None and lr is not None and not isinstance(lr, (int, float)):
        rates = spread_rates(lr, groups.names, (0.0,) * len(groups))
        lowest = min([lowest, *(index for index, rate in enumerate(rates) if rate > 0)])
    return replace(known, lowest=lowest)


def run_phases(state: LearnerState, phases: Sequence[Phase], setup: FitSetup) -> History:
    """Run the phases of a fit in order.

    A phase that fails before its first optimizer step (a wrong callback or loss, a folder with an
    earlier run, nothing to train) leaves the learner unchanged, its random states too.
    """
    rows = History()
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
                noted = replace(setup, callbacks=(*setup.callbacks, notes))
                rows += _run_phase(state, phase, noted, phases[number:])
            except BaseException:
                if not any(run.begun for run in runs):
                    with uninterrupted():
                        before.restore()
                raise
    return rows


def _run_phase(
    state: LearnerState, phase: Phase, setup: FitSetup, later: Sequence[Phase]
) -> History:
    check_metrics(state.metrics, state.task)  # one may have been appended to the list
    groups = state.layer_groups
    phase.apply(groups)
    if phase.from_store:
        work = [sum(block.flops for block in group.blocks) for group in groups]
        share = 1 - sum(work[index] for index in groups.inactive) / max(1, sum(work))
        if share <= _CHEAP:
            # Outputs at the boundaries of later phases are cached in the same passes.
            also = [_boundary(groups, other) for other in later if other.stored]
            also = [boundary for boundary in also if boundary and boundary != groups.inactive]
            return train_head(state, phase, setup, also)
        _log.warning(
            "The head trains through the whole network, because the layers that train are %.0f%% "
            "of the network, too much for %d passes.",
            100 * share,
            setup.figures.head_passes,
        )
    return fit_phase(state, phase, setup)


def _boundary(groups: LayerGroups, phase: Phase) -> tuple[int, ...]:
    rates = groups.rates
    if phase.lr is not None:
        rates = spread_rates(phase.lr, groups.names, rates)
    first = 0 if phase.freeze_to is None else groups[phase.freeze_to].index
    return tuple(index for index, rate in enumerate(rates) if index < first or rate == 0)
