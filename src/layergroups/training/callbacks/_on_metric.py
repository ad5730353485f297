"""Ending a fit that no longer gets better.

The checkpoint of the best epoch.

Lower rates where a fit no longer gets better.

Watching one column of the history: is it better than it was?

A loss that is not finite ends the fit, not the program.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from torch import Tensor

from layergroups._checks import number, text, whole_number
from layergroups.checkpoints import read
from layergroups.errors import CheckpointError, TrainingError
from layergroups.tasks import higher_is_better, metric_names
from layergroups.training.loop import end_after
from layergroups.training.persistence import put_weights, save, weights_of
from layergroups.training.state import EpochRow

if TYPE_CHECKING:
    from layergroups.training.loop import FitContext


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

    def begin(self, run: FitContext) -> None:
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

    def _direction(self, run: FitContext) -> int:
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


_log = logging.getLogger("layergroups")


class EarlyStopping:
    """Ends a fit after some epochs without a better value.

    Each fit counts anew. `fine_tune` is two fits: an end of the first, of the head alone, does not
    keep the second from running, in which it counts from its own first epoch. A schedule that
    falls to the end of the fit (`fit_one_cycle`) often gives its best epochs last; this is at its
    best with flat rates. `SaveBest` beside it keeps the weights of the best epoch. In fastai:
    EarlyStoppingCallback.

    Args:
        monitor: "valid_loss", "train_loss" or the name of a metric.
        patience: epochs without a better value after which the fit ends.
        min_delta: a change must be larger than this to count as better.
        mode: "min" if less is better, "max" if more is; "auto" knows it of losses and of metrics
            by name.

    Raises:
        TrainingError: an argument is not what it should be; or at the start of a fit, it has no
            such column.
    """

    def __init__(
        self,
        monitor: str = "valid_loss",
        patience: int = 3,
        min_delta: float = 0.0,
        mode: Mode = "auto",
    ) -> None:
        self.watch = Watch(monitor, mode, min_delta)
        self.patience = whole_number("patience", patience, 1, 3)

    def before_fit(self, run: FitContext) -> None:
        """Nothing was seen yet."""
        self.watch.begin(run)

    def after_epoch(self, run: FitContext) -> None:
        """End the fit if it is time."""
        self.watch.look(run.rows[-1])
        if self.watch.waited < self.patience or run.stop or run.epoch + 1 >= run.epochs:
            return
        waited = f"{self.watch.waited} epoch{'s' if self.watch.waited > 1 else ''}"
        end_after(run, f"no better for {waited} than {self.watch.said()}")
        _log.warning("The fit ends early, after %d of %d epochs: %s.",
                     run.epoch + 1, run.epochs, run.stop)  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """What it has seen so far."""
        return self.watch.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.watch.load_state_dict(state)


class SaveBest:
    """Saves the learner after each epoch that is better than all before it in this fit.

    `learn.load("best")` goes back to it at any time, also after Ctrl-C. Each fit looks for its own
    best, so the file holds the best epoch of the last fit; `fine_tune` is two fits, and the best
    epoch of its second replaces that of the first, even where it is worse. In fastai:
    SaveModelCallback, which puts the best back without being asked.

    Args:
        monitor: "valid_loss", "train_loss" or the name of a metric.
        name: of the file, as in `learn.save(name)`.
        restore: at the end of the fit put the weights of the best epoch back. What is frozen then
            stays frozen, rates and the optimizer's memory stay as they are.
        min_delta: a change must be larger than this to count as better.
        mode: as in `EarlyStopping`.

    Attributes:
        path: the file, once there is one.

    Raises:
        TrainingError: an argument is not what it should be; or at the start of a fit, it has no
            such column.
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
        self.watch = Watch(monitor, mode, min_delta)
        self.name = text("name", name, "best")
        self.restore = restore
        self.path: Path | None = None

    def before_fit(self, run: FitContext) -> None:
        """Nothing was seen yet."""
        self.watch.begin(run)
        self.path = None

    def after_epoch(self, run: FitContext) -> None:
        """Save, if this epoch is the best."""
        if self.watch.look(run.rows[-1]):
            self.path = save(run.learner, run.learner.file(self.name))

    def after_fit(self, run: FitContext) -> None:
        """Say which epoch it was, and put it back if asked."""
        if self.path is None:
            _log.warning("Nothing was saved as %r: there was %s.", self.name, self.watch.said())
            return
        last = self.watch.best_epoch == run.rows[-1].epoch
        way = f'learn.load("{self.name}") goes back to it'
        if last:
            way = "it is the last one"
        elif self.restore:
            way = "its weights are back" if self._put_back(run, self.path) else "they stay away"
        _log.warning("Best of %d epochs: %s, saved as %s; %s.",
                     len(run.rows), self.watch.said(), self.path, way)  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """What it has seen so far."""
        return self.watch.state_dict() | {"path": None if self.path is None else str(self.path)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.watch.load_state_dict(state)
        self.path = None if state["path"] is None else Path(state["path"])

    def _put_back(self, run: FitContext, path: Path) -> bool:
        """Copy the best weights into the model; False if it has become another one since."""
        tensors, _ = read(path)
        try:
            put_weights(run.groups.model, tensors, str(path))
        except CheckpointError as misfit:
            _log.warning("The model was changed after its best epoch: %s", misfit)
            return False
        return True


class ReduceLROnPlateau:
    """Lowers the rate of every layer group after some epochs without a better value.

    The groups' own rates change, so the table shows it, a schedule multiplies the new ones, and
    they stay after the fit. Named as in torch.optim.lr_scheduler and in fastai, whose factor is
    the inverse of this one.

    Args:
        monitor: "valid_loss", "train_loss" or the name of a metric.
        factor: by which rates are multiplied, between 0 and 1.
        patience: epochs without a better value after which they are.
        min_lr: no rate is brought below this one.
        min_delta: a change must be larger than this to count as better.
        mode: as in `EarlyStopping`.

    Raises:
        TrainingError: an argument is not what it should be; or at the start of a fit, it has no
            such column.
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
        self.watch = Watch(monitor, mode, min_delta)
        self.factor = number("factor", factor, 0, 1, 0.1, open_ends=True)
        self.patience = whole_number("patience", patience, 1, 2)
        self.min_lr = number("min_lr", min_lr, 0, 1e9, 1e-6)

    def before_fit(self, run: FitContext) -> None:
        """Nothing was seen yet."""
        self.watch.begin(run)

    def after_epoch(self, run: FitContext) -> None:
        """Lower the rates if it is time."""
        self.watch.look(run.rows[-1])
        if self.watch.waited < self.patience or run.stop or run.epoch + 1 >= run.epochs:
            return
        before = run.groups.rates
        lowered = [min(rate, max(rate * self.factor, self.min_lr)) for rate in before]
        self.watch.waited = 0
        if lowered != list(before):
            run.groups.set_rates(lowered)
            rates = ", ".join(f"{rate:.2g}" for rate in lowered)
            _log.warning("Rates become %s: no better than %s.", rates, self.watch.said())

    def state_dict(self) -> dict[str, Any]:
        """What it has seen so far; the rates are in the learner's own state."""
        return self.watch.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.watch.load_state_dict(state)


class StopOnNaN:
    """Ends the fit when a loss is NaN or infinite, and goes back to the last good weights.

    Without it the fit raises an error, with weights that may be spoilt. With it the fit returns its
    rows; the model is as it was after the last epoch in which all losses were finite, or before the
    fit; the optimizer forgets its moments, which may be spoilt too; and callbacks after it in the
    list, and the checkpoints, see the good weights. The epoch that broke off is not validated. It
    keeps a copy of the weights in main memory. In fastai: TerminateOnNaNCallback, which leaves the
    spoilt weights.
    """

    def __init__(self) -> None:
        self._good: dict[str, Tensor] = {}
        self._from = ""

    def before_fit(self, run: FitContext) -> None:
        """From now on a loss that is not finite ends the fit; the weights are good as they are."""
        run.allow_nonfinite = True
        self._keep(run, "before the fit")

    def after_epoch(self, run: FitContext) -> None:
        """Keep the weights if all losses were finite; else go back."""
        row = run.rows[-1]
        if run.losses.nonfinite_note:
            self._go_back(run)
        elif row.valid_loss is None or math.isfinite(row.valid_loss):
            self._keep(run, f"after epoch {row.epoch}")

    def state_dict(self) -> dict[str, Any]:
        """The good weights."""
        return {"from": self._from, "weights": dict(self._good)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._from, self._good = str(state["from"]), dict(state["weights"])

    def _keep(self, run: FitContext, when: str) -> None:
        weights = weights_of(run.groups.model)
        self._good = {name: t.detach().to("cpu", copy=True) for name, t in weights.items()}
        self._from = when

    def _go_back(self, run: FitContext) -> None:
        try:
            put_weights(run.groups.model, self._good, f"The copy from {self._from}")
        except CheckpointError as misfit:
            _log.warning("The weights may be spoilt, and cannot go back: %s", misfit)
            return
        run.optimizer.state.clear()
        trouble = run.losses.nonfinite_note
        _log.warning("The fit ends: %s. The weights are those from %s.", trouble, self._from)
