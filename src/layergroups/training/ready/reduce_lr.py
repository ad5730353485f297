"""Lower rates where a fit no longer gets better."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from layergroups.training.ready.arguments import number, whole_number
from layergroups.training.ready.watch import Mode, Watch

if TYPE_CHECKING:
    from layergroups.training.run import Run

_log = logging.getLogger("layergroups")


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

    def before_fit(self, run: Run) -> None:
        """Nothing was seen yet."""
        self.watch.begin(run)

    def after_epoch(self, run: Run) -> None:
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
