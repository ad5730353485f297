"""Recipes: how to fine-tune, as a plan that is data, and a thin doing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from layergroups.errors import TrainingError
from layergroups.groups import Rate
from layergroups.training.callbacks import checked
from layergroups.training.features import why_not
from layergroups.training.head_phase import train_head
from layergroups.training.history import History
from layergroups.training.schedules import OneCycle, Schedule
from layergroups.training.sharding import wants_sharding

if TYPE_CHECKING:
    from layergroups.training.autosave import Autosave
    from layergroups.training.learner import Learner

_log = logging.getLogger("layergroups")


@dataclass(frozen=True, kw_only=True)
class FineTuneDefaults:
    """Every figure of `fine_tune` in one place, chosen by measurement.

    Attributes:
        base_lr: rate of the head while the body is frozen.
        unfrozen_ratio: rate of all groups afterwards, as a part of base_lr.
        lowest: the first layer group that trains afterwards; 0 trains all. 1 leaves the early group
            frozen, so that its outputs are kept too and cost nothing in the later epochs.
        views: augmented views of each training photo for one frozen epoch.
        head_passes: the most passes of the head over its stored features.
        hold_out: part of the training photos by which the best head is chosen.
        patience: passes without a better loss on them after which the head is done.
        head_schedule: over all passes of the head.
        schedule: over the unfrozen epochs.
        max_bytes: the most memory for stored features.
    """

    base_lr: float = 1e-3
    unfrozen_ratio: float = 0.1
    lowest: int = 0
    views: int = 2
    head_passes: int = 20
    hold_out: float = 0.1
    patience: int = 5
    head_schedule: Schedule = field(default_factory=OneCycle)
    schedule: Schedule = field(default_factory=lambda: OneCycle(div=5.0))
    max_bytes: int = 1 << 30


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a recipe.

    Attributes:
        name: for the history.
        epochs: passes over the training photos.
        freeze_to: the first layer group that trains, as in `freeze_to`; 0 trains all.
        lr: a rate for each group.
        schedule: the multiplier on it.
        from_store: train the head to the end on stored outputs of the body, where possible.
        stored: let frozen layers run once only, as `fit` does.
    """

    name: str
    epochs: int
    freeze_to: int
    lr: Rate
    schedule: Schedule
    from_store: bool = False
    stored: bool = True


def plan_fine_tune(
    epochs: int,
    *,
    base_lr: float | None = None,
    freeze_epochs: int = 1,
    lr: Rate | None = None,
    store: bool = True,
    defaults: FineTuneDefaults | None = None,
) -> tuple[Phase, ...]:
    """The phases of `fine_tune`: the head alone, then all groups. Changes nothing.

    Raises:
        TrainingError: a number of epochs is negative or not whole.
    """
    for name, value in (("epochs", epochs), ("freeze_epochs", freeze_epochs)):
        if not isinstance(value, int) or value < 0:
            raise TrainingError(f"{name}={value!r} must be a whole number of epochs, 0 or more.")
    if base_lr is not None and not (isinstance(base_lr, (int, float)) and base_lr >= 0):
        raise TrainingError(f"base_lr={base_lr!r} must be a rate from 0, such as 1e-3.")
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
            from_store=store,
            stored=store,
        ),
        Phase(
            name="late" if known.lowest else "all",
            epochs=epochs,
            freeze_to=known.lowest,
            lr=all_lr,
            schedule=known.schedule,
            stored=store,
        ),
    )
    return tuple(phase for phase in phases if phase.epochs)


def run_plan(
    learner: Learner,
    phases: tuple[Phase, ...],
    defaults: FineTuneDefaults | None = None,
    plan: Autosave | None = None,
    callbacks: Sequence[object] | None = (),
) -> History:
    """Do the phases one after another, each saved as planned, each with these callbacks."""
    rows, each = History(), checked(callbacks)
    for phase in phases:
        rows += run_phase(learner, phase, defaults or FineTuneDefaults(), plan, each)
    return rows


def run_phase(
    learner: Learner,
    phase: Phase,
    defaults: FineTuneDefaults,
    plan: Autosave | None = None,
    callbacks: Sequence[object] = (),
) -> History:
    """Set freezing and rates, then train: from the store if it is asked for and possible."""
    groups = learner.layer_groups
    if phase.freeze_to:
        groups.freeze_to(phase.freeze_to)
    else:
        groups.unfreeze()
    groups.set_rates(phase.lr)
    if phase.from_store:
        reason = _reason_against_store(learner)
        if reason is None:
            return train_head(learner, phase, defaults, plan, callbacks)
        _log.warning("The head trains through the whole network, because %s.", reason)
    options: dict[str, Any] = {"callbacks": callbacks, "store": phase.stored}
    return learner.fit_phase(phase.epochs, phase.schedule, phase.name, plan, **options)


def _reason_against_store(learner: Learner) -> str | None:
    """Why the head cannot train on stored features of this learner; None if it can."""
    if wants_sharding() and learner.processes.several:
        return "FSDP2 gathers the weights only where a model runs as a whole"
    if not hasattr(learner.dls, "train_views"):
        return f"{type(learner.dls).__name__} has no train_views(epoch=...)"
    return why_not(learner.model, learner.groups)
