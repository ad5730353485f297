"""The task `Regression`: one or more numbers for each item."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from layergroups.errors import DataError
from layergroups.models import TargetUnits, checked_range
from layergroups.tasks._losses import Meaning
from layergroups.tasks._measures import Residuals
from layergroups.tasks._metrics import named
from layergroups.tasks._splitting import random_split
from layergroups.tasks._targets import WHOLE, as_list, is_finite, listed, missing, quoted
from layergroups.tasks._task import Column, Label, Names, Parts, Task, Vocab, output_names

_LOG = logging.getLogger("layergroups")


class NumbersPrediction(NamedTuple):
    """The predicted numbers of one item."""

    numbers: Tensor  # float (K,), on the CPU
    names: tuple[str, ...]  # of the numbers

    @property
    def by_name(self) -> dict[str, float]:
        """Each number by its name."""
        return dict(zip(self.names, self.numbers.tolist(), strict=True))

    @classmethod
    def columns(cls, names: Names) -> tuple[Column, ...]:
        return tuple(Column(name, max(10, len(name)), right=True) for name in names)

    def cells(self) -> tuple[str, ...]:
        return tuple(f"{value:.5g}" for value in self.numbers.tolist())

    @classmethod
    def csv_columns(cls, names: Names) -> tuple[str, ...]:
        return tuple(names)

    def csv_cells(self) -> tuple[object, ...]:
        return tuple(self.numbers.tolist())

    def to_dict(self) -> dict[str, Any]:
        return {"numbers": self.by_name}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.5g}" for name, value in self.by_name.items())


_METRICS: Final = {
    "mse": named("of_numbers", kind="MeanSquaredError", higher=False),
    "rmse": named("of_numbers", kind="MeanSquaredError", higher=False, squared=False),
    "mae": named("of_numbers", kind="MeanAbsoluteError", higher=False),
    "r2": named("between_items", kind="R2Score"),
    "explained_variance": named("between_items", kind="ExplainedVariance"),
    "pearson": named("between_items", kind="PearsonCorrCoef"),
    "spearman": named("between_items", kind="SpearmanCorrCoef"),
}


class Regression(Task):
    """One or more numbers for each item: targets float32 (N, K)."""

    name = "regression"
    one, many = "number", "numbers"
    items_have = "numbers"
    targets_are = "numbers, float32 (N, K)"
    usual_loss = "the mean squared error, nn.MSELoss()"
    meanings = frozenset(
        {Meaning.SIGMOID, Meaning.PROBABILITIES, Meaning.NUMBERS, Meaning.LOG_RATES, Meaning.RATES}
    )
    activation = Meaning.NUMBERS
    metrics = _METRICS
    default_metrics = ("mae",)
    prediction = NumbersPrediction
    measures_type = Residuals
    output_name = "numbers"
    output_is = "the numbers"
    has_counts = False

    def recognises(self, values: Sequence[Any]) -> bool:
        if any(isinstance(value, list) for value in values):
            return True  # Multilabel, which is asked first, did not recognise them
        infinite = (math.inf, -math.inf)  # refused later, but not read as names of classes
        known = [value for value in values if not missing(value) and value not in infinite]
        numbers = [value for value in known if is_finite(value) and not isinstance(value, bool)]
        fractions = any(isinstance(v, float) or not WHOLE.fullmatch(str(v)) for v in numbers)
        return fractions and len(numbers) == len(known)

    def parse_labels(
        self, values: Sequence[Any], files: Names, vocab: Vocab | None, columns: Vocab
    ) -> tuple[Vocab, tuple[Label, ...]]:
        rows = [as_list(value) for value in values]
        odd = [
            f for f, row in zip(files, rows, strict=True) if not all(map(is_finite, row)) or not row
        ]
        if odd:
            raise DataError(
                f"task={self.name!r} needs a number, or a list of numbers, for each item, but "
                f"there is none for {listed(odd)}; the first has {values[files.index(odd[0])]!r}."
            )
        widths = sorted({len(row) for row in rows})
        if len(widths) > 1:
            raise DataError(
                f"The items have different counts of numbers ({quoted(widths)}); expected "
                "the same count for each. For several labels of an item: task='multilabel'."
            )
        (width,) = widths
        default = ("value",) if width == 1 else tuple(f"value {i}" for i in range(width))
        known = vocab or (columns if len(columns) == width else default)
        if len(known) != width:
            raise DataError(
                f"vocab has {len(known)} names, but each item has {width} numbers to predict; "
                "give a name for each, or leave vocab= out."
            )
        return known, tuple(tuple(map(float, row)) for row in rows)

    def split(self, labels: Sequence[Label], valid_pct: float, seed: int) -> Parts:
        return random_split(len(labels), valid_pct, seed)

    def target(self, label: Label | None, n_outputs: int) -> int | Tensor:
        return -1 if label is None else torch.tensor(label, dtype=torch.float32)

    def words(self, value: Tensor, names: Names) -> list[str]:
        """The numbers; with their names where there are several."""
        numbers = [f"{number:.4g}" for number in value.reshape(-1).tolist()]
        if len(numbers) == 1:
            return numbers
        return [f"{name} {number}" for name, number in zip(names, numbers, strict=True)]

    def targets(self, labels: Sequence[Label], n_outputs: int) -> Tensor:
        """float64 (N, K), exact; batches are float32."""
        return torch.tensor(labels, dtype=torch.float64)

    def target_units(self, targets: Tensor | None) -> TargetUnits | None:
        if targets is None or not len(targets):
            return None
        return TargetUnits.of(targets.double().reshape(len(targets), -1))

    def check_range(self, y_range: object, targets: Tensor | None = None) -> None:
        low, high = checked_range(y_range)
        if targets is not None and (outside := int(((targets < low) | (targets > high)).sum())):
            _LOG.warning(
                "y_range=(%g, %g): %d of %d training targets are outside and cannot be predicted; "
                "they go from %g to %g.",
                low, high, outside, targets.numel(), targets.min(), targets.max(),
            )  # fmt: skip

    def default_loss(self) -> nn.MSELoss:
        return nn.MSELoss()

    def for_metric(
        self, metric: object, predictions: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Metrics need a single number as a vector (N,)."""
        if targets.ndim == 2 and targets.shape[1] == 1:
            return predictions.reshape(len(targets)), targets[:, 0]
        return predictions, targets

    def decode(self, values: Tensor, names: Names, thresh: float = 0.5) -> NumbersPrediction:
        return NumbersPrediction(values, output_names(names, len(values)))

    def decide(self, predictions: Tensor, thresh: float = 0.5) -> Tensor:
        return predictions

    def confidence(self, values: Tensor) -> None:
        return

    def rows(self, values: Tensor) -> Tensor:
        """Numbers (N, K), also where there is one for each item."""
        return values.reshape(len(values), -1)

    def default_names(self, n_outputs: int) -> tuple[str, ...]:
        return ()

    def measures(
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> Residuals:
        return Residuals.from_predictions(predictions, targets, names)

    def figures(
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> dict[str, float]:
        outputs = self.measures(predictions, targets, names).outputs
        return {f"mae of {row.name}": row.mean_absolute for row in outputs}

    def scale(self, predictions: Tensor) -> float:
        return max(1e-30, float(predictions.abs().max()))
