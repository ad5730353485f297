"""The report of one or two runs, as a page, tables or JSON, from their records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from layergroups._formatting import (
    count,
    duration,
    figure,
    memory,
    moment,
    pairs,
    percent,
    plain_text,
    rate,
    short,
    table,
)
from layergroups._paths import path_of
from layergroups.checkpoints import write_text
from layergroups.errors import LayerGroupsError
from layergroups.reports._protocols import EpochRow, Trained
from layergroups.reports.page import compare_page, run_page
from layergroups.reports.run import (
    Outcome,
    RunRecord,
    differences,
    figures_in_words,
    figures_of,
    phases_of,
    record_run,
    savings_of,
    savings_text,
    summary,
)
from layergroups.tasks import task_named

_MAX_CONFUSED = 10
_MAX_BROKEN = 20
_MAX_CLASSES = 50
_ENDINGS = (".html", ".htm")
_WIDTH = 120


def _run_tables(record: RunRecord) -> Group:
    parts: list[RenderableType] = [Text(record.title, style="bold"), Text(summary(record))]
    parts += _titled("Training curves", _epochs(record)) if record.epochs else []
    parts += _outcome(record.outcome) if record.outcome else []
    parts += _titled("Network and layer groups", _groups(record))
    parts += _titled("Data", _data(record))
    parts += _titled("Time and memory", _costs(record)) if record.epochs else []
    setup = record.setup
    parts += _titled("Reproduce", Text(setup.command))
    parts += [_named(setup.settings), _named(setup.versions), _named(setup.machine)]
    return Group(*parts)


def _compare_tables(one: RunRecord, other: RunRecord) -> Group:
    runs = {"A": one, "B": other}
    parts: list[RenderableType] = [Text("Two runs", style="bold")]
    parts += [
        Text(f"{letter}: {run.title}, {moment(run.setup.created)}") for letter, run in runs.items()
    ]
    parts.append(_table(("", *runs), figures_of((one, other))))
    rows = differences((one, other))
    parts += _titled("Differences", _table(("", *runs), rows) if rows else Text("None."))
    commands = [Text(f"{letter}: {run.setup.command}") for letter, run in runs.items()]
    return Group(*parts, *_titled("Reproduce", *commands))


def _epochs(record: RunRecord) -> Table:
    metrics = list(dict.fromkeys(name for row in record.epochs for name in row.metrics))
    headings = ("epoch", "phase", "training", "validation", *metrics, "lr", "frozen", "time")
    rows = [
        (
            str(row.epoch), row.phase, figure(row.train_loss), figure(row.valid_loss),
            *(figure(row.metrics.get(name)) for name in metrics),
            _rates(row), f"{sum(row.frozen)} of {len(row.frozen)}", duration(row.seconds),
        )
        for row in record.epochs
    ]  # fmt: skip
    return _table(headings, rows)


def _rates(row: EpochRow) -> str:
    known = [r for r, frozen in zip(row.lrs, row.frozen, strict=False) if not frozen] or row.lrs
    return " ".join(dict.fromkeys(map(rate, known)))


def _outcome(outcome: Outcome) -> list[RenderableType]:
    parts = _titled("Results", _named(figures_in_words(outcome)))
    masks = task_named(outcome.task).per_pixel
    counted = "pixels" if masks else "items"
    if outcome.class_report is not None:
        classes = outcome.class_report.classes
        if len(classes) > _MAX_CLASSES:
            classes = tuple(sorted(classes, key=lambda row: row.recall or 0.0))
        rows = [
            (row.name, f"{row.support:,}", f"{row.right:,}",
             *map(percent, (row.recall, row.precision, *((row.f1, row.iou) if masks else ()))))
            for row in classes[:_MAX_CLASSES]
        ]  # fmt: skip
        headings = ("class", counted, "correct", "recall", "precision")
        parts.append(_table((*headings, *(("Dice", "IoU") if masks else ())), rows))
        parts += _more_classes(len(classes), "those with the lowest recall")
    wrong = [(c.actual, c.predicted, str(c.count)) for c in outcome.confusions[:_MAX_CONFUSED]]
    if wrong:
        parts += _titled("Confusion matrix", _table(("actual", "predicted", counted), wrong))
    worst = [
        (item.path, item.actual, item.predicted, percent(item.confidence), figure(item.loss),
         *((percent(item.iou),) if masks else ()))
        for item in outcome.worst
    ]  # fmt: skip
    headings = ("item", "actual", "predicted", "confidence", "loss", *(("IoU",) if masks else ()))
    return [*parts, *_titled("Largest errors", _table(headings, worst))] if worst else parts


def _groups(record: RunRecord) -> Table:
    rows = [
        (
            group.name, str(group.blocks), short(group.parameters),
            "frozen" if group.frozen else rate(group.rate), group.reason,
        )
        for group in record.network.groups
    ]  # fmt: skip
    return _table(("group", "blocks", "parameters", "lr", "why it begins here"), rows)


def _data(record: RunRecord) -> Group:
    data = record.data
    counts = data.counts
    if len(counts) > _MAX_CLASSES:
        counts = tuple(sorted(counts, key=lambda each: each[1]))
    rows = [(name, f"{train:,}", f"{valid:,}") for name, train, valid in counts]
    parts: list[RenderableType] = [_named(data.facts)]
    if rows:
        parts.append(_table(("class", "training", "validation"), rows[:_MAX_CLASSES]))
        parts += _more_classes(len(rows), "those with the fewest training items")
    if data.broken:
        parts.append(Text(f"{count(len(data.broken), 'broken file')} left out:"))
        parts += [Text(f"  {path}: {reason}") for path, reason in data.broken[:_MAX_BROKEN]]
    return Group(*parts)


def _more_classes(n: int, which: str) -> list[RenderableType]:
    text = f"{_MAX_CLASSES} of {n:,} classes, {which}; the page has all."
    return [Text(text, "dim")] if n > _MAX_CLASSES else []


def _costs(record: RunRecord) -> Group:
    rows = [
        (p.name, str(len(p.rows)), duration(p.seconds), memory(p.memory), memory(p.device_memory))
        for p in phases_of(record.epochs)
    ]
    headings = ("phase", "epochs", "time", "memory", "on the device")
    return Group(_table(headings, rows), Text(savings_text(savings_of(record.epochs))))


def _titled(title: str, *content: RenderableType) -> list[RenderableType]:
    return [Text(), Text(title, style="bold"), *content]


def _named(values: Mapping[str, str]) -> Table:
    return pairs(values.items(), "dim")


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    return table(headings, rows, left=headings)


@dataclass(frozen=True, repr=False)
class RunReport:
    """The report of a run; a notebook shows the page, a terminal tables.

    Attributes:
        records: one run, or two to compare.
        path: the page, if it has been written.
    """

    records: tuple[RunRecord, ...]
    path: Path | None = field(default=None)

    def __post_init__(self) -> None:
        are_records = all(isinstance(record, RunRecord) for record in self.records)
        if not are_records or not 1 <= len(self.records) <= 2:
            raise LayerGroupsError(
                f"A report needs one or two records of runs, not {len(self.records)} values: "
                "RunReport.read(folder), learn.report(), RunReport((record,))."
            )

    @classmethod
    def read(cls, *folders: str | Path) -> RunReport:
        """Read one or two folders of `write_run` or `layergroups train`.

        Raises:
            CheckpointError: a folder has no record, or a damaged one.
        """
        records = [RunRecord.load(folder) for folder in folders]
        names = [Path(folder).resolve().name for folder in folders]
        if len({record.title for record in records}) < len(set(names)):  # the same title twice
            records = [
                replace(record, title=f"{record.title} ({name})")
                for record, name in zip(records, names, strict=True)
            ]
        return cls(tuple(records))

    def html(self) -> str:
        """The page: one HTML document that needs neither network nor other files."""
        one, *other = self.records
        return compare_page(one, *other) if other else run_page(one)

    def save(self, path: str | Path) -> RunReport:
        """Write the page; missing folders are created.

        Returns:
            The same report, with its path.

        Raises:
            LayerGroupsError: the name does not end in .html.
            CheckpointError: the file cannot be written.
        """
        target = check_page_name(path)
        write_text(target, self.html())
        return RunReport(self.records, target)

    def to_dict(self) -> dict[str, Any]:
        """The records as JSON-ready values, without pictures; of two runs a list, "runs"."""
        found = [record.without_pictures().to_dict() for record in self.records]
        return found[0] if len(found) == 1 else {"runs": found}

    def __rich__(self) -> Group:
        one, *other = self.records
        return _compare_tables(one, *other) if other else _run_tables(one)

    def __str__(self) -> str:
        return plain_text(self.__rich__(), _WIDTH)

    def __repr__(self) -> str:
        titles = " and ".join(record.title for record in self.records)
        return f"RunReport of {titles}" + (f", written to {self.path}" if self.path else "")

    def _repr_html_(self) -> str:
        """The page in an iframe, so its styles and scripts do not affect the notebook."""
        return (
            f'<iframe srcdoc="{escape(self.html())}" sandbox="allow-scripts" title="report" '
            'style="width:100%;height:46rem;border:1px solid #8884;border-radius:8px"></iframe>'
        )


def check_page_name(path: str | Path) -> Path:
    """The path of a page, which must end in .html."""
    target = path_of(path, LayerGroupsError, 'learn.report("run.html")')
    if target.suffix.lower() not in _ENDINGS:
        raise LayerGroupsError(
            f"{target} must end with .html, for example "
            f"{target.with_suffix('.html') if target.name else Path('run.html')}."
        )
    return target


def report_on(
    learn: Trained, path: str | Path | None, *, title: str | None = None, images: bool = True
) -> RunReport:
    """Create the report of a learner, see `Learner.report`; the page is not written yet."""
    if path is not None:
        check_page_name(path)
    if title is not None and not isinstance(title, str):
        raise LayerGroupsError(f'title={title!r} must be text: learn.report(title="First try").')
    if not isinstance(images, bool):
        raise LayerGroupsError(f"images={images!r} must be True or False.")
    return RunReport((record_run(learn, title=title, pictures=images),))
