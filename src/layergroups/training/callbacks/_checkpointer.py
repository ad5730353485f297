"""Checkpoints while a fit runs, and going on from the last one as if nothing had happened.

Each fit of a learner has a folder of its own below `checkpoint_dir`, by its number: a script that
is started again finds the fits that were done, takes over what they ended with, and goes on in the
midst of the one that was cut off. All that a step depends on is in a checkpoint: weights, buffers,
optimizer, freezing, rates, position in schedule and data, random states, history, callbacks. So the
resumed run ends bit for bit where the unbroken one ends, on the same machine with the same threads.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layergroups._paths import path_of
from layergroups.checkpoints import (
    Saved,
    Series,
    join_tensors,
    split_tensors,
)
from layergroups.errors import CheckpointError, TrainingError
from layergroups.training.loop import position_of, restore_position
from layergroups.training.persistence import check_resumable, restore, state_of
from layergroups.training.state import History

if TYPE_CHECKING:
    from layergroups.training.loop import FitContext
    from layergroups.training.optim import Schedule
    from layergroups.training.state import LearnerState


_log = logging.getLogger("layergroups")


_KEPT = 2

_FEATURES = "features"


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Where and how often a fit is saved, and whether it goes on from what is there.

    Attributes:
        folder: of all fits of a learner.
        every: also after so many optimizer steps, not only after each epoch.
        resume: go on from the newest checkpoint that is whole.
    """

    folder: Path
    every: int | None = None
    resume: bool = False


def checkpoint_config(
    checkpoint_dir: str | Path | None, checkpoint_every: int | None, resume: bool
) -> CheckpointConfig | None:
    """The arguments of a fit as data; None if it is not to be saved.

    Raises:
        TrainingError: they do not make sense together.
    """
    if checkpoint_dir is None:
        if resume or checkpoint_every is not None:
            raise TrainingError(
                "resume=True and checkpoint_every= need the folder of the checkpoints: "
                'fit(..., checkpoint_dir="checkpoints", resume=True).'
            )
        return None
    every = checkpoint_every
    if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
        raise TrainingError(
            f"checkpoint_every={every!r} must be a whole number of steps from 1, or None for the "
            "end of each epoch only."
        )
    folder = path_of(checkpoint_dir, TrainingError, 'fit(..., checkpoint_dir="checkpoints")')
    return CheckpointConfig(folder=folder, every=every, resume=resume)


class Checkpointer:
    """The callback that writes the checkpoints of one fit, and goes on from them.

    It is the last of the callbacks, so what the others did at a moment is in the checkpoint.

    Args:
        plan: where and how often.
        learner: whose next fit it is.
        kind: ends the name of the folder, where one fit is tried in two ways.

    Raises:
        TrainingError: the folder holds checkpoints of this fit, but it is not to go on from them.
    """

    def __init__(self, plan: CheckpointConfig, learner: LearnerState, kind: str = "") -> None:
        self.plan = plan
        self.number = learner.fits_done
        self.series = Series(plan.folder / f"fit-{self.number:03d}{kind}")
        self.first_epoch = learner.epochs_done
        self._start_rates = tuple(learner.layer_groups.rates)
        self._base: Path | None = None  # before the first surgery of this fit
        self._structure = ""
        with learner.processes.together():
            self._found = self._find(learner)
            found = "" if self._found is None else self._found.path.name
            learner.processes.meet("the start of a fit with checkpoints", {"goes on from": found})
        if self._found is not None:
            self.first_epoch = int(self._found.state["fit"]["first_epoch"])

    def _find(self, learner: LearnerState) -> Saved | None:
        """Look for a checkpoint to go on from, or see that there is none in the way."""
        if self.plan.resume:
            return self._newest_that_fits(learner)
        if self.series.files():
            raise TrainingError(
                f"{self.series.folder} holds checkpoints of an earlier run. To go on from them "
                "give resume=True (--resume); to begin again, another checkpoint_dir, or delete "
                "this one."
            )
        return None

    def finished(self, learner: LearnerState, asked: Mapping[str, Any]) -> History | None:
        """The rows of a fit that was done before; the learner is then as it was at its end."""
        if self._found is None or not self._found.state["fit"]["done"]:
            return None
        fit = self._checked(self._found, asked)
        self._restore(learner, self._found)
        _log.warning("Fit %d was done before; its end is loaded from %s.", self.number, self._path)
        return learner.history[len(learner.history) - fit["rows"] :]

    @property
    def _path(self) -> str:
        return "" if self._found is None else str(self._found.path)

    # Events

    def before_fit(self, run: FitContext) -> None:
        """Go on from the checkpoint that was found, or write the first one."""
        if self._found is None:
            self._write(run)
            return
        fit = self._checked(self._found, signature_of(run) | {"steps": run.steps})
        self._restore(run.learner, self._found)
        restore_position(run, fit, join_tensors(fit["epoch_start"], self._found.tensors))
        _restore_callbacks(run, fit, self._found)
        self._base = self._kept_base(fit)
        self._structure = str(self._found.state["structure"])
        _log.warning(
            "Going on from %s: epoch %d of %d, step %d of %d.",
            self._path, run.epoch, run.epochs, run.step, run.steps,
        )  # fmt: skip
        self._found = None

    def after_step(self, run: FitContext) -> None:
        """Write, where it is time."""
        if self.plan.every is not None and run.step % self.plan.every == 0:
            self._write(run)

    def after_epoch(self, run: FitContext) -> None:
        """Write: the next epoch has not begun."""
        self._write(run, epoch_done=True)

    def after_fit(self, run: FitContext) -> None:
        """Write the end of the fit; what came before is not needed any more."""
        self._write(run, done=True)

    # Writing

    def _write(self, run: FitContext, *, epoch_done: bool = False, done: bool = False) -> None:
        with run.processes.together():
            run.processes.meet("a checkpoint")
            tensors, state = self._state(run, epoch_done=epoch_done, done=done)
            run.processes.write("a checkpoint", lambda: self._store(run.step, tensors, state))

    def _store(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Write a file, and delete those that it makes superfluous."""
        if self._base is None and self._structure not in ("", state["structure"]):
            self._base = next(iter(self.series.files()), None)
        self._structure = state["structure"]
        state["fit"]["base"] = None if self._base is None else self._base.name
        written = self.series.write(step, tensors, state)
        newest = self.series.files()[: 1 if state["fit"]["done"] else _KEPT]
        self.series.prune({written, *newest, *([self._base] if self._base else [])})

    def _state(
        self, run: FitContext, *, epoch_done: bool, done: bool
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of the learner, and where the run stands."""
        tensors, state = state_of(run.learner)
        callbacks, told = split_tensors(_callback_states(run), "callbacks")
        epoch, start = split_tensors(run.epoch_start, "epoch")
        state["fit"] = (
            signature_of(run)
            | position_of(run, epoch_done=epoch_done)
            | {
                "steps": run.steps,
                "done": done,
                "first_epoch": self.first_epoch,
                "start_rates": list(self._start_rates),
                "epoch_start": start,
                "callbacks": told,
            }
        )
        return {**tensors, **callbacks, **epoch}, state

    # Going on

    def _newest_that_fits(self, learner: LearnerState) -> Saved | None:
        """The newest whole checkpoint whose weights are those of this model.

        A fit whose callbacks changed the model goes on from before the change, which they then do
        again.
        """
        reason: CheckpointError | None = None
        for saved in self.series.readable():
            try:
                check_resumable(learner, saved)
            except CheckpointError as misfit:
                reason = reason or misfit
                continue
            if reason is not None:
                _log.warning(
                    "The model was changed in this fit; it goes on from before the change: %s",
                    saved.path,
                )
            return saved
        if reason is not None:
            raise reason
        return None

    def _checked(self, saved: Saved, asked: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the checkpoint says of its fit, which must be the one that is asked for."""
        fit: Mapping[str, Any] = saved.state["fit"]
        other = [
            f"{key} {fit.get(key)!r}, now {asked[key]!r}"
            for key in asked
            if fit.get(key) != asked[key]
        ]
        if other:
            raise CheckpointError(
                f"{saved.path} belongs to another fit: {'; '.join(other)}. Call the fits of this "
                "run as before, or give another checkpoint_dir; to train for more epochs, call "
                "fit again afterwards."
            )
        if list(self._start_rates) != list(fit["start_rates"]):
            _log.warning(
                "Going on at the rates of the checkpoint (begun at %s), not at %s as asked now.",
                fit["start_rates"], list(self._start_rates),
            )  # fmt: skip
        return fit

    def _restore(self, learner: LearnerState, saved: Saved) -> None:
        restore(
            learner, saved.tensors, saved.state, with_opt=True, strict=True, source=str(saved.path)
        )

    def _kept_base(self, fit: Mapping[str, Any]) -> Path | None:
        return None if fit["base"] is None else self.series.folder / str(fit["base"])


def signature_of(run: FitContext) -> dict[str, Any]:
    """What tells one fit from another: as the person asked for it."""
    return fit_signature(run.phase, run.epochs, run.schedule, run.learner)


def fit_signature(
    phase: str, epochs: int, schedule: Schedule, learner: LearnerState
) -> dict[str, Any]:
    """A fit as a person asks for it, as JSON values."""
    shown = repr(schedule) if is_dataclass(schedule) else type(schedule).__name__
    return {
        "phase": phase,
        "epochs": epochs,
        "schedule": shown,
        "classes": list(learner.data.vocab),
        "ema": learner.ema,
    }


def _restore_callbacks(run: FitContext, fit: Mapping[str, Any], saved: Saved) -> None:
    states = join_tensors(fit["callbacks"], saved.tensors)
    for name, callback in _stateful(run):
        if name in states:
            callback.load_state_dict(states[name])
        elif name != _FEATURES:  # earlier versions did not save it
            _log.warning("%s has no state of %s, which begins afresh.", saved.path.name, name)


def _stateful(run: FitContext) -> list[tuple[str, Any]]:
    """Callbacks that have a state, each with a name by class and place among those of its class."""
    found: list[tuple[str, Any]] = []
    if run.features is not None:
        found.append((_FEATURES, run.features))
    counts: Counter[str] = Counter()
    for callback in run.callbacks:
        if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict"):
            kind = type(callback).__name__
            found.append((f"{counts[kind]}-{kind}", callback))
            counts[kind] += 1
    return found


def _callback_states(run: FitContext) -> dict[str, Any]:
    return {name: callback.state_dict() for name, callback in _stateful(run)}
