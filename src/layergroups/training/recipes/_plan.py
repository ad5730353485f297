"""What `fine_tune` decides, as data (`FineTunePlan`), and the callback that writes it down."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from layergroups._checks import number, whole_number
from layergroups._formatting import Printable, first_few, name_of, rate, table
from layergroups._from_dict import from_dict
from layergroups.errors import TrainingError
from layergroups.reports import EpochRow, choices_in_words
from layergroups.training.loop import FitContext, amend_row
from layergroups.training.optim import Flat, FlatCos, OneCycle, Schedule
from layergroups.training.recipes._held_out import ChooseWeights
from layergroups.training.recipes._phases import FineTuneDefaults
from layergroups.training.recipes._train_head import HeadFeatures

if TYPE_CHECKING:
    from layergroups.training.state import LearnerState

_log = logging.getLogger("layergroups")
_SCHEDULES: Final = {kind.__name__: kind for kind in (Flat, FlatCos, OneCycle)}
_LOGGED: Final = ("steps", "batch size", "learning rates", "held-out items", "interpolation")
_OF_THE_LEARNER: Final = ("optimizer", "weight_decay", "batch_norm", "augment")


@dataclass(frozen=True, kw_only=True)
class FineTunePlan(Printable):
    """All decisions of one `fine_tune`; `learn.fine_tune(plan=plan)` repeats them.

    With the same data, seed and settings of the learner the weights are the same to the bit. The
    plan of the last `fine_tune` is `learn.plan`; `run.json` and the report have it too.

    Attributes:
        epochs, freeze_epochs: of the second phase and of the first, as in `fine_tune`.
        figures: all settings; a plan repeats them.
        rates: of each layer group in the second phase; empty: by the figures.
        batch_size: items in a batch of the second phase; 0: by the figures.
        interpolation: between the weights of the head's phase, 0, and the last ones, 1 (WiSE-FT);
            None: held-out items choose it, or there is no second phase.
        reasons: why, by the name of a decision.
        search: what `learn.search` has tried, in the order in which it ran: the fields of each
            `Trial` but the time; `reasons["search"]` is what it chose.
        head: the layers of the head. This and the following are facts, which a plan does not set.
        head_steps, head_views: optimizer steps of the head, on so many views of each item.
        steps: optimizer steps of the second phase.
        held_out: training items that chose `interpolation`; they are in no step before the last of
            several epochs.
        all_items: whether the last epoch trained on all items.
        errors, losses: means of the held-out items, by the interpolation.
        optimizer, weight_decay, batch_norm, augment: settings of the learner and its data.
    """

    epochs: int
    freeze_epochs: int = 1
    figures: FineTuneDefaults = field(default_factory=FineTuneDefaults)
    rates: tuple[float, ...] = ()
    batch_size: int = 0
    interpolation: float | None = field(default=None, metadata={"was": "part"})
    reasons: Mapping[str, str] = field(default_factory=dict)
    search: tuple[Mapping[str, Any], ...] = ()
    head: str = ""
    head_steps: int = 0
    head_views: int = 0
    steps: int = 0
    held_out: int = 0
    all_items: bool = True
    errors: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, float] = field(default_factory=dict)
    optimizer: str = ""
    weight_decay: float = 0.0
    batch_norm: str = ""
    augment: str = ""
    _fits_terminal = True

    def __repr__(self) -> str:
        rates = ", ".join(map(rate, self.rates))
        return (
            f"FineTunePlan(epochs={self.epochs}, freeze_epochs={self.freeze_epochs}, "
            f"rates=({rates}), batch_size={self.batch_size}, interpolation={self.interpolation}, …)"
        )

    def __post_init__(self) -> None:
        for name, example in (("epochs", 3), ("freeze_epochs", 1), ("batch_size", 16)):
            whole_number(name, getattr(self, name), 0, example)
        if self.interpolation is not None:
            number("interpolation", self.interpolation, 0, 1, 0.8)

    def __rich__(self) -> Table:
        found, usual = self.to_dict(), FineTunePlan(epochs=0).to_dict()["figures"]
        found["figures"] = {n: v for n, v in found["figures"].items() if v != usual[n]}
        return table(("decision", "value", "why"), choices_in_words(found), left=("value", "why"))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        found = asdict(self)
        for name, schedule in _schedules(self.figures).items():
            kind = type(schedule).__name__
            own = vars(schedule) if kind in _SCHEDULES else {}
            values = {k: list(v) if isinstance(v, tuple) else v for k, v in own.items()}
            found["figures"][name] = {"kind": kind, **values}
        return {**found, "rates": list(self.rates), "search": list(found["search"])}

    @classmethod
    def from_dict(
        cls, values: Mapping[str, Any], settings: FineTuneDefaults | None = None
    ) -> FineTunePlan:
        """The inverse of `to_dict`.

        Args:
            values: what `to_dict` returned.
            settings: used as `figures`, where they are known: they may have schedules of your own,
                which JSON does not hold.

        Raises:
            TrainingError: the values are not those of a plan.
        """
        try:
            if settings is not None:
                return replace(from_dict(cls, {**values, "figures": {}}), figures=settings)
            figures = dict(values["figures"])
            for name in _schedules(FineTuneDefaults()):
                options = dict(figures[name])
                kind: Any = _SCHEDULES.get(options.pop("kind"))
                if kind is None:
                    raise TrainingError(
                        f"The plan has a {name} of your own, {figures[name]['kind']}, which JSON "
                        "does not hold. Use replace(FineTuneDefaults(), ...) and defaults=."
                    )
                figures[name] = from_dict(kind, options)
            return from_dict(cls, {**values, "figures": figures})
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise TrainingError(
                f"This is not a plan of fine_tune: {cause}. Give learn.plan, or "
                'RunRecord.load("model").plan.'
            ) from cause

    def check(self, learner: LearnerState) -> None:
        """Refuse layer groups of another number; warn of other settings of the learner."""
        groups = learner.layer_groups
        if self.rates and len(self.rates) != len(groups):
            raise TrainingError(
                f"The plan has rates of {len(self.rates)} layer groups, this learner has "
                f"{len(groups)}: {first_few(groups.names)}. Split it alike, or give "
                "replace(plan, rates=())."
            )
        now = settings_of(learner)
        for name in _OF_THE_LEARNER:
            ours, plans = now[name], getattr(self, name)
            if plans and plans != ours:
                _log.warning("The plan was made with %s %s; here it is %s.", name, plans, ours)


def _schedules(figures: FineTuneDefaults) -> dict[str, Schedule]:
    return {"head_schedule": figures.head_schedule, "schedule": figures.schedule}


def checked_plan(plan: FineTunePlan | Mapping[str, Any], learner: LearnerState) -> FineTunePlan:
    """A plan, or its values as in run.json, that fits the learner."""
    if isinstance(plan, Mapping):
        plan = FineTunePlan.from_dict(plan)
    if not isinstance(plan, FineTunePlan):
        raise TrainingError(
            f"plan= is a {type(plan).__name__}. Give fine_tune(plan=learn.plan), or "
            'fine_tune(plan=RunRecord.load("model").plan).'
        )
    plan.check(learner)
    return plan


def settings_of(learner: LearnerState) -> dict[str, Any]:
    """Settings of a learner that a plan notes."""
    own, vary = learner.opt_func, learner.data.augmentation
    shown = vary is None or isinstance(vary, bool) or is_dataclass(vary)
    return {
        "optimizer": name_of(own),
        "weight_decay": learner.weight_decay,
        "batch_norm": learner.batch_norm,
        "augment": str(vary) if shown else name_of(vary),
    }


class RecordPlan:
    """A callback that completes the plan, and writes it into the last row of each phase."""

    def __init__(self, plan: FineTunePlan) -> None:
        self.plan = plan

    def resume(self, rows: tuple[EpochRow, ...]) -> None:
        """Go on from the rows of a phase that was loaded from a checkpoint."""
        if rows and rows[-1].plan is not None:
            # A checkpoint of other settings was refused.
            self.plan = FineTunePlan.from_dict(rows[-1].plan, self.plan.figures)

    def after_epoch(self, run: FitContext) -> None:
        if run.epoch + 1 == run.epochs or run.stop:
            self._write(run)

    def after_fit(self, run: FitContext) -> None:
        self._write(run)  # again, if a callback ended the fit after this one was called
        if run.phase != "head" and run.processes.is_main:
            found = [
                f"{name} {value} ({why})" if why else f"{name} {value}"
                for name, value, why in choices_in_words(self.plan.to_dict())
                if name in _LOGGED
            ]
            _log.info("fine_tune: %s.", "; ".join(found))

    def _write(self, run: FitContext) -> None:
        choice = next((c for c in run.callbacks if isinstance(c, ChooseWeights)), None)
        if isinstance(run.features, HeadFeatures):
            rows = run.features.rows
            views = rows.parts[-1].views
            known: dict[str, Any] = {"head_steps": len(rows), "head_views": views}
        elif run.phase == "head":
            known = {"head_steps": run.step}
        else:
            known = self._second_phase(run, choice)
        self.plan = replace(self.plan, head=_head_of(run), **known)
        amend_row(run, plan=self.plan.to_dict())

    def _second_phase(self, run: FitContext, choice: ChooseWeights | None) -> dict[str, Any]:
        usual = run.learner.data.batch_size
        size = run.varied.get("batch_size") or usual
        reasons = dict(self.plan.reasons)
        if size != usual:
            reasons.setdefault("batch_size", f"halved from {usual}, so that there are enough steps")
        known = {"rates": run.groups.rates, "batch_size": size, "steps": run.step}
        if choice is None:
            return known | {"reasons": reasons}
        reasons["interpolation"] = choice.reason
        return known | {
            "reasons": reasons,
            "interpolation": choice.interpolation,
            "held_out": len(choice.held_out.items) if choice.held_out.head else 0,
            "all_items": "left_out" not in run.varied,
            "errors": {f"{part:g}": error for part, error in choice.errors.items()},
            "losses": {f"{part:g}": loss for part, loss in choice.losses.items()},
        }


def _head_of(run: FitContext) -> str:
    own = {id(parameter) for parameter in run.groups[-1].parameters()}
    layers = (m for m in run.model.modules() if own & {id(p) for p in m.parameters(recurse=False)})
    return ", ".join(type(layer).__name__ for layer in layers)
