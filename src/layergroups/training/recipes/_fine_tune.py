"""`fine_tune` as a list of phases (`plan_fine_tune`)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from layergroups._checks import number, whole_number
from layergroups.errors import TrainingError
from layergroups.groups import Rate, spread_rates
from layergroups.training.recipes._phases import (
    FineTuneDefaults,
    Phase,
)

if TYPE_CHECKING:
    from layergroups.training.state import LearnerState


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
    top = head_lr * known.unfrozen_ratio
    spread = slice(top * known.spread, top) if top * known.spread else top
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
            lr=spread if lr is None else lr,
            schedule=known.schedule,
            stored=feature_cache,
            passes=known.passes,
            least_steps=known.least_steps,
            least_batch=known.least_batch,
            interpolate=freeze_epochs > 0 and known.interpolate,
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
        lowest = next((index for index, rate in enumerate(rates) if rate > 0), lowest)
    return replace(known, lowest=lowest)
