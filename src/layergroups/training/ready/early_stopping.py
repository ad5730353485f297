"""Ending a fit that no longer gets better."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layergroups.training.callbacks import end_after
from layergroups.training.ready.arguments import whole_number
from layergroups.training.ready.watch import Mode, Watch

if TYPE_CHECKING:
    from layergroups.training.run import Run

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

    def before_fit(self, run: Run) -> None:
        """Nothing was seen yet."""
        self.watch.begin(run)

    def after_epoch(self, run: Run) -> None:
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
