"""The rates of a fit before it runs, computed from its phases."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from layergroups.errors import ArgumentError, TrainingError
from layergroups.groups import first_to_train, spread_rates
from layergroups.reports import PhasePreview, SchedulePreview
from layergroups.training.callbacks import GradualUnfreezing
from layergroups.training.loop import check_batch_count
from layergroups.training.optim import Schedule, build_optimizer
from layergroups.training.recipes._phases import Phase
from layergroups.training.state import checked_callbacks

if TYPE_CHECKING:
    from layergroups.groups import LayerGroups
    from layergroups.training.state import LearnerState

_MAX_POINTS: Final = 1000  # of a phase, in a picture
Planned = tuple[Sequence[Phase], Sequence[object]]


def preview_phases(state: LearnerState, planned: Sequence[Planned]) -> SchedulePreview:
    """The rates of all layer groups at each step of a fit; changes nothing."""
    groups = state.layer_groups
    check_batch_count(state.data.train)
    rates, momentum, previews, stored = groups.rates, _own_momentum(state), [], False
    for phases, shared in planned:
        for phase in phases:
            if not phase.epochs:
                continue
            if phase.lr is not None:
                rates = spread_rates(phase.lr, groups.names, rates)
            # Only outputs that an earlier phase has cached are used in several passes an epoch.
            passes = phase.passes if stored and phase.freeze_to else 1
            size = phase.batch_size(state)
            batches = state.data.training(batch_size=size) if size else None
            per_epoch = math.ceil(len(batches or state.data.train) / state.accumulate)
            callbacks = (*phase.callbacks, *checked_callbacks(shared), *state.callbacks)
            previews.append(_preview(phase, callbacks, groups, rates, per_epoch * passes, momentum))
            stored = stored or phase.from_store
    if not previews:
        raise TrainingError("A fit of 0 epochs has no rates: give epochs=3.")
    return SchedulePreview(groups=groups.names, phases=tuple(previews))


FITS: Final = (
    "fit", "fit_one_cycle", "fit_flat_cos", "fine_tune", "gradual_unfreeze", "thaw", "fit_phase",
)  # fmt: skip


def checked_fit(name: str) -> str:
    if name in FITS:
        return name
    raise TrainingError(
        f"There is no fit {name!r}. Give the name of one and its arguments, such as "
        f'learn.plot_schedule("fit_one_cycle", 3, 1e-3): one of {", ".join(FITS)}.'
    )


def call_fit(
    method: Callable[..., object], words: Sequence[object], named: Mapping[str, object]
) -> None:
    try:
        inspect.signature(method).bind(*words, **named)
    except TypeError as cause:
        takes = ", ".join(inspect.signature(method).parameters)
        raise ArgumentError(f"{method.__name__}: {cause}. It takes {takes}.") from cause
    method(*words, **named)


def checked_schedule(schedule: object) -> Schedule:
    if isinstance(schedule, type) or not hasattr(schedule, "multiplier"):
        raise TrainingError(
            f"{schedule!r} is neither the name of a fit nor a schedule. Give for example "
            'learn.plot_schedule("fit_one_cycle", 3, 1e-3) or learn.plot_schedule(OneCycle(), 3).'
        )
    return schedule  # type: ignore[return-value] # it has the methods


def _preview(
    phase: Phase,
    callbacks: Sequence[object],
    groups: LayerGroups,
    rates: Sequence[float],
    per_epoch: int,
    own: float | None,
) -> PhasePreview:
    steps = phase.epochs * per_epoch
    at = _shown_steps(steps, per_epoch)
    multipliers = [phase.schedule.multiplier(step / steps) for step in at]
    frozen = [_frozen_in(phase, callbacks, groups, step // per_epoch) for step in at]
    momenta = [phase.schedule.momentum(step / steps) for step in at]
    return PhasePreview(
        name=phase.name,
        epochs=phase.epochs,
        steps=steps,
        at=at,
        rates=tuple(tuple(rate * m for m in multipliers) for rate in rates),
        frozen=tuple(
            tuple(flags[i] or rate == 0 for flags in frozen) for i, rate in enumerate(rates)
        ),
        momentum=tuple(None if own is None else own if m is None else m for m in momenta),
        note="on stored outputs, with steps of its own" if phase.from_store else "",
    )


def _shown_steps(steps: int, per_epoch: int) -> tuple[int, ...]:
    every = max(1, math.ceil(steps / _MAX_POINTS))
    edges = {*range(0, steps, per_epoch), *range(per_epoch - 1, steps, per_epoch)}
    return tuple(sorted({*range(0, steps, every), *edges}))


def _frozen_in(
    phase: Phase, callbacks: Sequence[object], groups: LayerGroups, epoch: int
) -> tuple[bool, ...]:
    unfreezing = next((c for c in reversed(callbacks) if type(c) is GradualUnfreezing), None)
    if unfreezing is not None:
        first = first_to_train(epoch, groups[unfreezing.start].index, unfreezing.every)
    elif phase.freeze_to is not None:
        first = groups[phase.freeze_to].index
    else:
        return groups.frozen
    return tuple(i < first for i in range(len(groups)))


def _own_momentum(state: LearnerState) -> float | None:
    optimizer = state.opt
    if optimizer is None:
        groups = state.layer_groups
        optimizer = build_optimizer(state.opt_func, groups.param_groups(), max(groups.rates))
    betas = optimizer.defaults.get("betas")
    own = betas[0] if isinstance(betas, tuple) else optimizer.defaults.get("momentum")
    return float(own) if own else None
