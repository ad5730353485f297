"""The task `Multilabel`: any number of labels for each item, perhaps none."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, cast

import torch
from torch import Tensor, nn

from layergroups.errors import DataError, TrainingError
from layergroups.tasks._losses import Meaning
from layergroups.tasks._measures import ClassReport
from layergroups.tasks._metrics import mean_of, named
from layergroups.tasks._splitting import multilabel_split
from layergroups.tasks._targets import (
    as_list,
    check_known,
    class_name,
    sorted_names,
    zeros_and_ones,
)
from layergroups.tasks._task import (
    Column,
    Label,
    NamedMetric,
    Names,
    Parts,
    Ranked,
    Task,
    Vocab,
    output_names,
)

_LOG = logging.getLogger("layergroups")
_Places = tuple[float, ...]
_WIDEST: Final = 40  # columns for the names of labels; longer ones push their row to the right
_LIKELIEST: Final = 8  # labels that a prediction prints


class _Fields(NamedTuple):
    labels: tuple[str, ...]
    indices: tuple[int, ...]
    probabilities: Tensor
    names: tuple[str, ...]


class LabelsPrediction(Ranked, _Fields):
    """Several labels, or none.

    Attributes:
        labels: names of the labels whose probability is above the threshold, the most likely first.
        indices: their positions in all labels.
        probabilities: of all labels, float (C,), on the CPU; they do not add up to 1.
        names: of all labels.
    """

    @classmethod
    def columns(cls, names: Names) -> tuple[Column, ...]:
        width = min(_WIDEST, len(", ".join(names)))
        return Column("labels", max(width, len("labels"))), Column("probabilities")

    def cells(self) -> tuple[str, ...]:
        shown = self.ranking[: max(3, len(self.labels))]
        return ", ".join(self.labels) or "-", "  ".join(f"{name} {p:.3f}" for name, p in shown)

    @classmethod
    def csv_columns(cls, names: Names) -> tuple[str, ...]:
        return ("labels", *names)

    def csv_cells(self) -> tuple[object, ...]:
        return (";".join(self.labels), *self.probabilities.tolist())

    def to_dict(self) -> dict[str, Any]:
        return {"labels": list(self.labels), "probabilities": self.by_name}

    def __str__(self) -> str:
        rest = ", ".join(f"{name} {chance:.3f}" for name, chance in self.ranking[:_LIKELIEST])
        more = ", …" * (len(self.names) > _LIKELIEST)
        return f"{', '.join(self.labels) or 'no label'} ({rest}{more})"


_METRICS: Final = {
    "accuracy": named("of_labels", kind="Accuracy", average="micro"),
    "exact_match": named("of_labels", kind="ExactMatch"),
    "hamming_loss": named("of_labels", kind="HammingDistance", average="micro", higher=False),
    "precision": named("ClassMean", figure="precision", labels=True),
    "recall": named("ClassMean", figure="recall", labels=True),
    "f1": named("ClassMean", figure="f1", labels=True),
    "roc_auc": named("over_classes", kind="AUROC", labels=True),
    "average_precision": named("over_classes", kind="AveragePrecision", labels=True),
    "jaccard": named("ClassMean", figure="jaccard", labels=True),
    "f1_micro": named("of_labels", kind="F1Score", average="micro"),
    "matthews": named("of_labels", kind="MatthewsCorrCoef"),
    "log_loss": mean_of("log_loss_of_labels"),
    "brier": mean_of("brier_of_labels"),
}


class Multilabel(Task):
    """Any number of labels for each item: targets float32 (N, C) of 0 and 1."""

    name = "multilabel"
    one, many = "label", "labels"
    items_have = "several labels for each item"
    targets_are = "several labels for each item, float32 (N, C) of 0 and 1"
    usual_loss = "binary cross entropy, nn.BCEWithLogitsLoss()"
    meanings = frozenset({Meaning.SIGMOID, Meaning.PROBABILITIES, Meaning.NUMBERS})
    activation = Meaning.SIGMOID
    metrics = _METRICS
    default_metrics = ("f1",)
    prediction = LabelsPrediction
    measures_type = ClassReport
    output_is = "the probability of each label; those above the threshold are predicted"
    needs_label = False
    has_threshold = True

    def recognises(self, values: Sequence[Any]) -> bool:
        """Lists of names, lists of different lengths, and lists of zeros and ones."""
        lists = [value for value in values if isinstance(value, list)]
        if not lists:
            return False
        flat = [item for row in lists for item in row]
        ragged = len({len(row) for row in lists}) > 1
        if not flat or not all(isinstance(item, int | float) for item in flat):
            return True
        if ragged and all(isinstance(item, int) for item in flat):
            return True
        return zeros_and_ones(lists) and len(lists[0]) > 1

    def parse_labels(
        self, values: Sequence[Any], files: Names, vocab: Vocab | None, columns: Vocab
    ) -> tuple[Vocab, tuple[Label, ...]]:
        rows = [as_list(value) for value in values]
        width = len(rows[0]) if rows else 0
        places: list[tuple[int, ...]]
        if zeros_and_ones(rows) and (vocab is None or len(vocab) == width):
            numbered = tuple(map(str, range(width)))
            known = vocab or (columns if len(columns) == width else numbered)
            places = [tuple(i for i, on in enumerate(row) if float(on)) for row in rows]
        else:
            named = [[class_name(value) for value in row] for row in rows]
            flat = [name for row in named for name in row]
            known = vocab or sorted_names(flat)
            check_known(
                flat, [file for file, row in zip(files, named, strict=True) for _ in row], known
            )
            at = {name: i for i, name in enumerate(known)}
            places = [tuple(sorted({at[name] for name in row})) for row in named]
        if vocab is None and not any(places):
            raise DataError("No item has any label, so there is nothing to learn.")
        empty = sum(not row for row in places)
        if empty:
            _LOG.info("%d of %d items have none of the labels.", empty, len(places))
        return known, tuple(places)

    def split(self, labels: Sequence[Label], valid_pct: float, seed: int) -> Parts:
        return multilabel_split([cast(_Places, label) for label in labels], valid_pct, seed)

    def target(self, label: Label | None, n_outputs: int) -> int | Tensor:
        """float32 (C,), 1 for each of its labels, else 0; -1 if they are unknown."""
        if label is None:
            return -1
        hot = torch.zeros(n_outputs)
        hot[[int(place) for place in cast(_Places, label)]] = 1.0
        return hot

    def counts(self, labels: Sequence[Label], n_outputs: int) -> tuple[int, ...]:
        counted = Counter(place for label in labels for place in cast(_Places, label))
        return tuple(counted[place] for place in range(n_outputs))

    def words(self, value: Tensor, names: Names) -> list[str]:
        return [name for name, on in zip(names, value.tolist(), strict=True) if on]

    def default_loss(self) -> nn.BCEWithLogitsLoss:
        return nn.BCEWithLogitsLoss()

    def check_targets(self, outputs: Tensor, targets: Tensor, loss_func: object = None) -> None:
        super().check_targets(outputs, targets)
        if not bool(((targets >= 0) & (targets <= 1)).all()):
            raise TrainingError(
                f"The targets range from {targets.min():g} to {targets.max():g}: for several "
                "labels they are 1 where an item has the label and 0 where not. For numbers give "
                "the data task='regression'."
            )

    def metric(self, name: str) -> NamedMetric:
        """The metric of this name; fastai's names end with "_multi"."""
        return super().metric(name.removesuffix("_multi"))

    def for_metric(
        self, metric: object, predictions: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Metrics of labels need whole numbers as targets."""
        if type(metric).__module__.startswith("torchmetrics.regression"):
            return predictions, targets
        return predictions, (targets > 0.5).long()

    def decode(self, values: Tensor, names: Names, thresh: float = 0.5) -> LabelsPrediction:
        order = values.argsort(descending=True).tolist()
        chosen = tuple(index for index in order if values[index] > thresh)
        known = output_names(names, len(values))
        return LabelsPrediction(tuple(known[i] for i in chosen), chosen, values, known)

    def decide(self, predictions: Tensor, thresh: float = 0.5) -> Tensor:
        return predictions > thresh

    def correct(self, predictions: Tensor, targets: Tensor, thresh: float = 0.5) -> Tensor:
        return (self.decide(predictions, thresh) == (targets > 0.5)).all(dim=1)

    def graded(
        self, predictions: Tensor, targets: Tensor, thresh: float = 0.5
    ) -> tuple[Tensor, Tensor]:
        """For every label of every item, whether the item has it."""
        return predictions.flatten(), (targets > 0.5).flatten()

    def measures(
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> ClassReport:
        return ClassReport.from_hits(self.decide(predictions, thresh), targets > 0.5, names)

    def figures(
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> dict[str, float]:
        """Share of the items with all labels correct; F1, the mean of the labels and over all."""
        exact = float(self.correct(predictions, targets, thresh).float().mean())
        report = self.measures(predictions, targets, names, thresh)
        f1 = {"f1": report.macro.f1 or 0.0, "f1_micro": report.total.f1 or 0.0}
        return {"exact_match": exact, **f1}
