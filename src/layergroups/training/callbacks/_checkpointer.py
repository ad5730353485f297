"""Checkpoints of a fit in progress, and resuming from them.

Each fit of a learner has its own numbered folder below `checkpoint_dir`. A restarted script loads
the results of finished fits, and continues the interrupted one. A checkpoint has everything that a
step depends on: weights, buffers, optimizer, freezing, rates, position in schedule and data, random
states, history, callbacks. So a resumed run gives bit for bit the result of an uninterrupted one,
on the same machine with the same number of threads.
"""

from __future__ import annotations

import logging
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from layergroups._checks import whole_number
from layergroups._fingerprint import checksum
from layergroups._formatting import name_of
from layergroups._paths import path_of
from layergroups.checkpoints import Saved, Series, join_tensors, split_tensors
from layergroups.data import items_in
from layergroups.errors import CheckpointError, TrainingError
from layergroups.training.loop import FitContext, position_of, restore_position
from layergroups.training.optim import Schedule
from layergroups.training.persistence import check_resumable, restore, state_of
from layergroups.training.state import History, LearnerState

_log = logging.getLogger("layergroups")
_KEPT: Final = 2  # number of checkpoints, because the newest may be damaged
_CONTENTS: Final = "items, labels and transforms"  # a checksum, so not shown in messages
_FEATURES: Final = "features"  # name of the state of `FitContext.features`


@dataclass(frozen=True)
class CheckpointConfig:
    """Where and how often a fit is saved, and whether it resumes; see `FitOptions`."""

    folder: Path
    every: int | None = None
    resume: bool = False


def checkpoint_config(
    checkpoint_dir: str | Path | None, checkpoint_every: int | None, resume: bool
) -> CheckpointConfig | None:
    """The checkpoint options of a fit, checked; None without checkpoints."""
    if checkpoint_dir is None:
        if resume or checkpoint_every is not None:
            raise TrainingError(
                "resume=True and checkpoint_every= need the folder of the checkpoints: "
                'fit(..., checkpoint_dir="checkpoints", resume=True).'
            )
        return None
    if checkpoint_every is not None:
        whole_number("checkpoint_every", checkpoint_every, 1, 100)
    folder = path_of(checkpoint_dir, TrainingError, 'fit(..., checkpoint_dir="checkpoints")')
    return CheckpointConfig(folder, checkpoint_every, resume)


def fit_signature(learner: LearnerState, schedule: Schedule, **phase: Any) -> dict[str, Any]:
    """The arguments and data that identify a fit, JSON-ready; a checkpoint must have the same."""
    data, loss, opt_func = learner.data, learner.loss_func, learner.opt_func
    targets, weights = data.targets(), data.sampling_weights
    contents = zlib.crc32(data.fingerprint().encode())
    return {
        **phase,
        "schedule": repr(schedule) if is_dataclass(schedule) else type(schedule).__name__,
        "optimizer": name_of(opt_func),
        "weight decay": learner.weight_decay,
        "clip": learner.clip,
        "classes": list(data.vocab),
        "ema": learner.ema,
        "loss": name_of(loss),
        "settings of the loss": _settings(loss),
        "settings of the optimizer": _settings(opt_func),
        "mixed precision": learner.mixed_precision,
        "batch norm": learner.batch_norm,
        "balance": None if weights is None else checksum(weights),
        "seed": data.seed if learner.seed is None else learner.seed,
        "size": None if data.size is None else list(data.size),
        "batch size": data.batch_size,
        "training items": items_in(data.train),
        "validation items": None if data.valid is None else items_in(data.valid),
        _CONTENTS: contents if targets is None else checksum(targets, contents),
    }


def _settings(function: object) -> dict[str, Any]:
    """The plain attributes of a loss, or what a partial holds, JSON-ready."""
    known: Mapping[str, Any] = getattr(function, "__dict__", {})
    if isinstance(function, partial):
        known = {"of": name_of(function.func), **function.keywords}
    made = {}
    for name, value in known.items():
        if name[:1] == "_" or name == "training":  # the mode of a module
            continue
        several = isinstance(value, tuple | list)
        parts = list(value) if several else [value]
        if all(isinstance(part, bool | int | float | str | None) for part in parts):
            made[name] = parts if several else value
        elif several and all(map(callable, parts)):  # such as the losses of a sum
            made[name] = [[name_of(part), _settings(part)] for part in parts]
    return made


def check_folders(
    config: CheckpointConfig, learner: LearnerState, signatures: Sequence[Mapping[str, Any]]
) -> None:
    """Before the first of several fits: there are no checkpoints, or all are of these fits."""
    done = True
    for number, signature in enumerate(signatures, start=learner.fits_done):
        used = [series for series in _series(config, number) if series.files()]
        if used and not config.resume:
            raise TrainingError(
                f"{used[0].folder} holds checkpoints of an earlier run. To go on from them give "
                "resume=True (--resume); to begin again, a different checkpoint_dir, or delete "
                "this one."
            )
        if used and not done:
            raise CheckpointError(
                f"{used[0].folder} is of a different run: the fit before it is not done here. "
                "Delete that folder, or give a different checkpoint_dir."
            )
        newest = [next(series.readable()) for series in used]
        for saved in newest:
            _check_same(signature, saved)
        done = any(saved.state["fit"]["done"] for saved in newest)


def _series(config: CheckpointConfig, number: int) -> list[Series]:
    return [Series(config.folder / f"fit-{number:03d}{kind}") for kind in ("", "-head")]


class Checkpointer:
    """The callback that writes the checkpoints of one fit, and resumes from them.

    It is the last of the callbacks, so that a checkpoint includes the effects of all others. `kind`
    is a suffix of the folder, if one fit can run in two ways.
    """

    def __init__(
        self,
        config: CheckpointConfig,
        learner: LearnerState,
        signature: Mapping[str, Any],
        kind: str = "",
    ) -> None:
        self.config = config
        self.number = learner.fits_done
        self.signature = signature
        self.series = Series(config.folder / f"fit-{self.number:03d}{kind}")
        self.first_epoch = learner.epochs_done
        self._start_rates = list(learner.layer_groups.rates)
        self._is_new = False
        self._base: Path | None = None  # before the first surgery of this fit
        self._structure = ""
        with learner.processes.failing_together():
            self._found = self._find(learner)
            found = "" if self._found is None else self._found.path.name
            learner.processes.barrier("the start of a fit", {"checkpoint": found})
        if self._found is not None:
            self.first_epoch = int(self._found.state["fit"]["first_epoch"])

    def before_fit(self, run: FitContext) -> None:
        if self._found is None:
            self._is_new = True
            self._write(run)
        else:
            self._go_on(run, self._found)

    def after_step(self, run: FitContext) -> None:
        if self.config.every is not None and run.step % self.config.every == 0:
            self._write(run)

    def after_epoch(self, run: FitContext) -> None:
        self._write(run, epoch_done=True)

    def after_fit(self, run: FitContext) -> None:
        self._write(run, done=True)

    def after_all(self, run: FitContext) -> None:
        if self._is_new and not run.begun and run.processes.is_main:
            self.series.prune(())  # the fit was refused, and may be called again, corrected

    def _write(self, run: FitContext, *, epoch_done: bool = False, done: bool = False) -> None:
        with run.processes.failing_together():
            run.processes.barrier("a checkpoint")
            tensors, state = state_of(run.learner)
            callback_states = {name: callback.state_dict() for name, callback in _stateful(run)}
            callback_tensors, callbacks = split_tensors(callback_states, "callbacks")
            epoch_tensors, epoch_start = split_tensors(run.epoch_start, "epoch")
            state["fit"] = {
                **self.signature,
                **position_of(run, epoch_done=epoch_done),
                "steps": run.steps,
                "done": done,
                "first_epoch": self.first_epoch,
                "start_rates": self._start_rates,
                "epoch_start": epoch_start,
                "callbacks": callbacks,
                "kinds of callbacks": _kinds(run),
            }
            tensors |= callback_tensors | epoch_tensors
            run.processes.write("a checkpoint", lambda: self._store(run.step, tensors, state))

    def _store(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        # A resumed script has the model as it was before callbacks changed it. So the last
        # checkpoint before the first change stays, for such a script to go on from.
        if self._base is None and self._structure not in ("", state["structure"]):
            self._base = next(iter(self.series.files()), None)
        self._structure = state["structure"]
        state["fit"]["base"] = None if self._base is None else self._base.name
        written = self.series.write(step, tensors, state)
        newest = self.series.files()[: 1 if state["fit"]["done"] else _KEPT]
        self.series.prune({written, *newest, *([self._base] if self._base else [])})

    def finished(self, learner: LearnerState, callbacks: Sequence[Any] = ()) -> History | None:
        """If this fit was finished before: restore the learner at its end, and return the rows.

        These callbacks, each of a different class, get the state that they had then.
        """
        saved = self._found
        if saved is None or not saved.state["fit"]["done"]:
            return None
        states = join_tensors(saved.state["fit"]["callbacks"], saved.tensors)
        for callback in callbacks:
            callback.load_state_dict(states[f"0-{type(callback).__name__}"])
        restore(learner, saved.tensors, saved.state, strict=True, source=str(saved.path))
        learner.model.eval()  # as a fit leaves it
        _log.warning("Fit %d was done before; its end is loaded from %s.", self.number, saved.path)
        return learner.history[len(learner.history) - saved.state["fit"]["rows"] :]

    def _go_on(self, run: FitContext, saved: Saved) -> None:
        fit = saved.state["fit"]
        _check_same({"steps": run.steps}, saved)
        kinds = fit.get("kinds of callbacks")  # earlier versions did not save it
        if kinds not in (None, now := _kinds(run)):
            _log.warning(
                "Resuming with other callbacks than in %s: they were %s, now they are %s.",
                saved.path.name, kinds, now,
            )  # fmt: skip
        states = join_tensors(fit["callbacks"], saved.tensors)
        restored = []
        for name, callback in _stateful(run):
            if name in states:
                restored.append((callback, states[name], callback.state_dict()))
            elif name != _FEATURES:  # earlier versions did not save it
                _log.warning(
                    "%s has no state of %s, which starts from the beginning.", saved.path.name, name
                )
        try:
            for callback, state, _ in restored:
                callback.load_state_dict(state)
            restore(run.learner, saved.tensors, saved.state, strict=True, source=str(saved.path))
        except BaseException:
            for callback, _, before in restored:
                callback.load_state_dict(before)
            raise
        run.begun = True
        for callback, state, _ in restored:  # again: it may refer to the values of the weights
            callback.load_state_dict(state)
        restore_position(run, fit, join_tensors(fit["epoch_start"], saved.tensors))
        self._base = None if fit["base"] is None else self.series.folder / str(fit["base"])
        self._structure = str(saved.state["structure"])
        _log.warning(
            "Resuming from %s: epoch %d of %d, step %d of %d.",
            saved.path, run.epoch, run.epochs, run.step, run.steps,
        )  # fmt: skip

    def _find(self, learner: LearnerState) -> Saved | None:
        saved = _newest_that_fits(self.series, learner) if self.config.resume else None
        if saved is not None:
            _check_same(self.signature, saved)
            self._check_rates(saved)
            self._check_history(saved, learner.history)
        return saved

    def _check_rates(self, saved: Saved) -> None:
        # A learner whose fit was interrupted may have rates that its callbacks have changed.
        known = (saved.state["fit"]["start_rates"], saved.state["groups"].get("rates"))
        if len(known[0]) != len(self._start_rates):
            return  # other layer groups, which are refused with their names
        if self._start_rates not in map(list, filter(None, known)):
            raise CheckpointError(
                f"{saved.path} is of a different fit: it began at the rates {known[0]}, now they "
                f"are {self._start_rates}. Give the rates as before, or a different checkpoint_dir."
            )

    def _check_history(self, saved: Saved, now: History) -> None:
        """The fit before, if it was saved in the same folder, ended as it did for this one."""
        before = History.from_dict(saved.state["history"])
        before = before[: len(before) - saved.state["fit"]["rows"]]
        if not any(series.files() for series in _series(self.config, self.number - 1)):
            return  # it was not saved, and trains again in each run
        ended, ends = ([(row.epoch, str(row.train_loss)) for row in rows] for rows in (before, now))
        if ends[: len(ended)] != ended:
            raise CheckpointError(
                f"{saved.path} is of a different run: the fit before it ended with other losses "
                "than here. Delete its folder, or give a different checkpoint_dir."
            )


def _check_same(signature: Mapping[str, Any], saved: Saved) -> None:
    fit = saved.state["fit"]  # earlier versions saved fewer names
    different = [name for name, value in signature.items() if fit.get(name, value) != value]
    if not different:
        return
    shown = [f"{n} {fit[n]!r}, now {signature[n]!r}" for n in different if n != _CONTENTS]
    raise CheckpointError(
        f"{saved.path} is of a different fit: {'; '.join(shown) or f'{_CONTENTS} differ'}. Call "
        "the fits of this run as before, or give a different checkpoint_dir; to train for more "
        "epochs, call fit again afterwards."
    )


def _newest_that_fits(series: Series, learner: LearnerState) -> Saved | None:
    """The newest valid checkpoint that fits this model."""
    # If callbacks changed the model in the fit, only an older checkpoint, from before the change,
    # fits; the callbacks then repeat it.
    reason: CheckpointError | None = None
    for saved in series.readable():
        try:
            check_resumable(learner, saved)
        except CheckpointError as misfit:
            reason = reason or misfit
            continue
        if reason is not None:
            _log.warning("The model changed in this fit; resuming from before: %s", saved.path)
        return saved
    if reason is not None:
        raise reason
    return None


def _kinds(run: FitContext) -> list[str]:
    """The classes of the callbacks of a fit."""
    return [type(each).__name__ for each in run.callbacks if not isinstance(each, Checkpointer)]


def _stateful(run: FitContext) -> list[tuple[str, Any]]:
    """Everything with a state, named by its class and its position within that class."""
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
