"""What the rates of a fit will be, before it runs; from the same words as the fit itself."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final

from layergroups.errors import ArgumentError, TrainingError
from layergroups.groups import Rate, first_to_train, spread_rates
from layergroups.reports import PhasePreview, SchedulePreview
from layergroups.training.callbacks._gradual_unfreezing import Thaw
from layergroups.training.loop._events import checked
from layergroups.training.loop._loop_checks import check_batch_count
from layergroups.training.optim._optimizers import build_optimizer
from layergroups.training.optim._schedules import Flat, FlatCos, OneCycle, Schedule
from layergroups.training.recipes._fine_tune import fitted, plan_fine_tune

if TYPE_CHECKING:
    from layergroups.groups import LayerGroups
    from layergroups.training._learner import Looking


_MOST_POINTS: Final = 1000  # of a phase, in a picture


_FROM_STORE: Final = "on stored outputs, with steps of its own"


Frozen = tuple[bool, ...]


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A part of a fit: what its rates depend on."""

    name: str
    epochs: int
    schedule: Schedule
    lr: Rate | None
    frozen: Frozen
    thaws: tuple[Thaw, ...] = ()
    note: str = ""
    passes: int = 1


def preview_fit(
    learner: Looking, fit: str | Schedule, words: Sequence[Any], named: Mapping[str, Any]
) -> SchedulePreview:
    """The rates of all layer groups at each step of a fit; changes nothing.

    Args:
        learner: whose fit it would be.
        fit: name of a method, such as "fit_one_cycle"; or a schedule, with epochs and lr.
        words: arguments of the method, by position.
        named: arguments of the method, by name.

    Raises:
        TrainingError: there is no such fit.
        ArgumentError: it does not take these arguments.
    """
    parts = _parts(learner, fit, words, named)
    groups = learner.layer_groups
    per_epoch = math.ceil(check_batch_count(learner.data.train) / learner.accumulate)
    rates, momentum, phases = groups.rates, _own_momentum(learner), []
    for part in parts:
        if part.lr is not None:
            rates = spread_rates(part.lr, groups.names, rates)
        phases.append(_phase(part, groups, rates, per_epoch * part.passes, momentum))
    return SchedulePreview(groups=groups.names, phases=tuple(phases))


def _parts(
    learner: Looking, fit: str | Schedule, words: Sequence[Any], named: Mapping[str, Any]
) -> tuple[_Part, ...]:
    """The parts of a fit, from its arguments."""
    if isinstance(fit, str):
        if fit not in _PLANS:
            raise TrainingError(
                f"There is no fit {fit!r}. Give the name of one and its arguments, such as "
                f'learn.plot_schedule("fit_one_cycle", 3, 1e-3): one of {", ".join(_PLANS)}.'
            )
        given = _bound(getattr(type(learner), fit), fit, words, named)
        if fit == "fine_tune":
            given["defaults"] = fitted(learner, given["defaults"], given["lr"])
        parts = _PLANS[fit](learner.layer_groups, given)
    else:
        schedule = _checked_schedule(fit)
        given = _bound(_with_schedule, "plot_schedule(schedule, ...)", words, named)
        parts = (_simple("fit", schedule, learner.layer_groups, given),)
    whole = [part for part in parts if part.epochs]
    if not whole:
        raise TrainingError("A fit of no epochs has no rates: give epochs=3.")
    thaws = [c for c in (*checked(given.get("callbacks")), *learner.callbacks) if type(c) is Thaw]
    return tuple(
        _Part(**({f.name: getattr(p, f.name) for f in fields(p)} | {"thaws": (*p.thaws, *thaws)}))
        for p in whole
    )


def _with_schedule(
    self: object, epochs: int, lr: Rate | None = None, *, callbacks: Sequence[object] = ()
) -> None:
    """What a fit by a schedule of one's own takes."""


def _bound(
    method: Callable[..., Any], name: str, words: Sequence[Any], named: Mapping[str, Any]
) -> dict[str, Any]:
    """Arguments by name, defaults too, as the method itself would take them."""
    try:
        bound = inspect.signature(method).bind(None, *words, **named)
    except TypeError as cause:
        takes = ", ".join([*inspect.signature(method).parameters][1:])
        raise ArgumentError(f"{name}: {cause}. It takes {takes}.") from cause
    bound.apply_defaults()
    return bound.arguments


def _checked_schedule(schedule: object) -> Schedule:
    if isinstance(schedule, type) or not hasattr(schedule, "multiplier"):
        raise TrainingError(
            f"{schedule!r} is neither the name of a fit nor a schedule. Give for example "
            'learn.plot_schedule("fit_one_cycle", 3, 1e-3) or learn.plot_schedule(OneCycle(), 3).'
        )
    return schedule  # type: ignore[return-value] # it has the methods


def _simple(name: str, schedule: Schedule, groups: LayerGroups, given: Mapping[str, Any]) -> _Part:
    epochs = _checked_epochs(given["epochs"])
    return _Part(name=name, epochs=epochs, schedule=schedule, lr=given["lr"], frozen=groups.frozen)


def _flat(groups: LayerGroups, given: Mapping[str, Any]) -> tuple[_Part, ...]:
    return (_simple("fit", Flat(), groups, given),)


def _one_cycle(groups: LayerGroups, given: Mapping[str, Any]) -> tuple[_Part, ...]:
    schedule = OneCycle(given["div"], given["div_final"], given["pct_start"], given["moms"])
    return (_simple("one cycle", schedule, groups, given),)


def _flat_cos(groups: LayerGroups, given: Mapping[str, Any]) -> tuple[_Part, ...]:
    schedule = FlatCos(given["pct_start"], given["div_final"])
    return (_simple("flat cos", schedule, groups, given),)


def _thaw(groups: LayerGroups, given: Mapping[str, Any]) -> tuple[_Part, ...]:
    thaw = Thaw(given["every"], given["start"])
    epochs = thaw.epochs_for(groups) if given["epochs"] is None else given["epochs"]
    part = _simple("thaw", OneCycle(), groups, {**given, "epochs": epochs})
    return (_Part(**{**vars(part), "thaws": (thaw,)}),)


def _fine_tune(groups: LayerGroups, given: Mapping[str, Any]) -> tuple[_Part, ...]:
    names = ("base_lr", "freeze_epochs", "lr", "store", "defaults")
    phases = plan_fine_tune(given["epochs"], **{name: given[name] for name in names})
    filled = given["store"] and given["freeze_epochs"] > 0
    return tuple(
        _Part(
            name=phase.name,
            epochs=phase.epochs,
            schedule=phase.schedule,
            lr=phase.lr,
            frozen=_frozen_to(groups, groups[phase.freeze_to].index),
            note=_FROM_STORE if phase.from_store else "",
            passes=phase.passes if filled and phase.freeze_to > 0 else 1,
        )
        for phase in phases
    )


_PLANS: Final[dict[str, Callable[[LayerGroups, Mapping[str, Any]], tuple[_Part, ...]]]] = {
    "fit": _flat,
    "fit_one_cycle": _one_cycle,
    "fit_flat_cos": _flat_cos,
    "fine_tune": _fine_tune,
    "thaw": _thaw,
}


def _phase(
    part: _Part,
    groups: LayerGroups,
    rates: Sequence[float],
    per_epoch: int,
    own: float | None,
) -> PhasePreview:
    """Rates, freezing and momentum at the steps of a part."""
    steps = part.epochs * per_epoch
    at = _looked_at(steps, per_epoch)
    multipliers = [part.schedule.multiplier(step / steps) for step in at]
    frozen = [_frozen_in(part, groups, step // per_epoch) for step in at]
    momenta = [part.schedule.momentum(step / steps) for step in at]
    return PhasePreview(
        name=part.name,
        epochs=part.epochs,
        steps=steps,
        at=at,
        rates=tuple(tuple(rate * m for m in multipliers) for rate in rates),
        frozen=tuple(
            tuple(flags[i] or rate == 0 for flags in frozen) for i, rate in enumerate(rates)
        ),
        momentum=tuple(None if own is None else own if m is None else m for m in momenta),
        note=part.note,
    )


def _looked_at(steps: int, per_epoch: int) -> tuple[int, ...]:
    """All steps of a part, or about a thousand, with the first and the last of each epoch."""
    every = max(1, math.ceil(steps / _MOST_POINTS))
    edges = {*range(0, steps, per_epoch), *range(per_epoch - 1, steps, per_epoch)}
    return tuple(sorted({*range(0, steps, every), *edges}))


def _frozen_in(part: _Part, groups: LayerGroups, epoch: int) -> Frozen:
    if not part.thaws:
        return part.frozen
    thaw = part.thaws[-1]
    return _frozen_to(groups, first_to_train(epoch, groups[thaw.start].index, thaw.every))


def _frozen_to(groups: LayerGroups, first: int) -> Frozen:
    return tuple(i < first for i in range(len(groups)))


def _checked_epochs(epochs: Any) -> int:
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 0:
        raise TrainingError(f"epochs={epochs!r} must be a whole number, such as 3.")
    return epochs


def _own_momentum(learner: Looking) -> float | None:
    """The momentum or first beta that the learner's optimizer has; None if it has none."""
    optimizer = learner.opt
    if optimizer is None:
        groups = learner.layer_groups
        optimizer = build_optimizer(learner.opt_func, groups.param_groups(), max(groups.rates))
    betas = optimizer.defaults.get("betas")
    own = betas[0] if isinstance(betas, tuple) else optimizer.defaults.get("momentum")
    return float(own) if own else None
