"""The checkpoint of the best epoch."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergroups.checkpoints import read
from layergroups.errors import CheckpointError
from layergroups.training import saving
from layergroups.training.ready.arguments import text
from layergroups.training.ready.watch import Mode, Watch

if TYPE_CHECKING:
    from layergroups.training.run import Run

_log = logging.getLogger("layergroups")


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

    def before_fit(self, run: Run) -> None:
        """Nothing was seen yet."""
        self.watch.begin(run)
        self.path = None

    def after_epoch(self, run: Run) -> None:
        """Save, if this epoch is the best."""
        if self.watch.look(run.rows[-1]):
            self.path = run.learner.save(self.name)

    def after_fit(self, run: Run) -> None:
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

    def _put_back(self, run: Run, path: Path) -> bool:
        """Copy the best weights into the model; False if it has become another one since."""
        tensors, _ = read(path)
        try:
            saving.put_weights(run.groups.model, tensors, str(path))
        except CheckpointError as misfit:
            _log.warning("The model was changed after its best epoch: %s", misfit)
            return False
        return True
