"""Metrics that torchmetrics does not have; imported when one is used."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional
from torchmetrics.utilities import dim_zero_cat

from layergroups.tasks._measures import Calibration


class CalibrationError(torchmetrics.Metric):  # type: ignore[misc] # torchmetrics is not typed
    """The error of `Calibration`, for one class for each item."""

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("confidences", [], dist_reduce_fx="cat")
        self.add_state("right", [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        confidence, predicted = probabilities.max(dim=1)
        self.confidences.append(confidence)
        self.right.append(predicted == targets)

    def compute(self) -> float:
        """The mean distance of confidence and accuracy; NaN without items."""
        both = (dim_zero_cat(values) for values in (self.confidences, self.right))
        error = Calibration.from_predictions(*both).error
        return math.nan if error is None else error


Values = Callable[[Tensor, Tensor], Tensor]


class MeanOf(torchmetrics.Metric):  # type: ignore[misc] # torchmetrics is not typed
    """The mean over all items of the values of a function.

    Args:
        values: from probabilities (N, C) and targets to values (N,).
    """

    full_state_update = False

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("items", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        self.total += self.values(probabilities, targets).double().sum()
        self.items += len(targets)

    def compute(self) -> Tensor:
        """The mean; NaN without items."""
        mean: Tensor = self.total / self.items
        return mean


def log_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Minus the logarithm of the true class's probability (N,)."""
    chosen = probabilities.gather(1, targets.long()[:, None])[:, 0]
    return -_bounded(chosen).log()


def brier(probabilities: Tensor, targets: Tensor) -> Tensor:
    """The squared distance of the probabilities from the truth (N,), 0 to 2 (Brier 1950)."""
    truth = functional.one_hot(targets.long(), probabilities.shape[1])
    return (probabilities - truth).square().sum(dim=1)


def log_loss_of_labels(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Minus the logarithm of the truth's probability, mean over labels (N,)."""
    right = torch.where(targets > 0.5, probabilities, 1 - probabilities)
    return -_bounded(right).log().mean(dim=1)


def brier_of_labels(probabilities: Tensor, targets: Tensor) -> Tensor:
    """The squared distance from the truth, mean over labels (N,), 0 to 1."""
    return (probabilities - targets).square().mean(dim=1)


def _bounded(probabilities: Tensor) -> Tensor:
    """At least epsilon, as in scikit-learn: the loss of one certain error would be infinite."""
    return probabilities.clamp(min=torch.finfo(torch.float32).eps)
