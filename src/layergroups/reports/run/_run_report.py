"""The report of a run, or of two side by side: a page, tables, JSON, all from the same record.

The facts of a run as tables, for a terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from layergroups._formatting import (
    count,
    duration,
    figure,
    memory,
    moment,
    percent,
    plain_text,
    rate,
    short,
)
from layergroups.checkpoints import write_text
from layergroups.errors import LayerGroupsError
from layergroups.reports._protocols import Trained
from layergroups.reports.page import compare_page, run_page
from layergroups.reports.run._collect import confusions_of, record_run
from layergroups.reports.run._narrative import (
    differences,
    figures_in_words,
    figures_of,
    per_class,
    phases_of,
    savings_of,
    savings_text,
    story,
)
from layergroups.reports.run._record import EpochFacts, Outcome, RunRecord

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
        kind = "label" if outcome.task == "multilabel" else "class"
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


_ENDINGS = (".html", ".htm")
_WIDTH = 120


@dataclass(frozen=True, repr=False)
class RunReport:
    """What is told of a run; in a notebook it shows as the page, in a terminal as tables.

    Attributes:
        records: one run, or two to compare.
        path: the page, if it has been written.
    """

    records: tuple[RunRecord, ...]
    path: Path | None = field(default=None)

    def __post_init__(self) -> None:
        if not all(isinstance(record, RunRecord) for record in self.records):
            raise LayerGroupsError(
                "A report is of records of runs: RunReport.read(folder), or learn.report()."
            )
        if not 1 <= len(self.records) <= 2:
            raise LayerGroupsError(
                f"A report is of one run, or of two side by side, not of {len(self.records)}: "
                "RunReport((record,)) or RunReport((one, other))."
            )

    @classmethod
    def read(cls, *folders: str | Path) -> RunReport:
        """Of the folders that `write_run` or `layergroups train` wrote, one or two.

        Raises:
            CheckpointError: a folder has no record of a run, or a damaged one.
        """
        return cls(tuple(RunRecord.load(folder) for folder in folders))

    def html(self) -> str:
        """The page: one document that needs neither network nor other files."""
        one, *other = self.records
        return compare_page(one, *other) if other else run_page(one)

    def save(self, path: str | Path) -> RunReport:
        """Write the page; missing folders are made.

        Returns:
            The same report, which knows its file.

        Raises:
            LayerGroupsError: the name does not end in .html.
            CheckpointError: the file cannot be written.
        """
        target = check_page_name(path)
        write_text(target, self.html())
        return RunReport(self.records, target)

    def to_dict(self) -> dict[str, Any]:
        """The facts as JSON-ready values, without the pictures; of two runs a list, "runs"."""
        found = [record.without_pictures().to_dict() for record in self.records]
        return found[0] if len(found) == 1 else {"runs": found}

    def __rich__(self) -> Group:
        one, *other = self.records
        return compare_tables(one, *other) if other else run_tables(one)

    def __str__(self) -> str:
        return plain_text(self.__rich__(), _WIDTH)

    def __repr__(self) -> str:
        titles = " and ".join(record.title for record in self.records)
        return f"RunReport of {titles}" + (f", written to {self.path}" if self.path else "")

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that neither can disturb the notebook."""
        return (
            f'<iframe srcdoc="{escape(self.html())}" sandbox="allow-scripts" title="report" '
            'style="width:100%;height:46rem;border:1px solid #8884;border-radius:8px"></iframe>'
        )


def check_page_name(path: str | Path) -> Path:
    """The path of a page.

    Raises:
        LayerGroupsError: it is no path, a folder, or does not end in .html.
    """
    if not isinstance(path, str | Path):
        raise LayerGroupsError(
            f'A page goes to a path, not to a {type(path).__name__}: learn.report("run.html").'
        )
    target = Path(path)
    if target.suffix.lower() not in _ENDINGS:
        raise LayerGroupsError(
            f"{target} does not end like a page; end it with .html, for example "
            f"{target.with_suffix('.html') if target.name else Path('run.html')}."
        )
    return target


def check_title(title: object) -> None:
    """A title is text, or left out.

    Raises:
        LayerGroupsError: it is something else.
    """
    if title is not None and not isinstance(title, str):
        raise LayerGroupsError(
            f'title={title!r} must be text: learn.report("run.html", title="Clothes, first try").'
        )


def report_on(
    learn: Trained, path: str | Path | None, *, title: str | None = None, pictures: bool = True
) -> RunReport:
    """The report of a learner; the page is not written yet.

    Args:
        learn: it goes through its validation data once, and is left as it was.
        path: of the page that will be written, which is checked before anything is computed.
        title: of the page; None for the network's name and the data's.
        pictures: False leaves photos out.

    Raises:
        LayerGroupsError: path or title is not what it should be.
    """
    if path is not None:
        check_page_name(path)
    check_title(title)
    if not isinstance(pictures, bool):
        raise LayerGroupsError(f"photos={pictures!r} must be True or False.")
    return RunReport((record_run(learn, title=title, pictures=pictures),))
