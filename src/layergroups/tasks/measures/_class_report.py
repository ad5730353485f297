"""Precision, recall and F1 of each class, or of each of several labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich import box
from rich.table import Table
from rich.text import Text
from torch import Tensor

from layergroups._formatting import html_table, plain_text

_HEADINGS = ("class", "precision", "recall", "f1", "support")


@dataclass(frozen=True)
class ClassFigures:
    """How well one class is found.

    Attributes:
        name: of the class.
        precision: part of what was predicted as it that is of it; None where nothing was.
        recall: part of what is of it that was predicted as it; None where nothing is.
        f1: their harmonic mean, 2 tp / (2 tp + fp + fn); None where there is neither.
        support: how many are of it.
        right: how many of these were found.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    right: int

    @classmethod
    def from_counts(cls, name: str, right: int, predicted: int, actual: int) -> ClassFigures:
        """Of how many are rightly predicted as the class, predicted as it, and of it."""
        both = predicted + actual
        return cls(
            name,
            right / predicted if predicted else None,
            right / actual if actual else None,
            2 * right / both if both else None,
            actual,
            right,
        )


@dataclass(frozen=True)
class ClassReport:
    """A row for each class, and what they come to; prints as a table.

    Attributes:
        classes: a row for each class, in the order of the vocabulary.
        macro: the mean of the rows; classes without a figure are left out of it.
        weighted: the mean of the rows, each counted as often as it has items.
        total: over all items at once ("micro"); for one class an item all three are the accuracy.
    """

    classes: tuple[ClassFigures, ...]
    macro: ClassFigures
    weighted: ClassFigures
    total: ClassFigures

    @classmethod
    def from_counts(
        cls,
        names: Sequence[str],
        right: Sequence[int],
        predicted: Sequence[int],
        actual: Sequence[int],
    ) -> ClassReport:
        """Of how many are rightly predicted as each class, predicted as it, and of it."""
        rows = tuple(map(ClassFigures.from_counts, names, right, predicted, actual))
        return cls(
            rows,
            _mean("mean", rows, [1.0] * len(rows)),
            _mean("weighted mean", rows, [float(row.support) for row in rows]),
            ClassFigures.from_counts("all", sum(right), sum(predicted), sum(actual)),
        )

    @classmethod
    def from_hits(cls, predicted: Tensor, actual: Tensor, names: Sequence[str]) -> ClassReport:
        """Of what was predicted and what is so, each bool (N, C)."""
        counts = ((predicted & actual).sum(0), predicted.sum(0), actual.sum(0))
        return cls.from_counts(names, *(each.tolist() for each in counts))

    @classmethod
    def from_classes(cls, predicted: Tensor, actual: Tensor, names: Sequence[str]) -> ClassReport:
        """Of one class for each item, int (N,) each."""
        each = torch.arange(len(names))
        return cls.from_hits(predicted[:, None] == each, actual[:, None] == each, names)

    def __getitem__(self, name: str) -> ClassFigures:
        """The row of a class."""
        for row in self.classes:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def rows(self) -> tuple[ClassFigures, ...]:
        """The rows of the table: all classes, then what they come to."""
        return (*self.classes, self.macro, self.weighted, self.total)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        return asdict(self)

    def __rich__(self) -> Table:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in _HEADINGS:
            table.add_column(
                heading,
                justify="left" if heading == "class" else "right",
                overflow="fold" if heading == "class" else "ellipsis",
            )
        for i, row in enumerate(self.rows):
            if i == len(self.classes):
                table.add_section()
            name, *figures = _cells(row)
            table.add_row(Text(name), *figures)
        return table

    def __str__(self) -> str:
        return plain_text(self)

    def _repr_html_(self) -> str:
        return html_table(_HEADINGS, map(_cells, self.rows), "Each class")


def _mean(name: str, rows: Sequence[ClassFigures], weights: Sequence[float]) -> ClassFigures:
    def of(figure: str) -> float | None:
        pairs = [(getattr(row, figure), w) for row, w in zip(rows, weights, strict=True)]
        known = [(value, w) for value, w in pairs if value is not None and w]
        total = sum(w for _, w in known)
        return sum(value * w for value, w in known) / total if total else None

    support, right = (sum(getattr(row, n) for row in rows) for n in ("support", "right"))
    return ClassFigures(name, of("precision"), of("recall"), of("f1"), support, right)


def _cells(row: ClassFigures) -> tuple[str, ...]:
    figures = (row.precision, row.recall, row.f1)
    return (row.name, *("-" if f is None else f"{f:.3f}" for f in figures), f"{row.support:,d}")
