"""Losses: answers from outputs, losses for each item, and a meter that does not wait.

Losses that say what their outputs mean, for classes, labels and numbers.

Each is a small object whose fields are plain values, so that it prints, compares and goes to JSON.
The loss of a batch is the plain mean over its items, weighted or not, so that it does not depend on
how the items are batched, accumulated or shared out among processes.

Losses by name, with weights from the data where they ask for them, and as settings in a file.

How often each class or label stands in the training data, and weights that even that out.
"""

from __future__ import annotations

import copy
import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layergroups.errors import CheckpointError, TrainingError
from layergroups.tasks._tasks import Task, activate, activation_for
from layergroups.training._loaders import Loaders, class_names, n_classes

if TYPE_CHECKING:
    from layergroups.training.distributed import Processes


LossFunc = Callable[[Tensor, Tensor], Tensor]


CHECK_EVERY: Final = 50


def default_loss(task: Task = "multiclass") -> LossFunc:
    """Cross entropy for one class, binary cross entropy for labels, squared error for numbers."""
    if task == "multilabel":
        return nn.BCEWithLogitsLoss()
    return nn.MSELoss() if task == "regression" else nn.CrossEntropyLoss()


def probabilities(loss_func: LossFunc, outputs: Tensor, task: Task = "multiclass") -> Tensor:
    """The model's outputs as answers: probabilities (N, C), or the numbers (N, K) themselves.

    A loss with an attribute `activation` says it itself. Cross entropy means a softmax over
    dimension 1, binary cross entropy a sigmoid, a squared or absolute error the outputs as they
    are; of another loss it is the task that tells, in the same order.
    """
    own = getattr(loss_func, "activation", None)
    if callable(own):
        result: Tensor = own(outputs)
        return result
    return activate(outputs, activation_for(loss_func, task))


def checked_loss(loss_func: LossFunc, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a batch, one number.

    Raises:
        TrainingError: the loss cannot be computed or is not one number; says the shapes.
    """
    try:
        loss = loss_func(outputs, targets)
    except Exception as cause:
        raise TrainingError(_misfit(loss_func, outputs, targets, str(cause))) from cause
    if loss.ndim:
        raise TrainingError(
            _misfit(loss_func, outputs, targets, f"it gave shape {tuple(loss.shape)}")
            + " It must give one number, the mean over the batch."
        )
    return loss


def item_losses(loss_func: LossFunc, outputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of each item, shape (N,)."""
    if hasattr(loss_func, "reduction"):
        single: Any = copy.copy(loss_func)
        single.reduction = "none"
        losses: Tensor = single(outputs, targets)
        return losses.reshape(len(losses), -1).mean(dim=1)
    pairs = zip(outputs.split(1), targets.split(1), strict=True)
    return torch.stack([loss_func(output, target) for output, target in pairs])


class LossMeter:
    """Mean loss of an epoch. Losses stay on their device and are read every 50 steps.

    On the CPU, where reading is free, each loss is checked at once, before the weights move.

    Attributes:
        forgiving: a loss that is not finite is left out and noted in `trouble`; else it raises.
        trouble: what the first one was, and at which step; empty if there was none.
    """

    def __init__(self) -> None:
        self.forgiving = False
        self.trouble = ""
        self._waiting: list[tuple[int, Tensor, int]] = []
        self._total = 0.0
        self._items = 0
        self.latest = math.nan

    def add(self, step: int, loss: Tensor, items: int) -> None:
        """Take in the loss of one step.

        Raises:
            NotFiniteError: this loss, or one still waiting, is NaN or infinite; not if forgiving.
        """
        if loss.is_cpu:
            self._take(step, loss.item(), items)
            return
        self._waiting.append((step, loss.detach(), items))
        if len(self._waiting) >= CHECK_EVERY:
            self.read()

    def read(self) -> None:
        """Read what is waiting on the device."""
        if not self._waiting:
            return
        values = torch.stack([loss.float() for _, loss, _ in self._waiting]).tolist()
        waiting, self._waiting = self._waiting, []
        for (step, _, items), value in zip(waiting, values, strict=True):
            self._take(step, value, items)

    def _take(self, step: int, value: float, items: int) -> None:
        if not math.isfinite(value):
            if not self.forgiving:
                raise NotFiniteError(step, value)
            self.trouble = self.trouble or f"the loss became {value} at step {step}"
            return
        self._total += value * items
        self._items += items
        self.latest = value

    def combine(self, processes: Processes) -> None:
        """Add up the losses of all processes, and share what trouble one had; all call this."""
        self.read()
        self.trouble = processes.first_word("the losses of an epoch", self.trouble)
        self._total, items = processes.total(self._total, self._items)
        self._items = round(items)

    def mean(self) -> float | None:
        """The mean over items; None if there were none."""
        self.read()
        return self._total / self._items if self._items else None

    def state_dict(self) -> dict[str, float]:
        """The sums so far, JSON-ready."""
        self.read()
        return {"total": self._total, "items": self._items}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from the sums that `state_dict` gave."""
        self._waiting.clear()
        self._total, self._items = float(state["total"]), int(state["items"])


class NotFiniteError(TrainingError):
    """A loss is NaN or infinite; the loop adds what it knows of the rates."""

    def __init__(self, step: int, value: float) -> None:
        """Keep which step it was and what the loss was."""
        super().__init__(f"The loss at step {step} is {value}.")
        self.step = step
        self.value = value


def _misfit(loss_func: LossFunc, outputs: Tensor, targets: Tensor, reason: str) -> str:
    name = getattr(loss_func, "__name__", type(loss_func).__name__)
    return (
        f"The loss {name} does not fit outputs {tuple(outputs.shape)} {outputs.dtype} and targets "
        f"{tuple(targets.shape)} {targets.dtype}: {reason}."
    )


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


_PLACES = ("labels", "targets", "y")  # where batches and data sets keep them


def balanced_weights(dls: Loaders) -> tuple[float, ...]:
    """For each class items / (classes * items of the class): their mean over the items is 1.

    A class without items has weight 1. It is scikit-learn's "balanced".

    Raises:
        TrainingError: the training data do not tell their classes, or items have several labels.
    """
    counts, items = label_counts(dls)
    if sum(counts) != items:
        raise TrainingError(
            'weight="balanced" needs one class for each item, but these have several labels, or '
            'none. Use BinaryCrossEntropy(pos_weight="balanced").'
        )
    present = sum(count > 0 for count in counts)
    return tuple(items / (present * count) if count else 1.0 for count in counts)


def positive_weights(dls: Loaders) -> tuple[float, ...]:
    """For each label items without it / items with it; 1 for one that no item has, or all have.

    Raises:
        TrainingError: the training data do not tell their labels.
    """
    counts, items = label_counts(dls)
    return tuple((items - n) / n if 0 < n < items else 1.0 for n in counts)


def label_counts(dls: Loaders) -> tuple[list[int], int]:
    """How many training items have each class or label, and how many items there are.

    No image is opened.

    Raises:
        TrainingError: the data do not have the labels in a place that is known.
    """
    train, classes = dls.train, n_classes(dls)
    photos: Any = getattr(train, "photos", None)
    if hasattr(photos, "counts"):
        return list(photos.counts(classes)), len(photos)
    labels = _labels(train, class_names(dls))
    if labels is None:
        raise TrainingError(
            '"balanced" counts the classes of the training data, but '
            f"{type(train).__name__} does not tell its labels (photos.counts, or targets of its "
            "dataset). Give the weights themselves, one for each class, such as "
            "CrossEntropy(weight=[1.0, 5.0])."
        )
    if labels.ndim == 2:
        return [int(n) for n in (labels > 0.5).sum(0)], len(labels)
    return torch.bincount(labels.long(), minlength=classes).tolist(), len(labels)


def _labels(train: Any, names: tuple[str, ...]) -> Tensor | None:
    """The targets of all items as a tensor; names of classes become their positions."""
    dataset = getattr(train, "dataset", None)
    tensors: tuple[Any, ...] = getattr(dataset, "tensors", ())
    found = [tensors[1]] if len(tensors) == 2 else []  # a torch TensorDataset
    found += [getattr(owner, place, None) for owner in (train, dataset) for place in _PLACES]
    labels: Any = next((f for f in found if f is not None and hasattr(f, "__len__")), None)
    if labels is None or isinstance(labels, Tensor):
        return None if labels is None else labels.cpu()
    if names and isinstance(labels[0], str):
        labels = [names.index(label) for label in labels]
    return torch.as_tensor(labels)


LOSSES: Final[dict[str, Callable[[], NamedLoss]]] = {
    "cross_entropy": CrossEntropy,
    "focal": FocalLoss,
    "bce": BinaryCrossEntropy,
    "binary_focal": BinaryFocalLoss,
    "mse": MeanSquaredError,
    "l1": L1,
    "mae": L1,
    "huber": Huber,
}


_OURS: Final[tuple[type[NamedLoss], ...]] = (
    CrossEntropy, FocalLoss, BinaryCrossEntropy, BinaryFocalLoss, MeanSquaredError, L1, Huber,
)  # fmt: skip


_TORCHS: Final[dict[type[nn.Module], tuple[str, ...]]] = {
    nn.CrossEntropyLoss: ("weight", "ignore_index", "label_smoothing"),
    nn.BCEWithLogitsLoss: ("weight", "pos_weight"),
    nn.MSELoss: (),
    nn.L1Loss: (),
    nn.SmoothL1Loss: ("beta",),
    nn.HuberLoss: ("delta",),
}


def as_loss(loss_func: LossFunc | str | type, dls: Loaders) -> LossFunc:
    """A loss from its name; "balanced" weights are taken from the training data.

    Args:
        loss_func: a name of `LOSSES`, an object of this file, or any callable of outputs and
            targets.
        dls: the data of the learner.

    Raises:
        TrainingError: there is no such name, it is a class, or the data do not tell their labels.
    """
    if isinstance(loss_func, str):
        if loss_func not in LOSSES:
            near = difflib.get_close_matches(loss_func, LOSSES, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TrainingError(
                f"No loss is called {loss_func!r}.{hint} There are {', '.join(LOSSES)}; or give "
                "any function of outputs and targets, such as "
                "torch.nn.functional.cross_entropy."
            )
        return LOSSES[loss_func]()
    if isinstance(loss_func, type):
        raise TrainingError(
            f"loss_func={loss_func.__name__} is a class; give an object: {loss_func.__name__}()."
        )
    if not callable(loss_func):
        raise TrainingError(
            f"loss_func={loss_func!r} cannot be called. Give a name ({', '.join(LOSSES)}) or a "
            "function of outputs and targets."
        )
    if isinstance(loss_func, NamedLoss) and loss_func.own:
        return _weighted(loss_func, dls)
    return loss_func


def describe_loss(loss_func: LossFunc) -> dict[str, Any]:
    """The settings of a loss of this file or of torch.nn, JSON-ready; none of any other."""
    if isinstance(loss_func, _OURS):
        settings = asdict(loss_func)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}
    names = _TORCHS.get(type(loss_func), ())  # type: ignore[arg-type] # any other has none
    values = {name: getattr(loss_func, name) for name in names}
    return {n: v.tolist() if isinstance(v, Tensor) else v for n, v in values.items()}


def loss_from(name: str, settings: Mapping[str, Any]) -> LossFunc | None:
    """The inverse of `describe_loss`, by the name of the class; None if it is another's.

    Raises:
        CheckpointError: the settings are not those of this loss.
    """
    ours = {kind.__name__: kind for kind in _OURS}
    torchs = {kind.__name__: kind for kind in _TORCHS}
    kind: Callable[..., Any] | None = ours.get(name) or torchs.get(name)
    if kind is None:
        return None
    values = dict(settings)
    if name in torchs:
        values = {n: torch.tensor(v) if isinstance(v, list) else v for n, v in values.items()}
    try:
        made: LossFunc = kind(**values)
    except (TypeError, TrainingError) as cause:
        raise CheckpointError(
            f"{dict(settings)} are no settings of the loss {name}: {cause}."
        ) from cause
    return made


def _weighted(loss: NamedLoss, dls: Loaders) -> NamedLoss:
    """The loss with the weights that the training data give, where it asks for them."""
    if getattr(loss, loss.own) != "balanced":
        return loss
    count = positive_weights if loss.own == "pos_weight" else balanced_weights
    weights: dict[str, Any] = {loss.own: count(dls)}
    return replace(loss, **weights)
