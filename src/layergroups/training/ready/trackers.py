"""Losses, metrics and rates to TensorBoard, Weights & Biases and others, through accelerate."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from layergroups.errors import TrainingError
from layergroups.training.device import make_accelerator
from layergroups.training.ready.arguments import text, whole_number

if TYPE_CHECKING:
    from accelerate import Accelerator

    from layergroups.training.run import Run

_PACKAGES: Final = {
    "tensorboard": ("tensorboard", "tensorboardX"),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
    "mlflow": ("mlflow",),
    "comet_ml": ("comet_ml",),
    "aim": ("aim",),
    "clearml": ("clearml",),
    "dvclive": ("dvclive",),
    "swanlab": ("swanlab",),
}


class Trackers:
    """Sends what happens to experiment trackers, from the main process only.

    After each epoch `train_loss`, `valid_loss`, every metric and the epoch's number; every few
    steps `loss` and `lr/<group>` for each layer group. The step on the axis counts optimizer steps
    over all fits with this object, also in a resumed run. Trackers are begun at the first fit and
    stay open, so `fine_tune` is one run of theirs; `close()` ends it, else the end of the program
    does. In fastai: TensorBoardCallback, WandbCallback, …

    Args:
        names: "tensorboard", "wandb" or another tracker of accelerate, an object of a subclass of
            its `GeneralTracker`, or a list of these.
        project: how the trackers call the project; for tensorboard a folder below `folder`.
        folder: where trackers that write files do so.
        every: steps from one loss to the next.
        config: plain values to store with the run, besides those of the learner.
        init: options of the trackers by name, such as `{"wandb": {"name": "first try"}}`.

    Raises:
        TrainingError: no such tracker, its package is not installed, or another argument is wrong.
    """

    def __init__(
        self,
        names: Any = "tensorboard",
        *,
        project: str = "layergroups",
        folder: str | os.PathLike[str] = "logs",
        every: int = 10,
        config: Mapping[str, Any] | None = None,
        init: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.names = list(names) if isinstance(names, list | tuple) else [names]
        for name in self.names:
            _check(name)
        self.project = text("project", project, "clothes")
        self.folder = Path(folder)
        self.every = whole_number("every", every, 1, 10)
        self.config = dict(config or {})
        self.init = {name: dict(options) for name, options in (init or {}).items()}
        self.step = 0
        self._accelerator: Accelerator | None = None

    def before_fit(self, run: Run) -> None:
        """Begin, with the first fit."""
        per_epoch = max(1, run.steps // max(1, run.epochs))
        self.step = max(self.step, run.learner.epochs_done * per_epoch)
        if self._accelerator is None:
            options = {"log_with": self.names, "project_dir": str(self.folder)}
            self._accelerator = make_accelerator(run.learner.mixed_precision, **options)
            self._accelerator.init_trackers(self.project, _config(run) | self.config, self.init)

    def after_step(self, run: Run) -> None:
        """Send the loss and the rates, where it is time."""
        self.step += 1
        if run.step % self.every == 0:
            rates = run.groups.rates
            multiplier = run.schedule.multiplier((run.step - 1) / run.steps)
            pairs = zip(run.groups.names, rates, strict=True)
            self._send({"loss": run.losses.latest} | {f"lr/{n}": r * multiplier for n, r in pairs})

    def after_epoch(self, run: Run) -> None:
        """Send the row."""
        row = run.rows[-1]
        values = {"train_loss": row.train_loss, "valid_loss": row.valid_loss, **row.metrics}
        known = {name: value for name, value in values.items() if value is not None}
        self._send(known | {"epoch": row.epoch})

    def close(self) -> None:
        """End the trackers' run; another fit begins a new one."""
        if self._accelerator is not None:
            for tracker in self._accelerator.trackers:
                tracker.finish()
        self._accelerator = None

    def state_dict(self) -> dict[str, Any]:
        """How many steps were counted."""
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.step = int(state["step"])

    def _send(self, values: Mapping[str, float]) -> None:
        assert self._accelerator is not None
        self._accelerator.log(dict(values), step=self.step)


def _config(run: Run) -> dict[str, Any]:
    """What tells this run from others, as plain values."""
    learner = run.learner
    return {
        "model": type(learner.model).__name__,
        "phase": run.phase,
        "epochs": run.epochs,
        "batch_size": int(getattr(learner.dls, "batch_size", 0)),
        "weight_decay": learner.weight_decay,
        "precision": run.accelerator.mixed_precision,
        **{f"rate/{n}": r for n, r in zip(run.groups.names, run.groups.rates, strict=True)},
    }


def _check(name: object) -> None:
    """A tracker that accelerate knows and that is installed, or an object of its kind."""
    if not isinstance(name, str):
        from accelerate.tracking import GeneralTracker

        if isinstance(name, GeneralTracker):
            return
    elif name in _PACKAGES:
        packages = _PACKAGES[name]
        if not any(importlib.util.find_spec(package) for package in packages):
            raise TrainingError(
                f"Trackers({name!r}) needs a package that is not installed: pip install "
                f"{packages[0].replace('_', '-')}. Without any, CSVLog() writes a table."
            )
        return
    raise TrainingError(
        f"{name!r} is no tracker. By name there are {', '.join(_PACKAGES)}; or give an object of a "
        "subclass of accelerate.tracking.GeneralTracker."
    )
