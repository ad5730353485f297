"""What a model is asked: one class, several labels, or numbers; and what fits to which.

A task is "multiclass" (one class for each item; targets int64 (N,)), "multilabel" (any number of
labels for each; targets float32 (N, C) of 0 and 1) or "regression" (numbers; targets float32
(N, K)). Data say
theirs by an attribute `task`; where they have none, the loss tells.

What a model says of one item: a class, several labels, or numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from layergroups.data._samples import Task as Task
from layergroups.errors import TrainingError

if TYPE_CHECKING:
    from layergroups.tasks._losses import LossFunc
    from layergroups.training._loaders import Loaders


Activation = Literal["softmax", "sigmoid", "identity"]


TASKS: Final[tuple[Task, ...]] = get_args(Task)


_BY_LOSS: Final[dict[str, Activation]] = {
    "CrossEntropy": "softmax",
    "CrossEntropyLoss": "softmax",
    "FocalLoss": "softmax",
    "NLLLoss": "softmax",
    "cross_entropy": "softmax",
    "nll_loss": "softmax",
    "BCEWithLogitsLoss": "sigmoid",
    "BinaryCrossEntropy": "sigmoid",
    "BinaryFocalLoss": "sigmoid",
    "MultiLabelSoftMarginLoss": "sigmoid",
    "binary_cross_entropy_with_logits": "sigmoid",
    "multilabel_soft_margin_loss": "sigmoid",
    "Huber": "identity",
    "HuberLoss": "identity",
    "L1": "identity",
    "L1Loss": "identity",
    "MSELoss": "identity",
    "MeanSquaredError": "identity",
    "SmoothL1Loss": "identity",
    "huber_loss": "identity",
    "l1_loss": "identity",
    "mse_loss": "identity",
    "smooth_l1_loss": "identity",
}


_BY_TASK: Final[dict[Task, Activation]] = {
    "multiclass": "softmax",
    "multilabel": "sigmoid",
    "regression": "identity",
}


_TASK_OF: Final[dict[Activation | None, Task]] = {
    None: "multiclass",
    "softmax": "multiclass",
    "sigmoid": "multilabel",
    "identity": "regression",
}


_USUAL: Final[dict[Task, str]] = {
    "multiclass": "cross entropy, nn.CrossEntropyLoss()",
    "multilabel": "binary cross entropy, nn.BCEWithLogitsLoss()",
    "regression": "the mean squared error, nn.MSELoss()",
}


_TARGETS: Final[dict[Task, str]] = {
    "multiclass": "one class for each item, int64 (N,)",
    "multilabel": "several labels for each item, float32 (N, C) of 0 and 1",
    "regression": "numbers, float32 (N, K)",
}


def task_of(dls: Loaders, loss_func: LossFunc | None = None) -> Task:
    """What these data ask: their attribute `task`; where they have none, what the loss is for.

    Raises:
        TrainingError: `task` is none of the three.
    """
    said: Any = getattr(dls, "task", None)
    if said is None:
        return _TASK_OF[activation_of(loss_func)]
    return checked_task(said)


def checked_task(task: Any) -> Task:
    """One of the three tasks.

    Raises:
        TrainingError: it is none of them.
    """
    for known in TASKS:
        if task == known:
            return known
    raise TrainingError(
        f"The data say task={task!r}; a task is 'multiclass' (one class for each item), "
        "'multilabel' (several labels) or 'regression' (numbers)."
    )


def activation_of(loss_func: object) -> Activation | None:
    """What turns outputs into answers, by the kind of loss; None for a loss that is not known."""
    while hasattr(loss_func, "func"):  # functools.partial
        loss_func = loss_func.func
    own = getattr(loss_func, "__name__", "")
    names = [own, *(base.__name__ for base in type(loss_func).__mro__)]
    return next((_BY_LOSS[name] for name in names if name in _BY_LOSS), None)


def activation_for(loss_func: object, task: Task) -> Activation:
    """What turns outputs into answers: by the loss, or by the task where the loss is not known."""
    return activation_of(loss_func) or _BY_TASK[task]


def checked_threshold(thresh: Any) -> float:
    """A probability above which a label counts as there.

    Raises:
        TrainingError: it does not lie between 0 and 1.
    """
    if isinstance(thresh, bool) or not isinstance(thresh, (int, float)) or not 0 < thresh < 1:
        raise TrainingError(
            f"thresh={thresh!r} must lie between 0 and 1: labels of a higher probability count as "
            "there. Right would be thresh=0.5."
        )
    return float(thresh)


def check_loss(loss_func: LossFunc, task: Task) -> None:
    """A loss must be one for the task; a loss of one's own is taken as it is.

    Raises:
        TrainingError: it is of another kind, and would fail or, worse, train something else.
    """
    kind = activation_of(loss_func)
    fits = {"softmax": ("multiclass",), "sigmoid": TASKS[1:], "identity": TASKS[1:], None: TASKS}
    if task not in fits[kind]:
        name = getattr(loss_func, "__name__", type(loss_func).__name__)
        raise TrainingError(
            f"The loss {name} does not fit the task of the data, {task!r}: their targets are "
            f"{_TARGETS[task]}. The usual loss for that is {_USUAL[task]}, which a learner takes "
            "by itself where loss_func= is not given."
        )


def check_targets(outputs: Tensor, targets: Tensor, task: Task) -> None:
    """Before the first step: outputs and targets must be of shapes and values that fit the task.

    Raises:
        TrainingError: a class has no output, or shapes, types or values do not fit.
    """
    if task == "multiclass":
        _check_classes(outputs, targets)
        return
    if outputs.shape != targets.shape or not targets.is_floating_point():
        raise TrainingError(
            f"The outputs {tuple(outputs.shape)} and the targets {tuple(targets.shape)} "
            f"{targets.dtype} do not fit: for the task {task!r} targets are {_TARGETS[task]}, and "
            "the model gives as many outputs. Make the head for the data, as vision_learner(dls, "
            "arch) does; a single number for each item has shape (N, 1), targets[:, None]."
        )
    if task == "multilabel" and not bool(((targets >= 0) & (targets <= 1)).all()):
        raise TrainingError(
            f"The targets reach from {targets.min():g} to {targets.max():g}: for several labels "
            "they are 1 where an item has the label and 0 where not. For numbers give the data "
            "task='regression'."
        )


def _check_classes(outputs: Tensor, targets: Tensor) -> None:
    """The model must have an output for every class in the batch."""
    if targets.is_floating_point() or targets.ndim != 1 or outputs.ndim != 2:
        return
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= outputs.shape[1]:
        raise TrainingError(
            f"The model has {outputs.shape[1]} outputs, but the data have class "
            f"{lowest if lowest < 0 else highest} (classes count from 0). Make the head for the "
            "data, as vision_learner(dls, arch) does, or replace the last layer by one with an "
            "output for each class."
        )


def chosen_labels(probabilities: Tensor, thresh: float) -> list[int]:
    """Positions of the labels (C,) that count as there, the likeliest first."""
    order = probabilities.argsort(descending=True).tolist()
    return [index for index in order if probabilities[index] > thresh]


def by_name(values: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Values (C,) by the names of the outputs; by position where they have none."""
    known = names or [str(position) for position in range(len(values))]
    return dict(zip(known, values.tolist(), strict=True))


def activate(outputs: Tensor, activation: Activation) -> Tensor:
    """Outputs (N, C) as answers, float32."""
    if activation == "softmax":
        return outputs.float().softmax(dim=1)
    return outputs.float().sigmoid() if activation == "sigmoid" else outputs.to(torch.float32)


class Prediction(NamedTuple):
    """One class.

    Attributes:
        label: name of the likeliest class.
        index: its position in the classes.
        probabilities: of all classes, float (C,), on the CPU.
    """

    label: str
    index: int  # type: ignore[assignment]  # hides tuple.index
    probabilities: Tensor


class LabelsPrediction(NamedTuple):
    """Several labels, or none.

    Attributes:
        labels: names of the labels whose probability is above the threshold, the likeliest first.
        indices: their positions in all labels.
        probabilities: of all labels, each by itself, float (C,), on the CPU.
        names: of all labels.
    """

    labels: tuple[str, ...]
    indices: tuple[int, ...]
    probabilities: Tensor
    names: tuple[str, ...]

    @property
    def by_name(self) -> dict[str, float]:
        """The probability of every label."""
        return by_name(self.probabilities, self.names)

    def __str__(self) -> str:
        likeliest = sorted(self.by_name.items(), key=lambda pair: -pair[1])
        rest = ", ".join(f"{name} {chance:.3f}" for name, chance in likeliest[:8])
        return f"{', '.join(self.labels) or 'no label'} ({rest}{', …' * (len(likeliest) > 8)})"


class NumbersPrediction(NamedTuple):
    """Numbers.

    Attributes:
        numbers: float (K,), on the CPU.
        names: of the numbers.
    """

    numbers: Tensor
    names: tuple[str, ...]

    @property
    def by_name(self) -> dict[str, float]:
        """Each number by its name."""
        return by_name(self.numbers, self.names)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.5g}" for name, value in self.by_name.items())


AnyPrediction = Prediction | LabelsPrediction | NumbersPrediction


def answer(found: Tensor, task: Task, names: Sequence[str], thresh: float = 0.5) -> AnyPrediction:
    """What the answers (C,) of a model for one item say.

    Args:
        found: probabilities or numbers (C,), on the CPU.
        task: what was asked.
        names: of classes, labels or numbers; positions where there is not one for each.
        thresh: the probability above which a label counts as there.
    """
    known = tuple(names)
    if len(known) != len(found):
        known = tuple(str(position) for position in range(len(found)))
    if task == "multilabel":
        chosen = tuple(chosen_labels(found, thresh))
        return LabelsPrediction(tuple(known[i] for i in chosen), chosen, found, known)
    if task == "regression":
        return NumbersPrediction(found, known)
    index = int(found.argmax())
    return Prediction(known[index], index, found)
