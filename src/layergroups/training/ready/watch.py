"""Watching one column of the history: is it better than it was?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from layergroups.errors import TrainingError
from layergroups.training.history import EpochRow
from layergroups.training.metrics import higher_is_better, metric_names
from layergroups.training.ready.arguments import number, text

if TYPE_CHECKING:
    from layergroups.training.run import Run

Mode = Literal["auto", "min", "max"]


@dataclass
class Watch:
    """The best value of one column in this fit, and for how many epochs there was no better one.

    Attributes:
        monitor: "valid_loss", "train_loss" or the name of a metric.
        mode: "min" if less is better, "max" if more is; "auto" knows it of losses and metrics.
        min_delta: a change must be larger than this to count.
        best: the best value; None before the first.
        best_epoch: the row in which it stood, as numbered in the history.
        waited: epochs since then.
    """

    monitor: str = "valid_loss"
    mode: Mode = "auto"
    min_delta: float = 0.0
    best: float | None = None
    best_epoch: int = -1
    waited: int = 0
    _sign: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        text("monitor", self.monitor, "valid_loss")
        if self.mode not in get_args(Mode):
            raise TrainingError(f'mode={self.mode!r} must be "auto", "min" or "max".')
        number("min_delta", self.min_delta, 0, 1e9, 0.001)

    def begin(self, run: Run) -> None:
        """Forget what was; see that there will be such a column, and which way is up.

        Raises:
            TrainingError: there will be none, or it cannot be known which way is up.
        """
        self._sign = self._direction(run)
        self.best, self.best_epoch, self.waited = None, -1, 0

    def look(self, row: EpochRow) -> bool:
        """Whether the row is better than all before; one that lacks the value is not."""
        value = value_of(row, self.monitor)
        if math.isnan(value) or not self._is_better(value):
            self.waited += 1
            return False
        self.best, self.best_epoch, self.waited = value, row.epoch, 0
        return True

    def said(self) -> str:
        """The best so far, in words."""
        if self.best is None:
            return f"no {self.monitor} yet"
        return f"{self.monitor} {self.best:.4g} in epoch {self.best_epoch}"

    def state_dict(self) -> dict[str, Any]:
        """What it has seen so far."""
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.best = state["best"]
        self.best_epoch, self.waited = int(state["best_epoch"]), int(state["waited"])

    def _is_better(self, value: float) -> bool:
        return self.best is None or self._sign * (value - self.best) > self.min_delta

    def _direction(self, run: Run) -> int:
        metrics = dict(zip(metric_names(run.learner.metrics), run.learner.metrics, strict=True))
        validated = run.valid is not None and len(run.valid) > 0
        columns = ["train_loss", *(["valid_loss", *metrics] if validated else [])]
        if self.monitor not in columns:
            none = "" if validated else " There are no validation photos (valid_pct=0.2)."
            raise TrainingError(
                f"monitor={self.monitor!r} is no column of this fit, which has "
                f"{', '.join(columns)}.{none} Metrics are given to the learner: "
                'metrics=["accuracy"].'
            )
        if self.mode != "auto":
            return 1 if self.mode == "max" else -1
        if self.monitor not in metrics:
            return -1
        higher = higher_is_better(metrics[self.monitor], run.learner.task)
        if higher is None:
            raise TrainingError(
                f'Nobody has said whether more of {self.monitor} is better: give mode="max", or '
                'mode="min" if less is.'
            )
        return 1 if higher else -1


def value_of(row: EpochRow, column: str) -> float:
    """A loss or metric of an epoch; NaN if the row has none."""
    known = {"train_loss": row.train_loss, "valid_loss": row.valid_loss}
    value = known[column] if column in known else row.metrics.get(column)
    return math.nan if value is None else value
