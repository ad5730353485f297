"""The facts of a run as tables, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from layergroups.reports.outcome import confusions_of
from layergroups.reports.run_facts import EpochFacts, Outcome
from layergroups.reports.run_record import RunRecord
from layergroups.reports.telling import (
    differences,
    figures_in_words,
    figures_of,
    per_class,
    phases_of,
    savings_of,
    savings_text,
    story,
)
from layergroups.reports.words import count, duration, figure, memory, moment, percent, rate, short

_WORST = 9
_CONFUSED = 10
_BROKEN = 20


def run_tables(record: RunRecord) -> Group:
    """All that the page tells in figures and words, in its order."""
    parts: list[RenderableType] = [Text(record.title, style="bold"), Text(story(record))]
    parts += _titled("How it learned", _epochs(record)) if record.epochs else []
    if record.outcome is not None:
        parts += _outcome(record.outcome)
    parts += _titled("The network in its layer groups", _groups(record))
    parts += _titled("The data", _data(record))
    if record.epochs:
        parts += _titled("Time and memory", _costs(record))
    setup = record.setup
    parts += _titled("How to do it again", Text(setup.command))
    parts += [_named(setup.settings), _named(setup.versions), _named(setup.machine)]
    return Group(*parts)


def compare_tables(one: RunRecord, other: RunRecord) -> Group:
    """The figures of two runs beside each other, and what differs."""
    runs = (one, other)
    parts: list[RenderableType] = [Text("Two runs", style="bold")]
    parts += [
        Text(f"{letter}: {run.title}, {moment(run.setup.created)}")
        for letter, run in zip("AB", runs, strict=True)
    ]
    parts.append(_table(("", "A", "B"), figures_of(runs)))
    rows = differences(runs)
    parts += _titled("What differs", _table(("", "A", "B"), rows) if rows else Text("Nothing."))
    commands = [
        Text(f"{letter}: {run.setup.command}") for letter, run in zip("AB", runs, strict=True)
    ]
    return Group(*parts, *_titled("How to do it again", *commands))


def _epochs(record: RunRecord) -> Table:
    metrics = list(dict.fromkeys(name for row in record.epochs for name in row.metrics))
    headings = ("epoch", "phase", "training", "validation", *metrics, "rates", "frozen", "time")
    rows = [
        (
            str(row.epoch), row.phase, figure(row.train_loss), figure(row.valid_loss),
            *(figure(row.metrics.get(name)) for name in metrics),
            _rates(row), f"{sum(row.frozen)} of {len(row.frozen)}", duration(row.seconds),
        )
        for row in record.epochs
    ]  # fmt: skip
    return _table(headings, rows)


def _rates(row: EpochFacts) -> str:
    """The highest rates of the groups that trained, from the input to the output."""
    known = [r for r, frozen in zip(row.lrs, row.frozen, strict=False) if not frozen] or row.lrs
    return " ".join(dict.fromkeys(map(rate, known)))


def _outcome(outcome: Outcome) -> list[RenderableType]:
    parts = _titled("What it gets right, and what it mistakes", _named(figures_in_words(outcome)))
    if outcome.task != "regression":
        rows = [
            (name, f"{n:,}", f"{right:,}", percent(recall), percent(precision))
            for name, n, right, recall, precision in per_class(outcome)
        ]
        kind = "label" if outcome.task == "multi" else "class"
        parts.append(_table((kind, "items", "found", "recall", "precision"), rows))
    wrong = confusions_of(outcome)[:_CONFUSED]
    if wrong:
        pairs = [(c.actual, c.predicted, str(c.count)) for c in wrong]
        parts.append(_table(("is", "taken for", "photos"), pairs))
    worst = [
        (photo.path, photo.actual, photo.predicted, percent(photo.score), figure(photo.loss))
        for photo in outcome.worst[:_WORST]
    ]
    headings = ("highest losses", "is", "taken for", "sure", "loss")
    return [*parts, _table(headings, worst)] if worst else parts


def _groups(record: RunRecord) -> Table:
    rows = [
        (
            group.name, str(group.blocks), short(group.parameters),
            "frozen" if group.frozen else rate(group.rate), group.reason,
        )
        for group in record.network.groups
    ]  # fmt: skip
    return _table(("group", "blocks", "parameters", "rate", "begins here"), rows)


def _data(record: RunRecord) -> Group:
    data = record.data
    rows = [(name, f"{train:,}", f"{valid:,}") for name, train, valid in data.counts]
    parts: list[RenderableType] = [_named(data.facts)]
    if rows:
        parts.append(_table(("class", "to learn from", "to measure with"), rows))
    if data.broken:
        parts.append(Text(f"{count(len(data.broken), 'broken file')} left out:"))
        parts += [Text(f"  {path}: {reason}") for path, reason in data.broken[:_BROKEN]]
    return Group(*parts)


def _costs(record: RunRecord) -> Group:
    rows = [
        (p.name, str(len(p.rows)), duration(p.seconds), memory(p.memory), memory(p.device_memory))
        for p in phases_of(record.epochs)
    ]
    headings = ("phase", "epochs", "time", "memory", "on the device")
    savings = savings_of(record.epochs)
    said = savings_text(savings) if savings else "No outputs of frozen layers were stored."
    return Group(_table(headings, rows), Text(said))


def _titled(title: str, *content: RenderableType) -> list[RenderableType]:
    return [Text(), Text(title, style="bold"), *content]


def _named(values: Mapping[str, str]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in values.items():
        table.add_row(Text(name, style="dim"), Text(value))
    return table


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """Text of the data is shown as it is: rich reads no markup in it."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        table.add_column(Text(heading), overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table
