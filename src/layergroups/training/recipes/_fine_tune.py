"""The plan of a `fine_tune`: its settings, why they are so, and its phases."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from layergroups._checks import number
from layergroups.data import items_in, texts_of
from layergroups.errors import TrainingError
from layergroups.groups import Rate, spread_rates
from layergroups.training.loop import check_batch_count
from layergroups.training.recipes._phases import FineTuneDefaults, Phase
from layergroups.training.recipes._plan import FineTunePlan, settings_of

if TYPE_CHECKING:
    from layergroups.training.state import LearnerState

_log = logging.getLogger("layergroups")
_STEPS: Final = 300  # of the second phase, if that needs neither fewer epochs nor more
_LEAST_EPOCHS: Final = 2
_MOST_EPOCHS: Final = 20
# A head of several layers, such as a decoder, is not finished when the second phase begins.
_OF_A_DEEP_HEAD: Final[dict[str, Any]] = {
    "unfrozen_ratio": 0.15, "spread": 0.1, "usual_interpolation": 0.8, "head_dropout": True,
}  # fmt: skip
# Each pixel has a label, so a few steps see many labels, and a step on feature maps is slow.
_OF_MASKS: Final[dict[str, Any]] = {"head_steps": 100, "head_passes": 1}
_RATIO_OF_A_DECODER: Final = 0.5  # it is most of the network, and new
# Measured (benchmarks/README.md). The embeddings, the first group, cost a quarter of a step.
_OF_TEXTS: Final[dict[str, Any]] = {
    **_OF_A_DEEP_HEAD, "base_lr": 4e-3, "head_steps": 400, "unfrozen_ratio": 0.025, "spread": 1.0,
}  # fmt: skip
# Measured too: with 400 texts the early layers gain nothing, with 2,500 they do.
_FEW_TEXTS: Final = 1000
_OF_FEW_TEXTS: Final[dict[str, Any]] = {"unfrozen_ratio": 0.075, "spread": 0.03}


def phases_of(
    plan: FineTunePlan, *, lr: Rate | None = None, feature_cache: bool = True
) -> tuple[Phase, ...]:
    """The head alone, then the groups from `lowest` on; `lr` replaces the rates of the second."""
    known = plan.figures
    top = known.base_lr * known.unfrozen_ratio
    spread = slice(top * known.spread, top) if top * known.spread else top
    phases = (
        Phase(
            name="head",
            epochs=plan.freeze_epochs,
            freeze_to=-1,
            lr=known.base_lr,
            schedule=known.head_schedule,
            from_store=feature_cache,
            stored=feature_cache,
            augmented=known.augmented,
        ),
        Phase(
            name="body" if known.lowest else "all",
            epochs=plan.epochs,
            freeze_to=known.lowest,
            lr=lr if lr is not None else list(plan.rates) or spread,
            schedule=known.schedule,
            stored=feature_cache,
            augmented=known.augmented,
            passes=known.passes,
            least_steps=known.least_steps,
            least_batch=known.least_batch,
            items_per_batch=plan.batch_size,
            head_dropout=known.head_dropout,
            interpolate=plan.freeze_epochs > 0 and known.interpolate,
            interpolation=plan.interpolation,
            usual_interpolation=known.usual_interpolation,
        ),
    )
    return tuple(phase for phase in phases if phase.epochs)


def new_plan(
    learner: LearnerState,
    epochs: int | None,
    *,
    base_lr: float | None,
    freeze_epochs: int,
    lr: Rate | None,
    defaults: FineTuneDefaults | None,
) -> FineTunePlan:
    """The plan of a `fine_tune` with these arguments, as far as it is decided before it runs."""
    figures = fitted(learner, defaults, lr)
    if learner.pretrained is False:
        _log.warning(
            "fine_tune starts with the head alone, on a network without pretrained weights. "
            "learn.fit_one_cycle(%d, 1e-3) trains all layers from the start, if none is frozen.",
            max(10, epochs or 0),
        )
    if base_lr is not None:
        figures = replace(figures, base_lr=number("base_lr", base_lr, 0, math.inf, 1e-3))
    reasons = {"epochs": "as given"}
    if epochs is None:
        epochs, reasons["epochs"] = chosen_epochs(learner, figures)
        _log.warning("fine_tune() trains %d epochs: %s.", epochs, reasons["epochs"])
    wanted = usual_of(learner) if defaults is None else defaults
    if figures.lowest != wanted.lowest:
        reasons["lowest"] = "no earlier group can stay frozen, or has a rate of its own"
    elif defaults is None and _has_few_texts(learner):
        reasons["lowest"] = f"fewer than {_FEW_TEXTS:,} texts: early layers gain nothing from them"
    if figures.unfrozen_ratio != FineTuneDefaults().unfrozen_ratio and defaults is None:
        reasons["unfrozen_ratio"] = (
            "the usual one for texts, or for a head of several layers, which learns more here"
        )
    return FineTunePlan(
        epochs=epochs,
        freeze_epochs=freeze_epochs,
        figures=figures,
        reasons=reasons,
        **settings_of(learner),
    )


def chosen_epochs(learner: LearnerState, figures: FineTuneDefaults) -> tuple[int, str]:
    """Epochs of the second phase for these data, and why.

    Small data need many passes to have enough optimizer steps; large data have enough in few.
    """
    usual = learner.data.batch_size or 64
    known = items_in(learner.data.train)
    n_items = known or usual * check_batch_count(learner.data.train)
    size = min(usual, figures.least_batch)
    while size < usual and _LEAST_EPOCHS * n_items > _STEPS * size:
        size *= 2
    epochs = min(_MOST_EPOCHS, max(_LEAST_EPOCHS, round(_STEPS * size / n_items)))
    about = "" if known else "about "
    return epochs, f"{about}{n_items:,} training items: {epochs * n_items // size:,} steps"


def fitted(
    learner: LearnerState, defaults: FineTuneDefaults | None, lr: Rate | None = None
) -> FineTuneDefaults:
    """The settings for this learner, adapted to its groups, its head and the rates."""
    if defaults is not None and not isinstance(defaults, FineTuneDefaults):
        raise TrainingError(
            f"defaults= is a {type(defaults).__name__}. Use fine_tune(4, "
            "defaults=FineTuneDefaults(lowest=0))."
        )
    known = defaults or usual_of(learner)
    groups, spec = learner.layer_groups, learner.data.input
    lowest = known.lowest
    if learner.pretrained is False or (spec and spec.channels != 3) or lowest >= len(groups) - 1:
        lowest = 0
    if defaults is None and lr is not None and not isinstance(lr, (int, float)):
        rates = spread_rates(lr, groups.names, (0.0,) * len(groups))
        lowest = next((index for index, rate in enumerate(rates) if rate > 0), lowest)
    return replace(known, lowest=lowest)


def _has_few_texts(learner: LearnerState) -> bool:
    n_items = items_in(learner.data.train)
    return bool(texts_of(learner.data.train)) and n_items is not None and n_items < _FEW_TEXTS


def usual_of(learner: LearnerState) -> FineTuneDefaults:
    """The defaults for this kind of data and head."""
    if texts_of(learner.data.train):
        few = _has_few_texts(learner)
        first = learner.layer_groups[0].blocks
        apart = bool(first) and all(block.embeds for block in first)
        settings = _OF_TEXTS | (_OF_FEW_TEXTS if few else {})
        return FineTuneDefaults(**settings, lowest=apart + few)
    masks = _OF_MASKS if learner.task.per_pixel else {}
    if sum(p.ndim > 1 for p in learner.layer_groups[-1].parameters()) > 1:
        found = FineTuneDefaults(**_OF_A_DEEP_HEAD | masks)
        return replace(found, unfrozen_ratio=_RATIO_OF_A_DECODER) if masks else found
    # Without pretrained weights the points between the phases are no good; see `ChooseWeights`.
    part: dict[str, Any] = {"usual_interpolation": 1.0} if learner.pretrained is False else {}
    return FineTuneDefaults(**part | masks)
