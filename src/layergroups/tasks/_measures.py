"""Predictions compared with targets, as data: confusions, class figures, errors, calibration.

Source of `Calibration`: Guo et al. 2017, "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final

import torch
from rich.console import Group, RenderableType
from rich.text import Text
from torch import Tensor

from layergroups._checks import whole_number
from layergroups._formatting import Printable, fixed, table
from layergroups.errors import LayerGroupsError

BINS: Final = 15  # of a calibration: as many as in the source, and in most libraries


class _Tabular(Printable, ABC):
    _headings: ClassVar[tuple[str, ...]]
    _totals: ClassVar[int] = 0  # rows at the end, below a line
    caption: ClassVar[Any]  # what the table shows: text, or a property

    @abstractmethod
    def _rows(self) -> list[tuple[str, ...]]: ...

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)  # type: ignore[call-overload,no-any-return] # all are dataclasses

    def __rich__(self) -> RenderableType:
        made = table(self._headings, self._rows())
        if self._totals and len(made.rows) > self._totals:
            made.rows[-1 - self._totals].end_section = True
        return Group(Text(self.caption), made)


@dataclass(frozen=True)
class ClassFigures:
    """Precision, recall and F1 of one class.

    A figure is None if it is not defined: precision of a class that was never predicted, recall of
    a class without items.
    """

    name: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int  # items of the class
    right: int  # how many of these were predicted correctly

    @classmethod
    def from_counts(cls, name: str, right: int, predicted: int, actual: int) -> ClassFigures:
        """From the numbers of items correctly predicted, predicted, and actually of the class."""
        f1 = _part(2 * right, predicted + actual)
        return cls(name, _part(right, predicted), _part(right, actual), f1, actual, right)

    @property
    def iou(self) -> float | None:
        """Intersection over union, which F1 determines."""
        return None if self.f1 is None else self.f1 / (2 - self.f1)


@dataclass(frozen=True)
class ClassReport(_Tabular):
    """A row for each class, and their means; prints as a table."""

    classes: tuple[ClassFigures, ...]  # a row for each class, in the order of the vocabulary
    macro: ClassFigures  # the mean of the rows; it leaves out classes without a figure
    weighted: ClassFigures  # the mean of the rows, weighted by the number of items
    # over all items at once ("micro"); for one class per item all three are the accuracy
    total: ClassFigures
    _headings: ClassVar[tuple[str, ...]] = ("class", "precision", "recall", "f1", "support")
    _totals: ClassVar[int] = 3

    @classmethod
    def from_counts(
        cls,
        names: Sequence[str],
        right: Sequence[int],
        predicted: Sequence[int],
        actual: Sequence[int],
    ) -> ClassReport:
        """From the numbers of items correctly predicted, predicted, and actual, by class."""
        rows = tuple(map(ClassFigures.from_counts, names, right, predicted, actual))
        return cls(
            rows,
            _mean("mean", rows, [1.0] * len(rows)),
            _mean("weighted mean", rows, [float(row.support) for row in rows]),
            ClassFigures.from_counts("all", sum(right), sum(predicted), sum(actual)),
        )

    @classmethod
    def from_hits(cls, predicted: Tensor, actual: Tensor, names: Sequence[str]) -> ClassReport:
        """From predicted and actual labels, each bool (N, C)."""
        counts = ((predicted & actual).sum(0), predicted.sum(0), actual.sum(0))
        return cls.from_counts(names, *(each.tolist() for each in counts))

    @classmethod
    def from_classes(cls, predicted: Tensor, actual: Tensor, names: Sequence[str]) -> ClassReport:
        """From predicted and actual classes, int (N,) each."""
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
        """The rows of the table: all classes, then their means."""
        return (*self.classes, self.macro, self.weighted, self.total)

    caption = "Each class"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (r.name, *map(fixed, (r.precision, r.recall, r.f1)), f"{r.support:,d}")
            for r in self.rows
        ]


@dataclass(frozen=True)
class Confusion:
    """Items of one class that were predicted as a different one."""

    actual: str
    predicted: str
    count: int

    def __str__(self) -> str:
        return f"{self.actual} predicted as {self.predicted}: {self.count}"


@dataclass(frozen=True)
class ConfusionMatrix:
    """How many items of each class were predicted as each class.

    Items whose target is not a class (`ignore_index` of a loss) are left out.
    """

    # (C, C) counts; a row for each actual class, a column for each predicted one
    matrix: tuple[tuple[int, ...], ...]
    classes: tuple[str, ...]  # their names, in the order of rows and columns

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
        """Count predictions: from probabilities or any scores (N, C), targets int (N,)."""
        if targets is None or targets.ndim != 1 or probabilities.ndim != 2:
            raise LayerGroupsError(
                "A confusion matrix needs one class for each item: batches of (inputs, targets) "
                "with targets of shape (N,). For several labels use "
                "Interpretation.from_learner(learn).class_report(), for numbers residuals()."
            )
        names = tuple(classes) or tuple(map(str, range(probabilities.shape[1])))
        return cls.from_classes(probabilities.argmax(1), targets, names)

    @classmethod
    def from_classes(
        cls, predicted: Tensor, targets: Tensor, classes: Sequence[str]
    ) -> ConfusionMatrix:
        """Count predicted and actual classes, int and of the same shape."""
        n = len(classes)
        known = (targets >= 0) & (targets < n)  # the loss leaves out the others
        cells = (targets.long() * n + predicted)[known]
        counts = torch.bincount(cells, minlength=n * n).reshape(n, n).tolist()
        return cls(tuple(map(tuple, counts)), tuple(classes))

    @property
    def total(self) -> int:
        """Number of items."""
        return sum(map(sum, self.matrix))

    @property
    def correct(self) -> int:
        """Number of correctly predicted items."""
        return sum(row[i] for i, row in enumerate(self.matrix))

    @property
    def accuracy(self) -> float:
        """Share of correctly predicted items, 0..1."""
        return self.correct / self.total if self.total else math.nan

    def class_report(self) -> ClassReport:
        """Precision, recall, F1 and support of each class."""
        right = [row[i] for i, row in enumerate(self.matrix)]
        predicted = [sum(column) for column in zip(*self.matrix, strict=True)]
        return ClassReport.from_counts(self.classes, right, predicted, list(map(sum, self.matrix)))

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
            "items": self.total,
            "accuracy": self.accuracy,
        }


@dataclass(frozen=True)
class MaskFigures:
    """The figures of one class over all pixels; None where no pixel has or is given the class."""

    name: str
    iou: float | None  # intersection over union
    dice: float | None
    precision: float | None
    recall: float | None
    pixels: int  # of the class
    predicted: int = 0  # pixels predicted as the class
    right: int = 0  # how many of these were predicted correctly

    @classmethod
    def from_counts(cls, name: str, right: int, predicted: int, actual: int) -> MaskFigures:
        """From the numbers of pixels correctly predicted, predicted, and actually of the class."""
        return cls(
            name,
            _part(right, predicted + actual - right),
            _part(2 * right, predicted + actual),
            _part(right, predicted),
            _part(right, actual),
            actual,
            predicted,
            right,
        )


@dataclass(frozen=True)
class MaskReport(_Tabular):
    """A row for each class of masks, and their mean; prints as a table."""

    classes: tuple[MaskFigures, ...]
    total: int  # pixels; of labels that overlap, those of each label
    accuracy: float  # share of them that is predicted correctly, 0..1
    confusion: ConfusionMatrix | None = None  # of pixels; None for labels that overlap
    _headings: ClassVar[tuple[str, ...]] = ("class", "iou", "dice", "precision", "recall", "pixels")
    _totals: ClassVar[int] = 1

    @classmethod
    def from_confusion(cls, confusion: ConfusionMatrix) -> MaskReport:
        """From the numbers of pixels of each class that were predicted as each class."""
        matrix = confusion.matrix
        right = [row[i] for i, row in enumerate(matrix)]
        predicted = [sum(column) for column in zip(*matrix, strict=True)]
        rows = map(MaskFigures.from_counts, confusion.classes, right, predicted, map(sum, matrix))
        return cls(tuple(rows), confusion.total, confusion.accuracy, confusion)

    @classmethod
    def from_hits(cls, predicted: Tensor, actual: Tensor, names: Sequence[str]) -> MaskReport:
        """From predicted labels, bool (N, C, H, W), and actual ones; -100 is left out."""
        known, hot = actual >= 0, actual > 0.5
        counts = [
            labels.sum((0, 2, 3)).tolist() for labels in (predicted & hot, predicted & known, hot)
        ]
        total = int(known.sum())
        right = int(((predicted == hot) & known).sum())
        rows = map(MaskFigures.from_counts, names, *counts)
        return cls(tuple(rows), total, right / total if total else math.nan)

    def class_report(self) -> ClassReport:
        """Precision, recall and F1 of each class."""
        counts = [(row.right, row.predicted, row.pixels) for row in self.classes]
        return ClassReport.from_counts(
            [row.name for row in self.classes], *zip(*counts, strict=True)
        )

    @property
    def mean_iou(self) -> float:
        """The mean over the classes that some pixel has or is given."""
        return _mean_of([row.iou for row in self.classes])

    @property
    def mean_dice(self) -> float:
        """The same of Dice."""
        return _mean_of([row.dice for row in self.classes])

    @property
    def caption(self) -> str:
        return f"Each class of {self.total:,d} pixels, {self.accuracy:.1%} of them correct"

    def _rows(self) -> list[tuple[str, ...]]:
        rows = [
            (r.name, *map(fixed, (r.iou, r.dice, r.precision, r.recall)), f"{r.pixels:,d}")
            for r in self.classes
        ]
        mean = ("mean", fixed(self.mean_iou), fixed(self.mean_dice), "", "", "")
        return [*rows, mean]


def _mean_of(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class OutputErrors:
    """The errors of one predicted number, each predicted minus actual."""

    name: str  # of the number
    mean: float  # mean error, above 0 if predictions are too high
    mean_absolute: float  # mean absolute error
    root_mean_square: float  # root of the mean squared error
    largest: float  # the largest absolute error
    # 1 - (sum of squared errors) / (sum of squared distances of the actual numbers from their
    # mean); None if those are all equal
    r2: float | None

    @classmethod
    def of(cls, name: str, errors: Tensor, actual: Tensor) -> OutputErrors:
        """From errors and actual numbers (N,)."""
        size, squares = errors.abs(), errors.square()
        spread = float((actual - actual.mean()).square().sum())
        r2 = 1 - float(squares.sum()) / spread if spread else None
        rms, largest = float(squares.mean().sqrt()), float(size.max())
        return cls(name, float(errors.mean()), float(size.mean()), rms, largest, r2)


_ERRORS: Final = ("mean", "mean_absolute", "root_mean_square", "largest")


@dataclass(frozen=True)
class Residuals(_Tabular):
    """The errors of a regression; prints as a table."""

    outputs: tuple[OutputErrors, ...]  # a row for each predicted number
    # the errors, (N, K): predicted minus actual, in the order of the items
    values: tuple[tuple[float, ...], ...]
    _headings: ClassVar[tuple[str, ...]] = (
        "output", "mean error", "mean absolute", "root mean square", "largest", "R²"
    )  # fmt: skip

    @classmethod
    def from_predictions(
        cls, predicted: Tensor, actual: Tensor, names: Sequence[str] = ()
    ) -> Residuals:
        """From predicted and actual numbers, (N, K) each."""
        actual = actual.double()
        errors = predicted.double() - actual
        n = errors.shape[1]
        if len(names) != n:
            names = ["number"] if n == 1 else [f"number {k}" for k in range(n)]
        rows = [OutputErrors.of(name, errors[:, k], actual[:, k]) for k, name in enumerate(names)]
        return cls(tuple(rows), tuple(map(tuple, errors.tolist())))

    def __repr__(self) -> str:
        return f"Residuals({len(self.values)} items, {self.outputs})"

    caption = "Predicted minus actual"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (row.name, *(f"{getattr(row, name):.4g}" for name in _ERRORS), fixed(row.r2))
            for row in self.outputs
        ]


@dataclass(frozen=True)
class CalibrationBin:
    """Predictions of a probability above `low`, up to `high`; None stands in an empty bin."""

    low: float
    high: float
    count: int
    confidence: float | None  # mean probability
    accuracy: float | None  # share of correct predictions

    @property
    def gap(self) -> float | None:
        """Distance of confidence and accuracy."""
        if self.confidence is None or self.accuracy is None:
            return None
        return abs(self.confidence - self.accuracy)


@dataclass(frozen=True)
class Calibration(_Tabular):
    """How often predictions of each probability are correct; prints as a table.

    For one class per item, a prediction is the most likely class. For several labels, every label
    of every item is a prediction, which is correct if the item has the label.
    """

    bins: tuple[CalibrationBin, ...]  # of equal width, from 0 to 1
    # the expected calibration error: the mean gap over all predictions, 0..1; None without
    # predictions
    error: float | None
    max_error: float | None  # the largest gap of a bin ("maximum calibration error"), or None
    count: int  # number of predictions
    _headings: ClassVar[tuple[str, ...]] = ("probability", "confidence", "accuracy", "count")

    @classmethod
    def from_predictions(cls, confidence: Tensor, correct: Tensor, bins: int = BINS) -> Calibration:
        """From probabilities (M,) and whether each was correct (M,)."""
        whole_number("bins", bins, 1, BINS, LayerGroupsError)
        confidence, correct = confidence.double(), correct.double()
        index = (confidence * bins).ceil().long().sub(1).clamp(0, bins - 1)
        sums = [torch.bincount(index, v, minlength=bins).tolist() for v in (confidence, correct)]
        counts = torch.bincount(index, minlength=bins).tolist()
        made = [
            CalibrationBin(i / bins, (i + 1) / bins, n, _part(c, n), _part(r, n))
            for i, (c, r, n) in enumerate(zip(*sums, counts, strict=True))
        ]
        return cls._from_bins(made)

    @classmethod
    def from_means(cls, means: Sequence[tuple[float, float, int]], bins: int = BINS) -> Calibration:
        """Of (confidence, accuracy, count) of the bins that are not empty."""
        by_bin = {min(bins - 1, max(0, math.ceil(m[0] * bins) - 1)): m for m in means}
        found = [(i, *by_bin.get(i, (None, None, 0))) for i in range(bins)]
        return cls._from_bins(
            [CalibrationBin(i / bins, (i + 1) / bins, n, c, a) for i, c, a, n in found]
        )

    @classmethod
    def _from_bins(cls, bins: Sequence[CalibrationBin]) -> Calibration:
        gaps = [(each.count, each.gap) for each in bins if each.gap is not None]
        total = sum(n for n, _ in gaps)
        error = _part(sum(n * gap for n, gap in gaps), total)
        return cls(tuple(bins), error, max((gap for _, gap in gaps), default=None), total)

    @property
    def known(self) -> list[tuple[CalibrationBin, float, float]]:
        """Each bin that is not empty, with its confidence and accuracy."""
        return [
            (each, each.confidence, each.accuracy)
            for each in self.bins
            if each.confidence is not None and each.accuracy is not None
        ]

    @property
    def caption(self) -> str:
        """The error, in a line."""
        if self.error is None:
            return "No predictions"
        return f"Expected calibration error {self.error:.3f} over {self.count:,d} predictions"

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (f"{b.low:.2f} to {b.high:.2f}", fixed(mean), fixed(accuracy), f"{b.count:,d}")
            for b, mean, accuracy in self.known
        ]


def _mean(name: str, rows: Sequence[ClassFigures], weights: Sequence[float]) -> ClassFigures:
    def of(figure: str) -> float | None:
        pairs = [(getattr(row, figure), w) for row, w in zip(rows, weights, strict=True)]
        known = [(value, w) for value, w in pairs if value is not None and w]
        return _part(sum(value * w for value, w in known), sum(w for _, w in known))

    support, right = (sum(getattr(row, n) for row in rows) for n in ("support", "right"))
    return ClassFigures(name, of("precision"), of("recall"), of("f1"), support, right)


def _part(count: float, total: float) -> float | None:
    return count / total if total else None
