"""The task `Multiclass`: one class for each item."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar, Final, NamedTuple, cast

from torch import Tensor, nn

from layergroups._formatting import count
from layergroups.errors import DataError, TrainingError
from layergroups.tasks._losses import Meaning, ignored_index
from layergroups.tasks._measures import ConfusionMatrix
from layergroups.tasks._metrics import mean_of, named
from layergroups.tasks._splitting import stratified_split
from layergroups.tasks._targets import WHOLE, check_known, class_name, listed, quoted, sorted_names
from layergroups.tasks._task import (
    AnyPrediction,
    Column,
    Label,
    Measures,
    NamedMetric,
    Names,
    Parts,
    Ranked,
    Task,
    Vocab,
    output_names,
)

_LOG = logging.getLogger("layergroups")
_MANY_NUMBERS: Final = 20  # more classes named by whole numbers: perhaps numbers to predict
_TOP: Final = re.compile(r"top_(\d+)_accuracy")


class _Fields(NamedTuple):
    label: str
    index: int  # type: ignore[assignment]  # hides tuple.index
    probabilities: Tensor


class Prediction(Ranked, _Fields):
    """One class; unpacks as `label, index, probabilities`.

    Attributes:
        label: name of the most likely class.
        index: its position in the classes.
        probabilities: of all classes, float (C,), on the CPU.
        names: of all classes.
    """

    names: tuple[str, ...]

    def __new__(
        cls, label: str, index: int, probabilities: Tensor, names: Names = ()
    ) -> Prediction:
        """Without `names`, the names of the classes are their positions."""
        made = super().__new__(cls, label, index, probabilities)
        made.names = tuple(names) or tuple(map(str, range(len(probabilities))))
        return made

    @property
    def probability(self) -> float:
        """The probability of the most likely class."""
        return float(self.probabilities[self.index])

    @property
    def runner_up(self) -> str:
        """The second most likely class, with its probability."""
        return "".join(f"{name} {chance:.3f}" for name, chance in self.ranking[1:2])

    @classmethod
    def columns(cls, names: Names) -> tuple[Column, ...]:
        label = Column("prediction", max(map(len, ("prediction", *names))))
        return label, Column("probability", len("probability"), right=True), Column("runner-up")

    def cells(self) -> tuple[str, ...]:
        return self.label, f"{self.probability:.3f}", self.runner_up

    @classmethod
    def csv_columns(cls, names: Names) -> tuple[str, ...]:
        return ("prediction", "probability", *names)

    def csv_cells(self) -> tuple[object, ...]:
        return (self.label, self.probability, *self.probabilities.tolist())

    def to_dict(self) -> dict[str, Any]:
        return {
            "prediction": self.label,
            "probability": self.probability,
            "probabilities": dict(self.ranking),
        }

    def __str__(self) -> str:
        second = f" (then {self.runner_up})" if self.runner_up else ""
        return f"{self.label} {self.probability:.3f}{second}"


_METRICS: Final = {
    "accuracy": mean_of("hits", higher=True),
    "error_rate": mean_of("misses"),
    "balanced_accuracy": named("ClassMean", figure="recall"),
    "precision": named("ClassMean", figure="precision"),
    "recall": named("ClassMean", figure="recall"),
    "f1": named("ClassMean", figure="f1"),
    "roc_auc": named("over_classes", kind="AUROC"),
    "average_precision": named("over_classes", kind="AveragePrecision"),
    "jaccard": named("ClassMean", figure="jaccard"),
    "cohen_kappa": named("over_classes", kind="CohenKappa"),
    "matthews": named("over_classes", kind="MatthewsCorrCoef"),
    "log_loss": mean_of("log_loss"),
    "brier": mean_of("brier"),
    "ece": named("CalibrationError", higher=False),
}


class Multiclass(Task):
    """One class for each item: targets int64 (N,), or a probability for each class (N, C)."""

    name = "multiclass"
    one, many = "class", "classes"
    items_have = "one class for each item"
    targets_are = "one class for each item, int64 (N,)"
    usual_loss = "cross entropy, nn.CrossEntropyLoss()"
    meanings = frozenset({Meaning.SOFTMAX})
    activation = Meaning.SOFTMAX
    metrics = _METRICS
    default_metrics: ClassVar[tuple[str, ...]] = ("accuracy",)
    more_metrics = " and top_5_accuracy (any number)"
    least_outputs = 2
    prediction: ClassVar[type[AnyPrediction]] = Prediction
    measures_type: ClassVar[type[Measures]] = ConfusionMatrix
    output_is = "the probability of each class"
    reads_folders = True
    has_confusion = True
    few_items = "{}: no class has two items"

    def parse_labels(
        self, values: Sequence[Any], files: Names, vocab: Vocab | None, columns: Vocab
    ) -> tuple[Vocab, tuple[Label, ...]]:
        lists = [file for file, v in zip(files, values, strict=True) if isinstance(v, list)]
        if lists:
            raise DataError(
                f"task={self.name!r} means one class for each item, but there are lists for "
                f"{listed(lists)}. For several labels of an item: task='multilabel'; for several "
                "numbers: task='regression'."
            )
        names = [class_name(value) for value in values]
        known = vocab or sorted_names(names)
        check_known(names, files, known)
        if len(known) < 2:
            raise DataError(
                f"All items have the class {quoted(known)}. A classifier needs at least two "
                "classes."
            )
        if vocab is None and len(known) > _MANY_NUMBERS and all(map(WHOLE.fullmatch, known)):
            _LOG.warning(
                "%d different whole numbers are used as classes; to predict numbers, give "
                "task='regression'.",
                len(known),
            )
        place = {name: i for i, name in enumerate(known)}
        return known, tuple(place[name] for name in names)

    def split(self, labels: Sequence[Label], valid_pct: float, seed: int) -> Parts:
        return stratified_split([cast(int, label) for label in labels], valid_pct, seed)

    def target(self, label: Label | None, n_outputs: int) -> int:
        return -1 if label is None else cast(int, label)

    def counts(self, labels: Sequence[Label], n_outputs: int) -> tuple[int, ...]:
        counted = Counter(labels)
        return tuple(counted[label] for label in range(n_outputs))

    def words(self, value: Tensor, names: Names) -> list[str]:
        return [names[int(value)]]

    def default_loss(self) -> nn.CrossEntropyLoss:
        return nn.CrossEntropyLoss()

    def check_targets(self, outputs: Tensor, targets: Tensor, loss_func: object = None) -> None:
        """The model must have an output for every class in the batch, also in a map (N, H, W)."""
        if targets.is_floating_point() or outputs.ndim < 2:
            return
        counted = targets[targets != ignored_index(loss_func)]
        if not counted.numel():
            return
        lowest, highest = (int(value) for value in counted.aminmax())
        if lowest < 0 or highest >= outputs.shape[1]:
            maker = "segmentation_learner" if self.per_pixel else "vision_learner"
            raise TrainingError(
                f"The model has {count(outputs.shape[1], 'output')}, but the data have class "
                f"{lowest if lowest < 0 else highest} (classes count from 0). Give it an output "
                f"for each class, as {maker}(dls, arch) does. To leave out some targets: "
                "nn.CrossEntropyLoss(ignore_index=255)."
            )

    def metric(self, name: str) -> NamedMetric:
        """The metric of this name, also top_k_accuracy for any k."""
        top = _TOP.fullmatch(name)
        if top and int(top[1]):
            return mean_of("hits", higher=True, k=int(top[1]))
        return super().metric(name)

    def decode(self, values: Tensor, names: Names, thresh: float = 0.5) -> Prediction:
        index = int(values.argmax())
        known = output_names(names, len(values))
        return Prediction(known[index], index, values, known)

    def decide(self, predictions: Tensor, thresh: float = 0.5) -> Tensor:
        return predictions.max(dim=1).indices  # several times as fast as argmax on masks

    def correct(self, predictions: Tensor, targets: Tensor, thresh: float = 0.5) -> Tensor:
        return self.decide(predictions) == targets

    def graded(
        self, predictions: Tensor, targets: Tensor, thresh: float = 0.5
    ) -> tuple[Tensor, Tensor]:
        known = (targets >= 0) & (targets < predictions.shape[1])
        return predictions.max(dim=1).values[known], self.correct(predictions, targets)[known]

    def targets_shape(self, predictions: Sequence[int]) -> tuple[int, ...]:
        return tuple(predictions[:1])

    def measures(
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> ConfusionMatrix:
        return ConfusionMatrix.from_predictions(predictions, targets, names)

    def figures(
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> dict[str, float]:
        return {"accuracy": self.measures(predictions, targets, names).accuracy}
