"""Summarise a run in sentences and figures, for the page and the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from layergroups._formatting import count, duration, figure, memory, percent, rate, short
from layergroups.reports._protocols import EpochRow
from layergroups.reports.run._record import Outcome, RunRecord
from layergroups.tasks import task_named

_MAX_PHASES = 4  # that the summary names
_SHARES = ("accuracy", "F1 (micro)", "exact match", "F1 of all labels", "all labels right")
_DECISIONS = {  # of fine_tune: how each is shown, and what it means
    "epochs": ("epochs", "of all groups"),
    "freeze_epochs": ("epochs of the head", "alone, before all groups"),
    "rates": ("learning rates", "of each group, when all train"),
    "base_lr": ("learning rate of the head", "when it trains alone"),
    "batch_size": ("batch size", "when all groups train"),
    "interpolation": ("interpolation", "from the weights of the head's epochs, 0, to the last, 1"),
    "search": ("search", "held-out training items compare variants of the recipe"),
    "head": ("head", "its layers with weights"),
    "head_steps": ("steps of the head", "optimizer steps, when it trains alone"),
    "head_views": ("views for the head", "of each item: as it is, and augmented"),
    "steps": ("steps", "optimizer steps, when all groups train"),
    "held_out": ("held-out items", "training items that choose the interpolation"),
    "all_items": ("held-out items train too", "in the last of several epochs"),
    "errors": ("held-out errors", "their mean error at each interpolation"),
    "losses": ("held-out losses", "their mean loss at each interpolation"),
}
_WORSE = 1.02  # factor from which a final validation loss counts as worse than the best


@dataclass(frozen=True)
class PhaseFacts:
    """Consecutive epochs of the same kind of fit."""

    name: str
    start: int  # position of its first row
    rows: tuple[EpochRow, ...]
    seconds: float
    memory: float | None  # peak bytes of the process until its end
    device_memory: float | None  # likewise on the accelerator


@dataclass(frozen=True)
class Savings:
    """What the feature cache saved: forward passes of frozen layers."""

    passes: float  # of the trained layers over the training items, on cached features
    body_passes: float  # of the frozen layers, to fill the cache
    store_seconds: float  # that these took

    @property
    def saved(self) -> float:
        """Passes of the frozen layers that were not needed."""
        return max(0.0, self.passes - self.body_passes)

    @property
    def seconds(self) -> float | None:
        """The estimated time of these passes; None if unknown."""
        if not self.body_passes:
            return None
        return self.saved * self.store_seconds / self.body_passes


def phases_of(epochs: Sequence[EpochRow]) -> tuple[PhaseFacts, ...]:
    found, start = [], 0
    for phase, run in groupby(epochs, lambda row: row.phase):
        rows = tuple(run)
        most = [
            max((row.resources[name] for row in rows if name in row.resources), default=None)
            for name in ("memory", "device_memory")
        ]
        found.append(PhaseFacts(phase, start, rows, sum(row.seconds for row in rows), *most))
        start += len(rows)
    return tuple(found)


def savings_of(epochs: Sequence[EpochRow]) -> Savings | None:
    """The savings by cached features; None if nothing was cached."""
    costs = [row.resources for row in epochs if row.resources.get("passes")]
    names = ("passes", "body_passes", "store_seconds")
    return Savings(*(sum(c.get(name, 0.0) for c in costs) for name in names)) if costs else None


def savings_text(savings: Savings | None) -> str:
    """Describe the savings."""
    if savings is None:
        return "No features were cached: no layers were frozen, or the cache was off."
    text = (
        f"While layers were frozen, the trained layers made {savings.passes:.3g} passes over the "
        f"training data on cached features; the frozen layers ran only {savings.body_passes:.3g} "
        f"{'time' if savings.body_passes == 1 else 'times'}. "
        f"That saved {savings.saved:.3g} passes of the frozen layers"
    )
    if savings.seconds is None:
        return f"{text}."
    one = duration(savings.store_seconds / savings.body_passes)
    return f"{text}, about {duration(savings.seconds)} (one pass, with the data, took {one})."


def headline(outcome: Outcome) -> tuple[str, str]:
    """The most important figure, with its name."""
    return next(iter(figures_in_words(outcome).items()))


def figures_in_words(outcome: Outcome) -> dict[str, str]:
    found = {n: percent(v) if n in _SHARES else figure(v) for n, v in outcome.figures.items()}
    if outcome.calibration is not None:
        found["expected calibration error"] = percent(outcome.calibration.error)
    return found | {"loss": figure(outcome.loss)}


def best_epoch(epochs: Sequence[EpochRow]) -> EpochRow | None:
    """The row with the lowest validation loss."""
    known = [row for row in epochs if row.valid_loss is not None]
    return min(known, key=lambda row: row.valid_loss or 0.0) if known else None


def summary(record: RunRecord) -> str:
    """Summarise the run in a few sentences."""
    parts = [_training(record), _result(record), _overfitting(record.epochs)]
    return " ".join(filter(None, parts))


def _training(record: RunRecord) -> str:
    phases = phases_of(record.epochs)
    if not phases:
        return "Nothing has been trained yet."
    names = [group.name for group in record.network.groups]
    stretches = groupby(phases, lambda phase: _trained(phase, names))
    lengths = [(who, sum(len(phase.rows) for phase in run)) for who, run in stretches]
    first, *others = [f"{who} for {count(n, 'epoch')}" for who, n in lengths[:_MAX_PHASES]]
    left = len(lengths) - _MAX_PHASES
    more = f", and {count(left, 'more phase')}" if left > 0 else ""
    return f"Trained {first}{''.join(f', then {p}' for p in others)}{more}."


def _trained(phase: PhaseFacts, names: Sequence[str]) -> str:
    states = {row.frozen for row in phase.rows}
    if len(states) != 1:
        return "a growing number of layer groups"
    (frozen,) = states
    active = [i for i, inactive in enumerate(frozen) if not inactive]
    if len(active) == len(frozen):
        return "all layer groups" if len(frozen) > 1 else "the whole network"
    if len(active) == 1 and len(names) == len(frozen):
        name = names[active[0]]
        return "only the head" if name == "head" else f"only “{name}”"
    return f"{len(active)} of {len(frozen)} layer groups"


def _result(record: RunRecord) -> str:
    outcome = record.outcome
    if outcome is None:
        return "It was not evaluated on validation data."
    name, value = headline(outcome)
    text = f"{name[0].upper()}{name[1:]} {value} on {count(outcome.items, 'validation item')}."
    if not outcome.confusions:
        return text
    most = outcome.confusions[0]
    times = "once" if most.count == 1 else f"{most.count:,} times"
    if task_named(outcome.task).per_pixel:
        times = count(most.count, "pixel")
    return f"{text} Most frequent error: “{most.actual}” predicted as “{most.predicted}”, {times}."


def _overfitting(epochs: Sequence[EpochRow]) -> str:
    best, last = best_epoch(epochs), epochs[-1].valid_loss if epochs else None
    if best is None or best.valid_loss is None or last is None or last <= _WORSE * best.valid_loss:
        return ""
    return (
        f"Validation loss was lowest in epoch {best.epoch} ({figure(best.valid_loss)}) and rose to "
        f"{figure(last)} by the last epoch."
    )


def choices_in_words(plan: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    """The decisions of `fine_tune`: name, value and reason of each."""
    if plan is None:
        return []
    own = {n: v for n, v in plan.items() if n not in ("figures", "reasons")}
    values = {**own, **plan["figures"]}
    found = []
    for name, value in values.items():
        if value not in (None, "", [], {}):
            shown, meaning = _DECISIONS.get(name, (name.replace("_", " "), ""))
            why = "; ".join(filter(None, (meaning, plan["reasons"].get(name))))
            value = count(len(value), "trial") if name == "search" else value
            found.append((shown, _choice(value, rate if "rate" in shown else None), why))
    return found


def _choice(value: Any, number: Callable[[float], str] | None = None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value) if number else f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(v if n == "kind" else f"{n}: {_choice(v)}" for n, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_choice(each, number) for each in value)
    return str(value)


def figures_of(runs: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    """The figures of several runs, a row for each figure: its name, then one value per run."""
    return _beside([_all_figures(run) for run in runs])


def differences(runs: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    """Settings, versions, machine and data facts that differ between the runs."""
    columns = [
        {
            "layer groups": ", ".join(group.name for group in run.network.groups),
            "rule": run.network.rule,
            **run.setup.settings,
            **{f"data: {name}": value for name, value in run.data.facts.items()},
            **run.setup.versions,
            **run.setup.machine,
        }
        for run in runs
    ]
    return [row for row in _beside(columns) if len(set(row[1:])) > 1]


def _beside(columns: Sequence[dict[str, str]]) -> list[tuple[str, ...]]:
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, *(column.get(name, "–") for column in columns)) for name in names]


def _all_figures(run: RunRecord) -> dict[str, str]:
    found = {} if run.outcome is None else figures_in_words(run.outcome)
    best, peaks = best_epoch(run.epochs), [p.memory for p in phases_of(run.epochs) if p.memory]
    savings = savings_of(run.epochs)
    return found | {
        "lowest validation loss": figure(best.valid_loss) if best else "–",
        "training time": duration(run.seconds),
        "epochs": str(len(run.epochs)),
        "memory": memory(max(peaks, default=None)),
        "passes of frozen layers saved": "–" if savings is None else f"{savings.saved:.3g}",
        "network": run.network.name,
        "parameters": short(run.network.parameters),
        "layer groups": str(len(run.network.groups)),
        "training items": "–" if run.data.train is None else f"{run.data.train:,}",
        "validation items": "–" if run.data.valid is None else f"{run.data.valid:,}",
    }
