"""Which classes a model confuses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from layergroups.errors import LayerGroupsError
from layergroups.tasks.measures._class_report import ClassReport


@dataclass(frozen=True)
class Confusion:
    """Items of one class that were predicted as another.

    Attributes:
        actual: their class.
        predicted: the class that was predicted.
        count: number of items.
    """

    actual: str
    predicted: str
    count: int

    def __str__(self) -> str:
        return f"{self.actual} predicted as {self.predicted}: {self.count}"


@dataclass(frozen=True)
class ConfusionMatrix:
    """How many items of each class were predicted as each class.

    Attributes:
        matrix: (C, C) counts; a row for each actual class, a column for each predicted one.
        classes: their names, in the order of rows and columns.
    """

    matrix: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        n = len(self.classes)
        if [len(row) for row in self.matrix] != [n] * n:
            raise LayerGroupsError(
                f"A confusion matrix of {n} classes has {n} rows of {n} counts; this one has "
                f"{len(self.matrix)} rows of {sorted({len(row) for row in self.matrix})} counts."
            )

    def __str__(self) -> str:
        """A row for each actual class, a column for each predicted one, in the same order."""
        width = max((len(name) for name in self.classes), default=0)
        digits = max((len(str(count)) for row in self.matrix for count in row), default=1)
        rows = zip(self.classes, self.matrix, strict=True)
        return "\n".join(
            f"{name:{width}}  {'  '.join(f'{count:{digits}}' for count in row)}"
            for name, row in rows
        )

    @classmethod
    def from_predictions(
        cls, probabilities: Tensor, targets: Tensor | None, classes: Sequence[str]
    ) -> ConfusionMatrix:
        """Count predictions.

        Args:
            probabilities: or any scores, (N, C).
            targets: the actual classes, int (N,).
            classes: their names; positions if empty.

        Raises:
            LayerGroupsError: there are no targets, or they are not one class for each item.
        """
        if targets is not None and targets.ndim == 2:
            raise LayerGroupsError(
                "A confusion matrix is for one class for each item, targets (N,). Several labels "
                "are measured one by one, Interpretation.from_learner(learn).class_report(), and "
                "numbers by their errors, residuals()."
            )
        if targets is None or targets.ndim != 1 or probabilities.ndim != 2:
            raise LayerGroupsError(
                "A confusion matrix needs one actual class for each item; give batches of (inputs, "
                "targets) with targets of shape (N,)."
            )
        n = probabilities.shape[1]
        cells = targets.long() * n + probabilities.argmax(1)
        counts = torch.bincount(cells, minlength=n * n).reshape(n, n).tolist()
        names = tuple(classes) or tuple(map(str, range(n)))
        return cls(tuple(map(tuple, counts)), names)

    @property
    def total(self) -> int:
        """Number of items."""
        return sum(map(sum, self.matrix))

    @property
    def correct(self) -> int:
        """Number of items whose class was found."""
        return sum(row[i] for i, row in enumerate(self.matrix))

    @property
    def accuracy(self) -> float:
        """Part of the items whose class was found, 0..1."""
        return self.correct / self.total if self.total else float("nan")

    def class_report(self) -> ClassReport:
        """Precision, recall, F1 and support of each class."""
        right = [row[i] for i, row in enumerate(self.matrix)]
        predicted = [sum(column) for column in zip(*self.matrix, strict=True)]
        actual = [sum(row) for row in self.matrix]
        return ClassReport.from_counts(self.classes, right, predicted, actual)

    def most_confused(self, n: int = 5) -> tuple[Confusion, ...]:
        """The n most frequent confusions, the most frequent first."""
        found = [
            Confusion(self.classes[i], self.classes[j], count)
            for i, row in enumerate(self.matrix)
            for j, count in enumerate(row)
            if count and i != j
        ]
        return tuple(sorted(found, key=lambda c: -c.count)[:n])

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values; rows are actual classes, columns predicted ones."""
        return {
            "classes": list(self.classes),
            "matrix": [list(row) for row in self.matrix],
            "photos": self.total,
            "accuracy": self.accuracy,
        }
