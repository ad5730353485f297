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
    lowest = lowest_group(learner, known)
    if defaults is None:
        lowest = min([lowest, *_given_a_rate(learner.layer_groups, lr)])
    return replace(known, lowest=lowest)


def lowest_group(learner: LearnerState, defaults: FineTuneDefaults) -> int:
    """The first layer group of the second phase: `defaults.lowest` where it makes sense, else 0.

    All groups train if no layer of the body would train otherwise, if the network has no pretrained
    weights, or if its first layers were made for images with a different number of channels.
    """
    spec = learner.data.input
    known = learner.pretrained is not False and (spec is None or spec.channels == 3)
    return defaults.lowest if known and defaults.lowest < len(learner.layer_groups) - 1 else 0


def _given_a_rate(groups: LayerGroups, lr: Rate | None) -> list[int]:
    if lr is None or isinstance(lr, (int, float)):
        return []
    rates = spread_rates(lr, groups.names, (0.0,) * len(groups))
    return [index for index, rate in enumerate(rates) if rate > 0]


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
        reason = _reason_against_passes(groups, setup.figures)
        if not reason:
            # Outputs at the boundaries of later phases are cached in the same passes.
            also = [_boundary(groups, other) for other in later if other.stored]
            also = [boundary for boundary in also if boundary and boundary != groups.inactive]
            return train_head(state, phase, setup, also)
        _log.warning("The head trains through the whole network, because %s.", reason)
    return fit_phase(state, phase, setup)


def _boundary(groups: LayerGroups, phase: Phase) -> tuple[int, ...]:
    rates = groups.rates
    if phase.lr is not None:
        rates = spread_rates(phase.lr, groups.names, rates)
    first = 0 if phase.freeze_to is None else groups[phase.freeze_to].index
    return tuple(index for index, rate in enumerate(rates) if index < first or rate == 0)


def _reason_against_passes(groups: LayerGroups, defaults: FineTuneDefaults) -> str:
    """Why many passes over cached outputs would be expensive; empty if they are cheap."""
    work = [sum(block.flops for block in group.blocks) for group in groups]
    trains = sum(work) - sum(work[index] for index in groups.inactive)
    share = trains / max(1, sum(work))
    if share <= _CHEAP:
        return ""
    return (
        f"the layers that train are {share:.0%} of the network, too much for "
        f"{defaults.head_passes} passes"
    )
