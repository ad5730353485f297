"""What the facts of a run come to: phases, headline, savings; for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from layergroups._formatting import count, duration, figure, memory, percent, short
from layergroups.reports.run._collect import confusions_of
from layergroups.reports.run._record import EpochFacts, Outcome, RunRecord

_TOLD = 4  # phases that the story names
_SHARES = ("accuracy", "all labels right", "F1 of all labels")


@dataclass(frozen=True)
class PhaseFacts:
    """Epochs of one kind, one after another.

    Attributes:
        name: of the kind of fit.
        start: position of its first row.
        rows: of the history.
        seconds: wall-clock time.
        memory: the most bytes that the process had held by its end; None if unknown.
        device_memory: likewise of the accelerator.
    """

    name: str
    start: int
    rows: tuple[EpochFacts, ...]
    seconds: float
    memory: float | None
    device_memory: float | None


@dataclass(frozen=True)
class Savings:
    """What stored outputs of frozen layers were worth.

    Attributes:
        passes: of what trains over the training items, on stored outputs.
        body_passes: of the frozen layers, to store them.
        store_seconds: that these took.
    """

    passes: float
    body_passes: float
    store_seconds: float

    @property
    def saved(self) -> float:
        """Passes of the frozen layers that were not needed."""
        return max(0.0, self.passes - self.body_passes)

    @property
    def seconds(self) -> float | None:
        """What these would have taken, by the time of those that were done; None if unknown."""
        if not self.body_passes:
            return None
        return self.saved * self.store_seconds / self.body_passes


def phases_of(epochs: Sequence[EpochFacts]) -> tuple[PhaseFacts, ...]:
    """The rows in runs of the same phase."""
    found, start = [], 0
    for phase, run in groupby(epochs, lambda row: row.phase):
        rows = tuple(run)
        most = [_most(rows, name) for name in ("memory", "device_memory")]
        found.append(PhaseFacts(phase, start, rows, sum(row.seconds for row in rows), *most))
        start += len(rows)
    return tuple(found)


def _most(rows: Sequence[EpochFacts], name: str) -> float | None:
    return max((row.cost[name] for row in rows if name in row.cost), default=None)


def savings_of(epochs: Sequence[EpochFacts]) -> Savings | None:
    """What stored outputs were worth; None where nothing was stored."""
    costs = [row.cost for row in epochs if row.cost.get("passes")]
    names = ("passes", "body_passes", "store_seconds")
    return Savings(*(sum(c.get(name, 0.0) for c in costs) for name in names)) if costs else None


def savings_text(savings: Savings) -> str:
    """It in a sentence or two."""
    said = (
        f"While layers were frozen, what trains went over the training data {savings.passes:.3g} "
        f"times on stored outputs; the frozen layers themselves ran {savings.body_passes:.3g} "
        f"{'time' if savings.body_passes == 1 else 'times'}. "
        f"That saved {savings.saved:.3g} passes of the frozen layers"
    )
    if savings.seconds is None:
        return f"{said}."
    return (
        f"{said}, about {duration(savings.seconds)} (a pass, with the reading of the data, took "
        f"{duration(savings.store_seconds / savings.body_passes)})."
    )


def headline(outcome: Outcome) -> tuple[str, str]:
    """The most telling figure with its name."""
    for name, value in outcome.figures.items():
        return name, percent(value) if name in _SHARES else figure(value)
    return "loss", figure(outcome.loss)


def figures_in_words(outcome: Outcome) -> dict[str, str]:
    """All figures of a result, the loss too."""
    found = {n: percent(v) if n in _SHARES else figure(v) for n, v in outcome.figures.items()}
    if outcome.calibration_error is not None:
        found["expected calibration error"] = percent(outcome.calibration_error)
    return found | {"loss": figure(outcome.loss)}


def best_epoch(epochs: Sequence[EpochFacts]) -> EpochFacts | None:
    """The row with the lowest validation loss."""
    known = [row for row in epochs if row.valid_loss is not None]
    return min(known, key=lambda row: row.valid_loss or 0.0) if known else None


def story(record: RunRecord) -> str:
    """The run in a few sentences."""
    told = [_training(record), _result(record)]
    return " ".join(filter(None, told))


def per_class(outcome: Outcome) -> list[tuple[str, int, int, float | None, float | None]]:
    """For each class or label its name, items, those found, recall and precision."""
    if outcome.task == "multilabel":
        return [
            (f.name, f.actual, f.right, _part(f.right, f.actual), _part(f.right, f.predicted))
            for f in outcome.labels
        ]
    actual, predicted, right = ([0] * len(outcome.classes) for _ in range(3))
    for cell in outcome.cells:
        actual[cell.actual] += cell.count
        predicted[cell.predicted] += cell.count
        if cell.actual == cell.predicted:
            right[cell.actual] += cell.count
    return [
        (name, a, r, _part(r, a), _part(r, p))
        for name, a, p, r in zip(outcome.classes, actual, predicted, right, strict=True)
    ]


def _training(record: RunRecord) -> str:
    phases = phases_of(record.epochs)
    if not phases:
        return "Nothing has been trained yet."
    names = [group.name for group in record.network.groups]
    stretches = groupby(phases, lambda phase: _who(phase, names))
    lengths = [(who, sum(len(phase.rows) for phase in run)) for who, run in stretches]
    parts = [f"{who} for {count(n, 'epoch')}" for who, n in lengths[:_TOLD]]
    more = f", and {count(len(lengths) - _TOLD, 'more phase')}" if len(lengths) > _TOLD else ""
    first, *others = parts
    told = "".join([first.replace(" for ", " trained for ", 1), *(f", then {p}" for p in others)])
    sentence = f"first {told}{more}." if others else f"{told}."
    return f"{sentence[0].upper()}{sentence[1:]}"


def _who(phase: PhaseFacts, names: Sequence[str]) -> str:
    """Which layer groups trained in a phase, in words."""
    states = {row.frozen for row in phase.rows}
    if len(states) != 1:
        return "more and more layer groups"
    (frozen,) = states
    active = [i for i, rests in enumerate(frozen) if not rests]
    if len(active) == len(frozen):
        return "all layer groups" if len(frozen) > 1 else "the whole network"
    if len(active) == 1 and len(names) == len(frozen):
        name = names[active[0]]
        return "the head alone" if name == "head" else f"“{name}” alone"
    return f"{len(active)} of {len(frozen)} layer groups"


def _result(record: RunRecord) -> str:
    outcome = record.outcome
    if outcome is None:
        return "It was not measured on validation data."
    name, value = headline(outcome)
    items = count(outcome.items, "item" if outcome.task == "regression" else "photo")
    if outcome.task != "multiclass":
        return f"On {items} for validation: {name} {value}."
    said = f"{value} of {items} for validation are right."
    wrong = confusions_of(outcome)
    if not wrong:
        return said
    most = wrong[0]
    times = "once" if most.count == 1 else f"{most.count} times"
    return (
        f"{said} The most frequent mistake: “{most.actual}” taken for “{most.predicted}”, {times}."
    )


def _part(count: int, total: int) -> float | None:
    return count / total if total else None


# Two runs


def figures_of(runs: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    """Figures of several runs, a row for each: its name, then what each run has."""
    columns = [_all_figures(run) for run in runs]
    names = dict.fromkeys(name for column in columns for name in column)
    return [(name, *(column.get(name, "–") for column in columns)) for name in names]


def differences(runs: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    """Settings, versions, machine and facts of the data that are not the same in all runs."""
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
    names = dict.fromkeys(name for column in columns for name in column)
    rows = [(name, *(column.get(name, "–") for column in columns)) for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _all_figures(run: RunRecord) -> dict[str, str]:
    found = {} if run.outcome is None else figures_in_words(run.outcome)
    best, peaks = best_epoch(run.epochs), [p.memory for p in phases_of(run.epochs) if p.memory]
    savings = savings_of(run.epochs)
    return found | {
        "lowest validation loss": figure(best.valid_loss) if best else "–",
        "training time": duration(run.seconds),
        "rows of the history": str(len(run.epochs)),
        "memory": memory(max(peaks, default=None)),
        "passes of frozen layers saved": "–" if savings is None else f"{savings.saved:.3g}",
        "network": run.network.name,
        "parameters": short(run.network.parameters),
        "layer groups": str(len(run.network.groups)),
        "to learn from": "–" if run.data.train is None else f"{run.data.train:,}",
        "to measure with": "–" if run.data.valid is None else f"{run.data.valid:,}",
    }
