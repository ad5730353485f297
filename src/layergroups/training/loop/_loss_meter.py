"""The mean loss of an epoch, read from the device without waiting at each step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from layergroups.errors import TrainingError
from layergroups.training.distributed import Processes

READ_EVERY: Final = 10  # steps; each reading waits for the device


class LossMeter:
    """Mean loss of an epoch; on an accelerator read every few steps, but the first immediately.

    On the CPU reading is free, so each loss is checked before the weights are updated.

    Attributes:
        allow_nonfinite: leave a NaN or infinite loss out and note it, instead of raising.
        nonfinite_note: value and step of the first one; empty if there was none.
        latest: the last loss that was read; NaN before the first.
    """

    def __init__(self) -> None:
        self.allow_nonfinite = False
        self.nonfinite_note = ""
        self._waiting: list[tuple[int, Tensor, int]] = []
        self._total = 0.0
        self._items = 0
        self.latest = math.nan

    def add(self, step: int, loss: Tensor, items: int) -> None:
        if loss.is_cpu:
            self._take(step, loss.item(), items)
            return
        self._waiting.append((step, loss.detach(), items))
        if len(self._waiting) >= READ_EVERY or math.isnan(self.latest):
            self.read()

    def read(self) -> None:
        """Wait for the losses on the device; then `latest` is the loss of the last step."""
        if not self._waiting:
            return
        values = torch.stack([loss.float() for _, loss, _ in self._waiting]).tolist()
        waiting, self._waiting = self._waiting, []
        for (step, _, items), value in zip(waiting, values, strict=True):
            self._take(step, value, items)

    def _take(self, step: int, value: float, items: int) -> None:
        if not math.isfinite(value):
            if not self.allow_nonfinite:
                raise NotFiniteError(step, value)
            self.nonfinite_note = self.nonfinite_note or f"the loss became {value} at step {step}"
            return
        self._total += value * items
        self._items += items
        self.latest = value

    def combine(self, processes: Processes) -> None:
        """Sum the losses of all processes and share their notes; all processes call this."""
        self.read()
        self.nonfinite_note = processes.any_text("the losses of an epoch", self.nonfinite_note)
        self._total, items = processes.total(self._total, self._items)
        self._items = round(items)

    def mean(self) -> float | None:
        """The mean over items; None without items."""
        self.read()
        return self._total / self._items if self._items else None

    def state_dict(self) -> dict[str, float]:
        """The sums so far, JSON-ready."""
        self.read()
        return {"total": self._total, "items": self._items}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        self._waiting.clear()
        self._total, self._items = float(state["total"]), int(state["items"])


class NotFiniteError(TrainingError):
    """A loss is NaN or infinite; the loop turns this into an error with rates and causes."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"The loss at step {step} is {value}.")
        self.step = step
        self.value = value
