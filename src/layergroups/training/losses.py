"""Losses: answers from outputs, losses for each item, and a meter that does not wait."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from layergroups.errors import TrainingError
from layergroups.training.tasks import Task, activate, activation_for

if TYPE_CHECKING:
    from layergroups.training.distributed import Processes

LossFunc = Callable[[Tensor, Tensor], Tensor]
CHECK_EVERY: Final = 50


def default_loss(task: Task = "single") -> LossFunc:
    """Cross entropy for one class, binary cross entropy for labels, squared error for numbers."""
    if task == "multi":
        return nn.BCEWithLogitsLoss()
    return nn.MSELoss() if task == "regression" else nn.CrossEntropyLoss()


def probabilities(loss_func: LossFunc, outputs: Tensor, task: Task = "single") -> Tensor:
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
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[int, Tensor, int]] = []
        self._total = 0.0
        self._items = 0
        self.latest = math.nan

    def add(self, step: int, loss: Tensor, items: int) -> None:
        """Take in the loss of one step.

        Raises:
            NotFiniteError: this loss, or one still waiting, is NaN or infinite.
        """
        self._waiting.append((step, loss.detach(), items))
        if loss.device.type == "cpu" or len(self._waiting) >= CHECK_EVERY:
            self.read()

    def read(self) -> None:
        """Read what is waiting on the device."""
        if not self._waiting:
            return
        values = torch.stack([loss.float() for _, loss, _ in self._waiting]).tolist()
        waiting, self._waiting = self._waiting, []
        for (step, _, items), value in zip(waiting, values, strict=True):
            if not math.isfinite(value):
                raise NotFiniteError(step, value)
            self._total += value * items
            self._items += items
        self.latest = values[-1]

    def combine(self, processes: Processes) -> None:
        """Add up the losses of all processes; call it when all have met."""
        self.read()
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
