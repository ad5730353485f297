"""Callbacks that react to a column of the history: stop early, save the best, lower the rates.

`StopOnNaN` reacts to the training loss of each step.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from layergroups._checks import number, text, whole_number
from layergroups._formatting import rate
from layergroups.checkpoints import read
from layergroups.errors import CheckpointError, TrainingError
from layergroups.tasks import higher_is_better, metric_names
from layergroups.training.loop import FitContext, end_after
from layergroups.training.persistence import put_weights, save, weights_of
from layergroups.training.state import EpochRow

_log = logging.getLogger("layergroups")
Mode = Literal["auto", "min", "max"]


class OnMetric:
    """Tracks the best value of one column of the history during a fit.

    Args:
        monitor: "valid_loss", "train_loss" or the name of a metric.
        mode: "min" if lower is better, "max" if higher is better; "auto" decides for losses and
            for metrics given by name.
        min_delta: a change must be larger than this to count as better.

    Attributes:
        best: the best value; None before the first.
        best_epoch: its epoch, as numbered in the history.
        waited: epochs since then.

    Raises:
        TrainingError: an argument is wrong; or, at the start of a fit, there is no such column.
    """

    patience = 1

    def __init__(self, monitor: str, mode: Mode, min_delta: float) -> None:
        self.monitor = text("monitor", monitor, "valid_loss")
        if mode not in get_args(Mode):
            raise TrainingError(f'mode={mode!r} must be "auto", "min" or "max".')
        self.mode = mode
        self.min_delta = number("min_delta", min_delta, 0, 1e9, 0.001)
        self.best: float | None = None
        self.best_epoch, self.waited = -1, 0
        self._sign = 0

    def before_fit(self, run: FitContext) -> None:
        self._sign = self._direction(run)
        self.best, self.best_epoch, self.waited = None, -1, 0

    def is_best(self, row: EpochRow) -> bool:
        """Whether the epoch is better than all before; one without the value is not."""
        known = {**row.metrics, "train_loss": row.train_loss, "valid_loss": row.valid_loss}
        value = known.get(self.monitor)
        value = math.nan if value is None else value
        better = self.best is None or self._sign * (value - self.best) > self.min_delta
        if math.isnan(value) or not better:
            self.waited += 1
            return False
        self.best, self.best_epoch, self.waited = value, row.epoch, 0
        return True

    def patience_is_over(self, run: FitContext) -> bool:
        """Whether `patience` epochs were not better, and the fit would go on."""
        return self.waited >= self.patience and not run.stop and run.epoch + 1 < run.epochs

    def best_so_far(self) -> str:
        if self.best is None:
            return f"no {self.monitor} yet"
        return f"{self.monitor} {self.best:.4g} in epoch {self.best_epoch}"

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.best = state["best"]
        self.best_epoch, self.waited = int(state["best_epoch"]), int(state["waited"])

    def _direction(self, run: FitContext) -> int:
        metrics = dict(zip(metric_names(run.learner.metrics), run.learner.metrics, strict=True))
        validated = run.valid is not None and len(run.valid) > 0
        columns = ["train_loss", *(["valid_loss", *metrics] if validated else [])]
        if self.monitor not in columns:
            none = "" if validated else " There are no validation items (valid_pct=0.2)."
            raise TrainingError(
                f"monitor={self.monitor!r} is not a column of this fit, which has "
                f"{', '.join(columns)}.{none} Give metrics to the learner: "
                'metrics=["accuracy"].'
            )
        if self.mode != "auto":
            return 1 if self.mode == "max" else -1
        if self.monitor not in metrics:
            return -1
        higher = higher_is_better(metrics[self.monitor], run.learner.task)
        if higher is None:
            raise TrainingError(
                f"It is not known whether a higher {self.monitor} is better: give "
                'mode="max", or mode="min" if lower is better.'
            )
        return 1 if higher else -1


class EarlyStopping(OnMetric):
    """Ends a fit after some epochs without a better value.

    Each fit counts from its own first epoch, so an early end of the head phase of `fine_tune` does
    not stop the second phase. A schedule that falls to the end of the fit (`fit_one_cycle`) often
    has its best epochs last, so this fits flat rates best. `SaveBest` keeps the best weights. In
    fastai: EarlyStoppingCallback.

    Args:
        monitor: "valid_loss", "train_loss" or the name of a metric.
        min_delta: a change must be larger than this to count as better.
        mode: "min" if lower is better, "max" if higher is better; "auto" decides for losses and
            for metrics given by name.
        patience: epochs without a better value after which the fit ends.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        patience: int = 3,
        min_delta: float = 0.0,
        mode: Mode = "auto",
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.patience = whole_number("patience", patience, 1, 3)

    def after_epoch(self, run: FitContext) -> None:
        self.is_best(run.rows[-1])
        if not self.patience_is_over(run):
            return
        waited = f"{self.waited} epoch{'s' if self.waited > 1 else ''}"
        end_after(run, f"no better for {waited} than {self.best_so_far()}")
        _log.warning("The fit ends early, after %d of %d epochs: %s.",
                     run.epoch + 1, run.epochs, run.stop)  # fmt: skip


class SaveBest(OnMetric):
    """Saves the learner after each epoch that is better than all before it in this fit.

    `learn.load("best")` restores it at any time, also after Ctrl-C. Each call of a fit has its own
    best; both phases of one `fine_tune` share theirs. In fastai: SaveModelCallback, which always
    restores the best.

    Args:
        monitor: "valid_loss", "train_loss" or the name of a metric.
        min_delta: a change must be larger than this to count as better.
        mode: "min" if lower is better, "max" if higher is better; "auto" decides for losses and
            for metrics given by name.
        name: of the file, as in `learn.save(name)`.
        restore: put the weights of the best epoch back at the end of the fit. Freezing, learning
            rates and optimizer state stay as they are.

    Attributes:
        path: the file, once there is one.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        name: str = "best",
        *,
        restore: bool = False,
        min_delta: float = 0.0,
        mode: Mode = "auto",
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.name = text("name", name, "best")
        self.restore = restore
        self.path: Path | None = None

    def before_fit(self, run: FitContext) -> None:
        super().before_fit(run)
        file = run.learner.file(self.name)
        self.path = None
        for row in run.earlier if file.is_file() else ():
            if self.is_best(row):
                self.path = file

    def after_epoch(self, run: FitContext) -> None:
        if self.is_best(run.rows[-1]):
            self.path = save(run.learner, run.learner.file(self.name))

    def after_fit(self, run: FitContext) -> None:
        if not run.is_last:
            return
        if self.path is None:
            _log.warning("Nothing was saved as %r: there is %s.", self.name, self.best_so_far())
            return
        if self.best_epoch == run.rows[-1].epoch:
            outcome = "the last one"
        elif self.restore and _put_back(run, read(self.path)[0], str(self.path)):
            outcome = "the model has its weights now"
        else:
            outcome = f'saved as {self.path}; learn.load("{self.name}") restores it'
        n_epochs = len(run.earlier) + len(run.rows)
        _log.warning("Best of %d epochs: %s; %s.", n_epochs, self.best_so_far(), outcome)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"path": None if self.path is None else str(self.path)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.path = None if state["path"] is None else Path(state["path"])


class ReduceLROnPlateau(OnMetric):
    """Lowers the learning rate of every layer group after some epochs without a better value.

    It changes the rates of the groups: the table shows them, a schedule multiplies them, and they
    stay after the fit. Named as in torch.optim.lr_scheduler and in fastai, whose factor is the
    inverse of this one.

    Args:
        monitor: "valid_loss", "train_loss" or the name of a metric.
        min_delta: a change must be larger than this to count as better.
        mode: "min" if lower is better, "max" if higher is better; "auto" decides for losses and
            for metrics given by name.
        factor: multiplies the rates; between 0 and 1.
        patience: epochs without a better value after which it does.
        min_lr: no rate falls below this one.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        factor: float = 0.1,
        patience: int = 2,
        min_lr: float = 0.0,
        min_delta: float = 0.0,
        mode: Mode = "auto",
    ) -> None:
        super().__init__(monitor, mode, min_delta)
        self.factor = number("factor", factor, 0, 1, 0.1, open_ends=True)
        self.patience = whole_number("patience", patience, 1, 2)
        self.min_lr = number("min_lr", min_lr, 0, 1e9, 1e-6)

    def after_epoch(self, run: FitContext) -> None:
        self.is_best(run.rows[-1])
        if not self.patience_is_over(run):
            return
        before = run.groups.rates
        lowered = [min(lr, max(lr * self.factor, self.min_lr)) for lr in before]
        self.waited = 0
        if lowered != list(before):
            run.groups.set_rates(lowered)
            rates, best = ", ".join(map(rate, lowered)), self.best_so_far()
            _log.warning("Learning rates become %s: no better than %s.", rates, best)


class StopOnNaN:
    """Ends the fit when a loss is NaN or infinite, and restores the last finite weights.

    Without it the fit raises an error and the weights may be NaN. With it the fit returns its
    epochs, and the model has the weights after the last epoch in which all losses were finite, or
    those before the fit. The optimizer state is cleared, since it may be NaN too. Callbacks after
    it in the list, and checkpoints, see the restored weights. The interrupted epoch is not
    validated. It keeps a copy of the weights in main memory. In fastai: TerminateOnNaNCallback,
    which does not restore weights.
    """

    def __init__(self) -> None:
        self._last_finite: dict[str, Tensor] = {}
        self._from = ""

    def before_fit(self, run: FitContext) -> None:
        run.allow_nonfinite = True
        self._copy(run, "before the fit")

    def after_epoch(self, run: FitContext) -> None:
        row, note = run.rows[-1], run.losses.nonfinite_note
        if note:
            if _put_back(run, self._last_finite, f"The copy from {self._from}"):
                run.optimizer.state.clear()
                _log.warning("The fit ends: %s. The weights are those from %s.", note, self._from)
        elif row.valid_loss is None or math.isfinite(row.valid_loss):
            self._copy(run, f"after epoch {row.epoch}")

    def state_dict(self) -> dict[str, Any]:
        return {"from": self._from, "weights": dict(self._last_finite)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._from, self._last_finite = str(state["from"]), dict(state["weights"])

    def _copy(self, run: FitContext, when: str) -> None:
        weights = weights_of(run.groups.model)
        self._last_finite = {n: t.detach().to("cpu", copy=True) for n, t in weights.items()}
        self._from = when


def _put_back(run: FitContext, weights: Mapping[str, Tensor], source: str) -> bool:
    try:
        put_weights(run.groups.model, weights, source)
    except CheckpointError as difference:
        _log.warning("The model has changed since, so its weights are not restored: %s", difference)
        return False
    return True
