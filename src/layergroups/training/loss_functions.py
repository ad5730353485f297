"""Losses that say what their outputs mean, for classes, labels and numbers.

Each is a small object whose fields are plain values, so that it prints, compares and goes to JSON.
The loss of a batch is the plain mean over its items, weighted or not, so that it does not depend on
how the items are batched, accumulated or shared out among processes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from layergroups.errors import TrainingError

Reduction = Literal["mean", "sum", "none"]
Weights = str | Sequence[float] | Tensor | None


@dataclass(kw_only=True)
class NamedLoss(ABC):
    """What the losses of this file have in common.

    Attributes:
        reduction: "mean" for a number; "none" leaves the losses as they are, one or more an item.
    """

    reduction: Reduction = "mean"
    own: ClassVar[str] = ""  # the field that holds weights, if there is one

    def __post_init__(self) -> None:
        if self.reduction not in ("mean", "sum", "none"):
            raise TrainingError(f'reduction={self.reduction!r}: use "mean", "sum" or "none".')

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of a batch."""
        losses = self.each(outputs, targets)
        if self.reduction == "none":
            return losses
        return losses.sum() if self.reduction == "sum" else losses.mean()

    @abstractmethod
    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The losses one by one, before they are reduced."""

    def activation(self, outputs: Tensor) -> Tensor:
        """The model's outputs as what they mean: probabilities, or the values themselves."""
        return outputs.float()

    def _number(self, name: str, low: float, high: float, example: float) -> None:
        value = getattr(self, name)
        good = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not good or not low <= value <= high:
            upper = f" to {high:g}" if high != float("inf") else ""
            raise TrainingError(
                f"{name}={value!r} must be a number from {low:g}{upper}: "
                f"{type(self).__name__}({name}={example:g})."
            )

    def _weights(self, name: str) -> None:
        """Turn weights into a tuple of numbers; "balanced" waits for the data."""
        value = getattr(self, name)
        if value is None or value == "balanced":
            return
        try:
            numbers = tuple(float(v) for v in value)
            wrong = not numbers or min(numbers) < 0 or isinstance(value, str)
        except (TypeError, ValueError):
            wrong = True
        if wrong:
            raise TrainingError(
                f'{name}={value!r} must be "balanced", or a number from 0 for each class: '
                f"{type(self).__name__}({name}=[1.0, 5.0])."
            )
        setattr(self, name, numbers)

    def _tensor(self, name: str, outputs: Tensor) -> Tensor | None:
        """Weights where the outputs are, one for each of them."""
        value = getattr(self, name)
        if value is None:
            return None
        if isinstance(value, str):
            raise TrainingError(
                f'{name}="balanced" takes the weights from the training data: give the loss to the '
                f"learner, loss_func={type(self).__name__}({name}={value!r})."
            )
        if len(value) != outputs.shape[1]:
            raise TrainingError(
                f"{name} has {len(value)} numbers for {outputs.shape[1]} outputs: give one for "
                "each class, in the order of dls.vocab."
            )
        return torch.tensor(value, device=outputs.device, dtype=torch.float32)


@dataclass
class CrossEntropy(NamedLoss):
    """Cross entropy, for one class for each item.

    Targets are classes (N,), or a probability for each class (N, C), as mixup makes them. It is
    `torch.nn.CrossEntropyLoss` but for weights: the mean is over the items, where torch divides by
    the sum of the weights that happen to be in the batch.

    Attributes:
        label_smoothing: part of the target that is spread over all classes (Szegedy et al. 2016).
        weight: of each class; "balanced" makes rare classes count as much as frequent ones, by the
            training data: items / (classes * items of the class).

    Raises:
        TrainingError: a value is not what it should be.
    """

    label_smoothing: float = 0.0
    weight: Weights = None
    own: ClassVar[str] = "weight"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("label_smoothing", 0, 1, 0.1)
        self._weights("weight")

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N,), for outputs (N, C); of images of outputs (N, C, H, W) one a pixel."""
        return F.cross_entropy(
            outputs.float(),
            targets,
            weight=self._tensor("weight", outputs),
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def activation(self, outputs: Tensor) -> Tensor:
        """A softmax over dimension 1."""
        return outputs.float().softmax(dim=1)


@dataclass
class FocalLoss(NamedLoss):
    """Cross entropy times (1 - p)^gamma, where p is the probability of the right class.

    What is easy counts little, so that training turns to what is hard. Source: Lin et al. 2017,
    «Focal Loss for Dense Object Detection», here over classes of which one is right;
    `BinaryFocalLoss` is for several labels.

    Attributes:
        gamma: 0 is cross entropy.
        weight: of each class, or "balanced"; as in `CrossEntropy`.

    Raises:
        TrainingError: a value is not what it should be.
    """

    gamma: float = 2.0
    weight: Weights = None
    own: ClassVar[str] = "weight"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("gamma", 0, float("inf"), 2)
        self._weights("weight")

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N,), for outputs (N, C) and classes (N,) or probabilities (N, C)."""
        logs = F.log_softmax(outputs.float(), dim=1)
        losses = -((1 - logs.exp()) ** self.gamma) * logs
        weight = self._tensor("weight", outputs)
        if weight is not None:
            losses = losses * weight.view(1, -1, *[1] * (losses.ndim - 2))
        if targets.is_floating_point():
            return (losses * targets).sum(dim=1)
        return losses.gather(1, targets.long().unsqueeze(1)).squeeze(1)

    def activation(self, outputs: Tensor) -> Tensor:
        """A softmax over dimension 1."""
        return outputs.float().softmax(dim=1)


@dataclass
class BinaryCrossEntropy(NamedLoss):
    """Binary cross entropy of every label by itself, for none, one or several labels an item.

    Targets (N, C) are 0 or 1, or between.

    Attributes:
        label_smoothing: part of the target that is spread over yes and no.
        pos_weight: what a label that is there counts for, beside one that is not; "balanced" is
            items without it / items with it, by the training data.

    Raises:
        TrainingError: a value is not what it should be.
    """

    label_smoothing: float = 0.0
    pos_weight: Weights = None
    own: ClassVar[str] = "pos_weight"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("label_smoothing", 0, 1, 0.1)
        self._weights("pos_weight")

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N, C)."""
        outputs, targets = _alike(outputs, targets)
        weight = self._tensor("pos_weight", outputs) if outputs.ndim > 1 else None
        smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
        return F.binary_cross_entropy_with_logits(
            outputs, smooth, pos_weight=weight, reduction="none"
        )

    def activation(self, outputs: Tensor) -> Tensor:
        """A sigmoid."""
        return outputs.float().sigmoid()


@dataclass
class BinaryFocalLoss(NamedLoss):
    """The focal loss of every label by itself, for none, one or several labels an item.

    Source: Lin et al. 2017, «Focal Loss for Dense Object Detection», equation 5.

    Attributes:
        gamma: 0 is binary cross entropy.
        alpha: what a label that is there counts for, 1 - alpha one that is not; None: both 1.

    Raises:
        TrainingError: a value is not what it should be.
    """

    gamma: float = 2.0
    alpha: float | None = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("gamma", 0, float("inf"), 2)
        if self.alpha is not None:
            self._number("alpha", 0, 1, 0.25)

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses (N, C)."""
        outputs, targets = _alike(outputs, targets)
        losses = F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")
        sure = outputs.sigmoid()
        right = sure * targets + (1 - sure) * (1 - targets)
        losses = losses * (1 - right) ** self.gamma
        if self.alpha is not None:
            losses = losses * (self.alpha * targets + (1 - self.alpha) * (1 - targets))
        return losses

    def activation(self, outputs: Tensor) -> Tensor:
        """A sigmoid."""
        return outputs.float().sigmoid()


@dataclass
class MeanSquaredError(NamedLoss):
    """The mean squared difference, for numbers; outputs (N, 1) go with targets (N,) too."""

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Squared differences, in the shape of the targets."""
        return F.mse_loss(*_alike(outputs, targets), reduction="none")


@dataclass
class L1(NamedLoss):
    """The mean absolute difference, for numbers; outputs (N, 1) go with targets (N,) too."""

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Absolute differences, in the shape of the targets."""
        return F.l1_loss(*_alike(outputs, targets), reduction="none")


@dataclass
class Huber(NamedLoss):
    """Squared where a difference is small, linear where it is large (Huber 1964).

    Attributes:
        delta: the difference from which it is linear.

    Raises:
        TrainingError: delta is not above 0.
    """

    delta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._number("delta", 1e-12, float("inf"), 1)

    def each(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Losses in the shape of the targets."""
        return F.huber_loss(*_alike(outputs, targets), delta=self.delta, reduction="none")


def _alike(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and targets in one shape, as floats; torch would spread (N, 1) and (N,) to (N, N)."""
    outputs, targets = outputs.float(), targets.float()
    if outputs.ndim == targets.ndim + 1 and outputs.shape[-1] == 1:
        outputs = outputs.squeeze(-1)
    elif targets.ndim == outputs.ndim + 1 and targets.shape[-1] == 1:
        targets = targets.squeeze(-1)
    if outputs.shape != targets.shape:
        raise TrainingError("outputs and targets must have one shape")
    return outputs, targets
