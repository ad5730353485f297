"""Metrics that torchmetrics does not have, or has with another mean; imported when one is used.

Means over classes or labels leave out those that are absent: a class without items would count as
0, also for a perfect model. Targets that are not classes (`ignore_index`) are left out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional
from torchmetrics.utilities import dim_zero_cat

from layergroups.tasks._measures import Calibration

Values = Callable[[Tensor, Tensor], Tensor]


def of_labels(n: int, thresh: float, *, kind: str, **options: Any) -> torchmetrics.Metric:
    """A metric of the labels above the threshold, by torchmetrics' name without "Multilabel"."""
    made = getattr(torchmetrics.classification, f"Multilabel{kind}")
    return made(num_labels=n, threshold=thresh, validate_args=False, **options)


def over_classes(n: int, thresh: float, *, kind: str, labels: bool = False) -> OverClasses:
    """A metric by its name without "Multiclass" or "Multilabel", where it is defined."""
    options: dict[str, Any] = {"num_labels" if labels else "num_classes": n}
    if kind in ("AUROC", "AveragePrecision"):
        options["average"] = None
    made = getattr(torchmetrics.classification, f"Multi{'label' if labels else 'class'}{kind}")
    return OverClasses(made(**options, validate_args=False), n, both=kind == "AUROC")


def of_numbers(n: int, thresh: float, *, kind: str, **options: Any) -> torchmetrics.Metric:
    """A metric of numbers, by its name in torchmetrics."""
    return getattr(torchmetrics.regression, kind)(**options)


def between_items(n: int, thresh: float, *, kind: str) -> OfTwoItems:
    several = {"num_outputs": n} if kind.endswith("CorrCoef") else {}
    return OfTwoItems(getattr(torchmetrics.regression, kind)(**several))


def mean_of(n: int, thresh: float, *, function: str, **options: Any) -> MeanOf:
    return MeanOf(partial(globals()[function], **options))


def is_class(predictions: Tensor, targets: Tensor) -> Tensor:
    """Whether each target is one of the classes that are predicted, (N, C) or (N, C, H, W)."""
    return (targets >= 0) & (targets < predictions.shape[1])


class CalibrationError(torchmetrics.Metric):  # type: ignore[misc] # torchmetrics is not typed
    full_state_update = False

    def __init__(self, n: int, thresh: float) -> None:
        super().__init__()
        for name in ("confidences", "right", "known"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        confidence, predicted = probabilities.max(dim=1)
        self.confidences.append(confidence.flatten())
        self.right.append((predicted == targets).flatten())
        self.known.append(is_class(probabilities, targets).flatten())

    def compute(self) -> float:
        """The mean distance of confidence and accuracy; NaN without items."""
        confidences, right, known = map(dim_zero_cat, (self.confidences, self.right, self.known))
        error = Calibration.from_predictions(confidences[known], right[known]).error
        return math.nan if error is None else error


class MeanOf(torchmetrics.Metric):  # type: ignore[misc] # torchmetrics is not typed
    """The mean over all items of values (N,) of probabilities and targets; NaN without items."""

    full_state_update = False

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("items", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        known = torch.ones(len(targets), dtype=torch.bool, device=targets.device)
        if targets.shape != probabilities.shape:
            known = is_class(probabilities, targets)
            targets = targets.long().clamp(0, probabilities.shape[1] - 1)
        values = self.values(probabilities, targets).double()
        self.total += torch.where(known, values, 0).sum()
        self.items += known.sum()

    def compute(self) -> Tensor:
        mean: Tensor = self.total / self.items
        return mean


class ClassMean(torchmetrics.Metric):  # type: ignore[misc] # torchmetrics is not typed
    """The mean of "recall", "precision", "f1" or "jaccard" over the classes or labels present.

    Those are, for recall, all that some item has; for the others all that some item has or that
    are predicted for one, as in scikit-learn.

    Labels with a probability above the threshold count as predicted.
    """

    full_state_update = False

    def __init__(self, n: int, thresh: float, *, figure: str, labels: bool = False) -> None:
        super().__init__()
        self.figure, self.n, self.thresh, self.labels = figure, n, thresh, labels
        for name in ("right", "predicted", "actual"):
            self.add_state(name, torch.zeros(n, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        if self.labels:
            predicted, actual = probabilities > self.thresh, targets > 0.5
            for count, labels in (
                (self.right, predicted & actual),
                (self.predicted, predicted & (targets >= 0)),  # -100 is a pixel that is ignored
                (self.actual, actual),
            ):
                count += labels.movedim(1, -1).reshape(-1, self.n).sum(0)
            return
        known = is_class(probabilities, targets)
        predicted, actual = probabilities.argmax(dim=1)[known], targets[known].long()
        for count, classes in (
            (self.right, actual[predicted == actual]),
            (self.predicted, predicted),
            (self.actual, actual),
        ):
            count += torch.bincount(classes, minlength=self.n)

    def compute(self) -> Tensor:
        right, predicted, actual = (
            count.double() for count in (self.right, self.predicted, self.actual)
        )
        either = predicted + actual
        top, bottom, present = {
            "recall": (right, actual, actual),
            "precision": (right, predicted.clamp(min=1), either),
            "f1": (2 * right, either, either),
            "jaccard": (right, either - right, either),
        }[self.figure]
        mean: Tensor = (top / bottom)[present > 0].mean()
        return mean


class _Wrapper(torchmetrics.Metric):  # type: ignore[misc] # torchmetrics is not typed
    """A metric of torchmetrics, and how many items it has."""

    full_state_update = False

    def __init__(self, inner: torchmetrics.Metric) -> None:
        super().__init__()
        self.inner = inner
        self.add_state("items", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def reset(self) -> None:
        super().reset()
        self.inner.reset()

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        self.inner.update(predictions, targets)
        self.items += len(targets)


class OverClasses(_Wrapper):
    """A metric averaged over the classes or labels for which it is defined, NaN if for none.

    With `both`, a class needs items that are not of it, too.
    """

    def __init__(self, inner: torchmetrics.Metric, n: int, *, both: bool = False) -> None:
        super().__init__(inner)
        self.n, self.both = n, both
        self.add_state("actual", torch.zeros(n, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: Tensor, targets: Tensor) -> None:
        actual = targets
        if targets.shape != predictions.shape:
            known = is_class(predictions, targets)
            predictions, targets = predictions.movedim(1, -1)[known], targets[known]
            actual = functional.one_hot(targets.long(), self.n)
        super().update(predictions, targets)
        self.actual += actual.reshape(-1, self.n).sum(0)

    def compute(self) -> Tensor:
        defined = self.actual > 0
        if self.both:
            defined &= self.actual < self.items
        if not defined.any():
            return torch.tensor(math.nan)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the classes that are left out here
            values: Tensor = self.inner.compute()
        return values[defined].mean() if values.ndim else values


class OfTwoItems(_Wrapper):
    """A metric that compares items; NaN for fewer than two."""

    def compute(self) -> Tensor:
        """The value; the mean over the outputs where it gives one for each."""
        if self.items < 2:
            return torch.tensor(math.nan)
        return torch.as_tensor(self.inner.compute()).float().mean()


def hits(probabilities: Tensor, targets: Tensor, k: int = 1) -> Tensor:
    """1 where the true class is among the k most likely, else 0."""
    best = probabilities.topk(min(k, probabilities.shape[1]), dim=1).indices
    return (best == targets.long().unsqueeze(1)).any(dim=1).double()


def misses(probabilities: Tensor, targets: Tensor) -> Tensor:
    """1 where the most likely class is not the true one, else 0."""
    return 1 - hits(probabilities, targets)


def log_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Minus the logarithm of the true class's probability (N,)."""
    chosen = probabilities.gather(1, targets.long()[:, None])[:, 0]
    return -_bounded(chosen).log()


def brier(probabilities: Tensor, targets: Tensor) -> Tensor:
    """The squared distance of the probabilities from the truth (N,), 0 to 2 (Brier 1950)."""
    truth = functional.one_hot(targets.long(), probabilities.shape[1]).movedim(-1, 1)
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
