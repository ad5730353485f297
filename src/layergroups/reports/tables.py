"""Predictions and classes as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from layergroups.groups.table import HEADINGS, group_cells
from layergroups.reports.confusion import ConfusionMatrix
from layergroups.reports.photo_rows import Column

if TYPE_CHECKING:
    from layergroups.groups import LayerGroups


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
