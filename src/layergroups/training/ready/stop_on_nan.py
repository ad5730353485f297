"""A loss that is not finite ends the fit, not the program."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layergroups.errors import CheckpointError
from layergroups.training import saving

if TYPE_CHECKING:
    from layergroups.training.run import Run

_log = logging.getLogger("layergroups")


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

    def before_fit(self, run: Run) -> None:
        """From now on a loss that is not finite ends the fit; the weights are good as they are."""
        run.forgiving = True
        self._keep(run, "before the fit")

    def after_epoch(self, run: Run) -> None:
        """Keep the weights if all losses were finite; else go back."""
        row = run.rows[-1]
        if run.losses.trouble:
            self._go_back(run)
        elif row.valid_loss is None or math.isfinite(row.valid_loss):
            self._keep(run, f"after epoch {row.epoch}")

    def state_dict(self) -> dict[str, Any]:
        """The good weights."""
        return {"from": self._from, "weights": dict(self._good)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._from, self._good = str(state["from"]), dict(state["weights"])

    def _keep(self, run: Run, when: str) -> None:
        weights = saving.weights_of(run.groups.model)
        self._good = {name: t.detach().to("cpu", copy=True) for name, t in weights.items()}
        self._from = when

    def _go_back(self, run: Run) -> None:
        try:
            saving.put_weights(run.groups.model, self._good, f"The copy from {self._from}")
        except CheckpointError as misfit:
            _log.warning("The weights may be spoilt, and cannot go back: %s", misfit)
            return
        run.optimizer.state.clear()
        trouble = run.losses.trouble
        _log.warning("The fit ends: %s. The weights are those from %s.", trouble, self._from)
