"""What a model says of one photo, as a row: of labels, or of numbers. One class: see `tables`.

Predictions written to stdout row by row, as they come: a table, CSV, JSON or JSON lines.

Predictions and classes as tables for the terminal.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from layergroups.groups import HEADINGS, group_cells
from layergroups.reports.measures._confusion import ConfusionMatrix

if TYPE_CHECKING:
    from layergroups.groups import LayerGroups


_WIDEST = 40  # columns for the names of labels; longer ones push their row to the right


@dataclass(frozen=True)
class Column:
    """A column of a table of text.

    Attributes:
        heading: above it.
        width: of its cells, in characters.
        right: whether cells stand at its right.
    """

    heading: str
    width: int = 0
    right: bool = False


class PhotoRow(Protocol):
    """What is written of one photo, in every format."""

    @property
    def path(self) -> Path:
        """The photo."""

    @classmethod
    def columns(cls, names: Sequence[str]) -> tuple[Column, ...]:
        """Those of a table, after the photo's; `names` are those of the outputs."""

    def cells(self) -> tuple[str, ...]:
        """For each of these columns."""

    @classmethod
    def csv_columns(cls, names: Sequence[str]) -> tuple[str, ...]:
        """Headings of comma-separated values, after the photo's."""

    def csv_cells(self, names: Sequence[str]) -> tuple[object, ...]:
        """For each of these headings."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""


@dataclass(frozen=True)
class PhotoLabels:
    """Several labels of one photo, or none.

    Attributes:
        path: the photo.
        labels: those whose probability is above the threshold, the likeliest first.
        probabilities: of every label, by name.
    """

    path: Path
    labels: tuple[str, ...]
    probabilities: dict[str, float]

    @classmethod
    def columns(cls, names: Sequence[str]) -> tuple[Column, ...]:
        """Labels, and the likeliest of all with their probabilities."""
        width = min(_WIDEST, len(", ".join(names)))
        return Column("labels", max(width, len("labels"))), Column("probabilities")

    def cells(self) -> tuple[str, ...]:
        """Labels with commas, "-" where there are none; the first three probabilities."""
        ranking = sorted(self.probabilities.items(), key=lambda pair: -pair[1])
        shown = ranking[: max(3, len(self.labels))]
        return ", ".join(self.labels) or "-", "  ".join(f"{name} {p:.3f}" for name, p in shown)

    @classmethod
    def csv_columns(cls, names: Sequence[str]) -> tuple[str, ...]:
        """Labels, and a column for the probability of each."""
        return ("labels", *names)

    def csv_cells(self, names: Sequence[str]) -> tuple[object, ...]:
        """Labels with semicolons between them, and the probability of each."""
        return (";".join(self.labels), *(self.probabilities[name] for name in names))

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return {
            "path": str(self.path),
            "labels": list(self.labels),
            "probabilities": self.probabilities,
        }


@dataclass(frozen=True)
class PhotoNumbers:
    """Numbers that a model tells of one photo.

    Attributes:
        path: the photo.
        numbers: by name.
    """

    path: Path
    numbers: dict[str, float]

    @classmethod
    def columns(cls, names: Sequence[str]) -> tuple[Column, ...]:
        """A column for each number."""
        return tuple(Column(name, max(10, len(name)), right=True) for name in names)

    def cells(self) -> tuple[str, ...]:
        """Each number with five digits."""
        return tuple(f"{value:.5g}" for value in self.numbers.values())

    @classmethod
    def csv_columns(cls, names: Sequence[str]) -> tuple[str, ...]:
        """A column for each number."""
        return tuple(names)

    def csv_cells(self, names: Sequence[str]) -> tuple[object, ...]:
        """The numbers in full."""
        return tuple(self.numbers[name] for name in names)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return {"path": str(self.path), "numbers": self.numbers}


_WIDEST_STREAM = 120  # columns for the path; longer ones push their row to the right


def write_rows(
    format: str,
    rows: Iterable[PhotoRow],
    kind: type[PhotoRow],
    names: Sequence[str],
    paths: Sequence[str],
) -> None:
    """Write each row as soon as it is there; nothing is kept.

    Args:
        format: one of `FORMATS`.
        rows: the predictions.
        kind: their class, which knows the columns.
        names: of all classes, labels or numbers.
        paths: all photos that will come, for the width of a table.
    """
    for line in FORMATS[format](rows, kind, names, paths):
        sys.stdout.write(line)
        sys.stdout.flush()


def _stream_table(
    rows: Iterable[PhotoRow], kind: type[PhotoRow], names: Sequence[str], paths: Sequence[str]
) -> Iterator[str]:
    photo = Column("photo", min(_WIDEST_STREAM, max(map(len, ("photo", *paths)))))
    columns = (photo, *kind.columns(names))
    yield _line([column.heading for column in columns], columns)
    for row in rows:
        yield _line([str(row.path), *row.cells()], columns)


def _line(cells: Sequence[str], columns: Sequence[Column]) -> str:
    placed = [
        cell.rjust(column.width) if column.right else cell.ljust(column.width)
        for cell, column in zip(cells, columns, strict=True)
    ]
    return f"{'  '.join(placed).rstrip()}\n"


def _json(rows: Iterable[PhotoRow], *_: object) -> Iterator[str]:
    """One list; a comma before each row but the first."""
    before = "[\n"
    for row in rows:
        yield before + json.dumps(row.to_dict(), ensure_ascii=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _jsonl(rows: Iterable[PhotoRow], *_: object) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row.to_dict(), ensure_ascii=False) + "\n"


def _csv(
    rows: Iterable[PhotoRow], kind: type[PhotoRow], names: Sequence[str], _: object
) -> Iterator[str]:
    """A column for each output, in the order of the model's."""
    yield _csv_line(["photo", *kind.csv_columns(names)])
    for row in rows:
        yield _csv_line([row.path, *row.csv_cells(names)])


def _csv_line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


_Writer = Callable[
    [Iterable[PhotoRow], type[PhotoRow], Sequence[str], Sequence[str]], Iterator[str]
]


FORMATS: Final[dict[str, _Writer]] = {
    "table": _stream_table,
    "json": _json,
    "jsonl": _jsonl,
    "csv": _csv,
}


@dataclass(frozen=True)
class PhotoPrediction:
    """What a model says of one photo.

    Attributes:
        path: the photo.
        ranking: (class, probability) of all classes, the likeliest first.
        actual: the class that it is of, where that is known.
    """

    path: Path
    ranking: tuple[tuple[str, float], ...]
    actual: str | None = None

    @classmethod
    def from_probabilities(
        cls, path: Path, probabilities: Tensor, classes: Sequence[str], actual: str | None = None
    ) -> PhotoPrediction:
        """Of the probabilities (C,) of one photo."""
        pairs = zip(classes, probabilities.tolist(), strict=True)
        return cls(path, tuple(sorted(pairs, key=lambda pair: -pair[1])), actual)

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.ranking[0][0]

    @property
    def probability(self) -> float:
        """Of the likeliest class, 0..1."""
        return self.ranking[0][1]

    @classmethod
    def columns(cls, names: Sequence[str]) -> tuple[Column, ...]:
        """Those of a table, after the photo's."""
        label = Column("prediction", max(map(len, ("prediction", *names))))
        return label, Column("probability", len("probability"), right=True), Column("next")

    def cells(self) -> tuple[str, ...]:
        """For each of these columns."""
        return self.label, f"{self.probability:.3f}", str(_runner_up(self))

    @classmethod
    def csv_columns(cls, names: Sequence[str]) -> tuple[str, ...]:
        """With a column for the probability of each class."""
        return ("prediction", "probability", *names)

    def csv_cells(self, names: Sequence[str]) -> tuple[object, ...]:
        """For each of these columns; classes in the order of the model's outputs."""
        chances = dict(self.ranking)
        return (self.label, self.probability, *(chances[name] for name in names))

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        known = {} if self.actual is None else {"actual": self.actual}
        return {
            "path": str(self.path),
            **known,
            "prediction": self.label,
            "probability": self.probability,
            "probabilities": dict(self.ranking),
        }


def predictions_table(rows: Sequence[PhotoPrediction]) -> Table:
    """A row for each photo; with the actual class where every photo has one."""
    known = bool(rows) and all(row.actual is not None for row in rows)
    table = _table("photo")
    if known:
        table.add_column("is")
    table.add_column("prediction")
    table.add_column("probability", justify="right")
    table.add_column("next", style="dim")
    for row in rows:
        actual = [Text(row.actual or "")] if known else []
        label = Text(row.label, style=_verdict(row))
        probability = f"{row.probability:.3f}"
        table.add_row(Text(str(row.path)), *actual, label, probability, _runner_up(row))
    return table


def per_class_table(confusion: ConfusionMatrix) -> Table:
    """A row for each class: photos, how many were found, and what else they were taken for."""
    table = _table("class")
    for heading in ("photos", "found", "recall", "precision"):
        table.add_column(heading, justify="right")
    table.add_column("most often taken for", style="dim")
    wrong = confusion.most_confused(len(confusion.classes) ** 2)
    per_class = zip(
        confusion.classes, confusion.matrix, confusion.recall, confusion.precision, strict=True
    )
    for i, (name, row, recall, precision) in enumerate(per_class):
        others = [f"{c.predicted} ({c.count})" for c in wrong if c.actual == name][:2]
        figures = (str(sum(row)), str(row[i]), _figure(recall), _figure(precision))
        table.add_row(Text(name), *figures, Text(", ".join(others)))
    return table


def groups_report(groups: LayerGroups) -> Group:
    """A row for each layer group, and below, why each begins where it does; 80 columns will do."""
    table = _table("group")
    table.add_column("blocks", overflow="fold")
    for heading in HEADINGS[3:]:
        table.add_column(heading, justify="right", no_wrap=True)
    why = Table(box=None, pad_edge=False, show_header=False)
    for group in groups:
        _, name, blocks, *figures, _, reason = group_cells(group)
        table.add_row(Text(name, style="bold"), Text(blocks), *figures, f"{group.lr:.2g}")
        why.add_row(Text(f"{name} begins here:"), Text(reason))
    return Group(table, why)


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    return table


def _verdict(row: PhotoPrediction) -> str:
    if row.actual is None:
        return "bold"
    return "bold green" if row.actual == row.label else "bold red"


def _runner_up(row: PhotoPrediction) -> Text:
    return Text("  ".join(f"{name} {chance:.3f}" for name, chance in row.ranking[1:2]))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
