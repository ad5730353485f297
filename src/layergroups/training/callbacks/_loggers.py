"""Logging callbacks: a CSV file, experiment trackers, and live curves in a notebook."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergroups._checks import number, text, whole_number
from layergroups._formatting import current_cell
from layergroups.checkpoints import write_text
from layergroups.errors import TrainingError
from layergroups.reports import curves_png
from layergroups.training.hardware import make_accelerator
from layergroups.training.loop import FitContext

if TYPE_CHECKING:
    from accelerate import Accelerator


class CSVLog:
    """Writes the history of the learner to a CSV file after each epoch; see `History.to_csv`.

    The whole file is replaced each time, atomically. It holds all fits of the learner: a resumed
    run has each epoch once, and an interrupted run has a row for the interrupted epoch. With
    several processes the main one writes. In fastai: CSVLogger.

    Args:
        path: the file; missing folders are made.
    """

    def __init__(self, path: str | os.PathLike[str] = "history.csv") -> None:
        if not isinstance(path, str | os.PathLike) or not str(path) or Path(path).is_dir():
            raise TrainingError(
                f'path={path!r} must be the path of a file, such as CSVLog("logs/history.csv").'
            )
        self.path = Path(path)

    def after_epoch(self, run: FitContext) -> None:
        if run.processes.is_main:
            write_text(self.path, run.learner.history.to_csv())

    after_all = after_epoch  # once more: the row of an interrupted epoch, and notes


class Trackers:
    """Logs to experiment trackers, from the main process only.

    After each epoch `train_loss`, `valid_loss`, every metric and the epoch's number; every few
    steps `loss` and `lr/<group>` for each layer group. The step axis counts optimizer steps over
    all fits with this object, also in a resumed run. Trackers start at the first fit and stay open,
    so `fine_tune` is one run in them; `close()` or the end of the program closes them. In fastai:
    TensorBoardCallback, WandbCallback, …

    Args:
        names: "tensorboard", "wandb" or a different tracker of accelerate, an object of a subclass
            of its `GeneralTracker`, or a list of these.
        project: name of the project in the trackers; for tensorboard a folder below `folder`.
        folder: for trackers that write files.
        every: steps from one logged loss to the next.
        config: plain values to store with the run, in addition to those of the learner.
        init: options of the trackers by name, such as `{"wandb": {"name": "first try"}}`.

    Raises:
        TrainingError: unknown tracker, its package is not installed, or an argument is wrong.
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

    def before_fit(self, run: FitContext) -> None:
        per_epoch = max(1, run.steps // max(1, run.epochs))
        self.step = max(self.step, run.learner.epochs_done * per_epoch)
        if self._accelerator is None:
            options = {"log_with": self.names, "project_dir": str(self.folder)}
            self._accelerator = make_accelerator(run.learner.mixed_precision, **options)
            self._accelerator.init_trackers(self.project, _config(run) | self.config, self.init)

    def after_step(self, run: FitContext) -> None:
        self.step += 1
        if run.step % self.every == 0:
            rates = run.groups.rates
            multiplier = run.schedule.multiplier((run.step - 1) / run.steps)
            pairs = zip(run.groups.names, rates, strict=True)
            run.losses.read()
            self._send({"loss": run.losses.latest} | {f"lr/{n}": r * multiplier for n, r in pairs})

    def after_epoch(self, run: FitContext) -> None:
        row = run.rows[-1]
        values = {"train_loss": row.train_loss, "valid_loss": row.valid_loss, **row.metrics}
        known = {name: value for name, value in values.items() if value is not None}
        self._send(known | {"epoch": row.epoch})

    def close(self) -> None:
        """End the trackers' run; the next fit starts a new one."""
        if self._accelerator is not None:
            for tracker in self._accelerator.trackers:
                tracker.finish()
        self._accelerator = None

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.step = int(state["step"])

    def _send(self, values: Mapping[str, float]) -> None:
        assert self._accelerator is not None
        self._accelerator.log(dict(values), step=self.step)


def _config(run: FitContext) -> dict[str, Any]:
    learner = run.learner
    return {
        "model": type(learner.model).__name__,
        "phase": run.phase,
        "epochs": run.epochs,
        "batch_size": learner.data.batch_size,
        "weight_decay": learner.weight_decay,
        "precision": run.accelerator.mixed_precision,
        **{f"rate/{n}": r for n, r in zip(run.groups.names, run.groups.rates, strict=True)},
    }


def _check(name: object) -> None:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

    if isinstance(name, GeneralTracker) or name in [t.value for t in get_available_trackers()]:
        return
    if name in LOGGER_TYPE_TO_CLASS:
        raise TrainingError(
            f"Trackers({name!r}) needs a package that is not installed: pip install "
            f"{str(name).replace('_', '-')}. Without any, CSVLog() writes a table."
        )
    raise TrainingError(
        f"{name!r} is not a tracker. By name there are {', '.join(LOGGER_TYPE_TO_CLASS)}; or give "
        "an object of a subclass of accelerate.tracking.GeneralTracker."
    )


_log = logging.getLogger("layergroups")
_REST = 10  # drawing takes at most a tenth of the time
_POINTS = 2000  # maximum number of step losses; beyond it every second one is dropped


class LivePlot:
    """Draws losses, metrics and rates of all groups below the cell in which a fit runs.

    It draws after each epoch, and within an epoch at most every few seconds. In a terminal it only
    logs a warning; `png()` returns the last picture anywhere. In fastai: ShowGraphCallback.

    Args:
        seconds: from one picture to the next within an epoch.
    """

    def __init__(self, seconds: float = 2.0) -> None:
        self.seconds = number("seconds", seconds, 0, 3600, 2.0)
        self._places: list[float] = []
        self._losses: list[float] = []
        self._every = 1
        self._handle: Any = None
        self._next = 0.0
        self._rows: list[Any] = []
        self._names: tuple[str, ...] = ()

    def before_fit(self, run: FitContext) -> None:
        self._places, self._losses, self._every, self._handle = [], [], 1, None
        self._rows, self._names = [], tuple(run.groups.names)
        if run.processes.is_main and current_cell() is None:
            _log.warning("LivePlot draws in notebooks only; here the table has the same numbers.")

    def after_step(self, run: FitContext) -> None:
        if run.step % self._every == 0:
            run.losses.read()
            self._places.append(run.step / run.steps * run.epochs)
            self._losses.append(run.losses.latest)
        if len(self._losses) > _POINTS:
            self._places, self._losses = self._places[::2], self._losses[::2]
            self._every *= 2
        if time.monotonic() >= self._next:
            self._draw(run)

    def after_epoch(self, run: FitContext) -> None:
        self._draw(run)

    after_all = after_epoch  # the row of an interrupted epoch too

    def png(self) -> bytes:
        """The picture of the last fit, as a PNG file."""
        return curves_png(self._rows, self._places, self._losses, self._names)

    def state_dict(self) -> dict[str, Any]:
        return {"places": self._places, "losses": self._losses, "every": self._every}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._places, self._losses = list(state["places"]), list(state["losses"])
        self._every = int(state["every"])

    def _draw(self, run: FitContext) -> None:
        self._rows, started = list(run.rows), time.monotonic()
        if not run.processes.is_main or current_cell() is None:
            return
        from IPython.display import Image, display

        picture = Image(data=self.png(), format="png", retina=True)
        if self._handle is None:
            self._handle = display(picture, display_id=True)
        else:
            self._handle.update(picture)
        took = time.monotonic() - started
        self._next = time.monotonic() + max(self.seconds, _REST * took)
