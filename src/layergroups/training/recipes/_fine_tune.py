"""Recipes: how to fine-tune, as a plan that is data, and a thin doing."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups, Rate, spread_rates
from layergroups.training.hardware._allocator import keep_freed_memory
from layergroups.training.loop._events import checked
from layergroups.training.loop._history import History
from layergroups.training.optim._schedules import OneCycle, Schedule
from layergroups.training.recipes._head_phase import train_head

if TYPE_CHECKING:
    from layergroups.training._learner import Learner, Looking
    from layergroups.training.callbacks._checkpointer import CheckpointConfig


_log = logging.getLogger("layergroups")


_CHEAP = 0.05  # part of the network's work above which the head is not trained in many passes


@dataclass(frozen=True, kw_only=True)
class FineTuneDefaults:
    """Every figure of `fine_tune` in one place, chosen by measurement.

    Attributes:
        base_lr: rate of the head while the body is frozen.
        unfrozen_ratio: rate of all groups afterwards, as a part of base_lr.
        lowest: the first layer group that trains afterwards; 0 trains all. 1 leaves the early group
            frozen, so that its outputs are kept too, in the passes of the first phase, and cost
            nothing in the later epochs. All train where that does not fit: see `lowest_group`.
        passes: over the kept outputs of layers that stay frozen, for each epoch asked for; each
            takes the photos in other views.
        views: augmented views of each training photo for one frozen epoch. Layers that stay frozen
            afterwards keep theirs too; where `StoreOptions.views` says more, those follow later.
        head_passes: the most passes of the head over its stored features.
        hold_out: part of the training photos by which the best head is chosen.
        patience: passes without a better loss on them after which the head is done.
        head_schedule: over all passes of the head.
        schedule: over the epochs after the head's.
        max_bytes: the most bytes of stored outputs for the head's passes; None: what the learner's
            `StoreOptions` allow.
    """

    base_lr: float = 1e-3
    unfrozen_ratio: float = 0.2
    lowest: int = 1
    passes: int = 2
    views: int = 2
    head_passes: int = 20
    hold_out: float = 0.1
    patience: int = 5
    head_schedule: Schedule = field(default_factory=OneCycle)
    schedule: Schedule = field(default_factory=lambda: OneCycle(pct_start=0.1))
    max_bytes: int | None = None


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
        passes: over what is stored, for each epoch.
    """

    name: str
    epochs: int
    freeze_to: int
    lr: Rate
    schedule: Schedule
    from_store: bool = False
    stored: bool = True
    passes: int = 1


def plan_fine_tune(
    epochs: int,
    *,
    base_lr: float | None = None,
    freeze_epochs: int = 1,
    lr: Rate | None = None,
    store: bool = True,
    defaults: FineTuneDefaults | None = None,
) -> tuple[Phase, ...]:
    """The phases of `fine_tune`: the head alone, then the groups from `lowest` on.

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
            passes=known.passes,
        ),
    )
    return tuple(phase for phase in phases if phase.epochs)


def fitted(
    learner: Looking, defaults: FineTuneDefaults | None, lr: Rate | None = None
) -> FineTuneDefaults:
    """The figures for this learner: `lowest` as it can be, and as the rates ask for."""
    if defaults is not None and not isinstance(defaults, FineTuneDefaults):
        raise TrainingError(
            f"defaults= is a {type(defaults).__name__}. Right would be fine_tune(4, "
            "defaults=FineTuneDefaults(lowest=0))."
        )
    known = defaults or FineTuneDefaults()
    lowest = lowest_group(learner, known)
    if defaults is None:
        lowest = min([lowest, *_given_a_rate(learner.layer_groups, lr)])
    return replace(known, lowest=lowest)


def lowest_group(learner: Looking, defaults: FineTuneDefaults) -> int:
    """The first layer group that trains after the head, as `defaults.lowest` asks where it can.

    All groups train if no layer of the body would train otherwise, if the network begins from
    noise, or if its first layers were made anew for images of other channels.
    """
    spec = learner.data.input
    known = learner.pretrained and (spec is None or spec.channels == 3)
    return defaults.lowest if known and defaults.lowest < len(learner.layer_groups) - 1 else 0


def _given_a_rate(groups: LayerGroups, lr: Rate | None) -> list[int]:
    """The groups to which a person gives a rate one by one, not one rate for whatever trains."""
    if lr is None or isinstance(lr, (int, float)):
        return []
    rates = spread_rates(lr, groups.names, (0.0,) * len(groups))
    return [index for index, rate in enumerate(rates) if rate > 0]


def run_plan(
    learner: Learner,
    phases: tuple[Phase, ...],
    defaults: FineTuneDefaults | None = None,
    plan: CheckpointConfig | None = None,
    callbacks: Sequence[object] | None = (),
) -> History:
    """Do the phases one after another, each saved as planned, each with these callbacks."""
    rows, each = History(), checked(callbacks)
    options: dict[str, Any] = {"defaults": defaults or FineTuneDefaults(), "plan": plan}
    with keep_freed_memory():
        for number, phase in enumerate(phases, start=1):
            rows += run_phase(learner, phase, **options, later=phases[number:], callbacks=each)
    return rows


def run_phase(
    learner: Learner,
    phase: Phase,
    defaults: FineTuneDefaults,
    plan: CheckpointConfig | None = None,
    later: Sequence[Phase] = (),
    callbacks: Sequence[object] = (),
) -> History:
    """Set freezing and rates, then train: from the store if it is asked for and possible.

    What the frozen layers of later phases give is kept in the same passes, where there is room.
    """
    groups = learner.layer_groups
    if phase.freeze_to:
        groups.freeze_to(phase.freeze_to)
    else:
        groups.unfreeze()
    groups.set_rates(phase.lr)
    if phase.from_store:
        reason = _reason_against_passes(learner, defaults)
        if not reason:
            also = [_resting(groups, other) for other in later if other.stored]
            also = [boundary for boundary in also if boundary and boundary != groups.resting]
            return train_head(learner, phase, defaults, plan, also, callbacks)
        _log.warning("The head trains through the whole network, because %s.", reason)
    options: dict[str, Any] = {"store": phase.stored, "passes": phase.passes}
    options |= {"callbacks": callbacks}
    return learner.fit_phase(phase.epochs, phase.schedule, phase.name, plan, **options)


def _resting(groups: LayerGroups, phase: Phase) -> tuple[int, ...]:
    """The groups that will rest in a phase."""
    rates = spread_rates(phase.lr, groups.names, groups.rates)
    first = groups[phase.freeze_to].index
    return tuple(index for index, rate in enumerate(rates) if index < first or rate == 0)


def _reason_against_passes(learner: Learner, defaults: FineTuneDefaults) -> str:
    """Why many passes over stored outputs would cost too much; empty if they are cheap."""
    groups = learner.layer_groups
    work = [sum(block.flops for block in group.blocks) for group in groups]
    trains = sum(work) - sum(work[index] for index in groups.resting)
    share = trains / max(1, sum(work))
    if share <= _CHEAP:
        return ""
    return (
        f"the layers that train are {share:.0%} of the network, too much for "
        f"{defaults.head_passes} passes"
    )
