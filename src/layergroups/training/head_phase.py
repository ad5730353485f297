"""The frozen phase on stored features: the head trained to the end, for the price of few passes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layergroups.data.photos import stratified_split
from layergroups.errors import TrainingError
from layergroups.training import loop
from layergroups.training.autosave import Keeper, asked
from layergroups.training.evaluation import evaluate
from layergroups.training.features import (
    Stored,
    StoredBatches,
    TooLargeError,
    forward_rest,
    split_head,
    store,
)
from layergroups.training.metrics import Meter

if TYPE_CHECKING:
    from layergroups.training.autosave import Autosave
    from layergroups.training.history import History
    from layergroups.training.learner import Learner
    from layergroups.training.recipes import FineTuneDefaults, Phase

_log = logging.getLogger("layergroups")
_VIEWS_FROM = 1 << 20  # epoch numbers of the views, apart from those of ordinary epochs
_LEAST_HELD_OUT = 16


def train_head(
    learner: Learner, phase: Phase, defaults: FineTuneDefaults, plan: Autosave | None = None
) -> History:
    """Run the frozen body over some views of the photos, then train the head on its outputs.

    The best head is chosen by its loss on a stratified part of the training photos, which the head
    does not train on; the validation photos choose nothing. One row is added to the history.
    """
    keeper = None if plan is None else Keeper(plan, learner, kind="-head")
    done = keeper and keeper.finished(learner, asked(phase.name, 1, phase.schedule, learner))
    if done:
        return done
    run = loop.new_run(learner, 1, phase.schedule, phase.name, keeper)
    run.passes = phase.epochs
    first_epoch = learner.epochs_done if keeper is None else keeper.first_epoch
    try:
        with run.processes.together():
            run.replicas.align(run.model, "the start of the head's training")
            stored, valid = _store(run, first_epoch, defaults)
        _prepare(run, stored, valid, first_epoch, defaults)
        return loop.fit(run)
    except (TooLargeError, StoreOutdatedError) as reason:
        _log.warning("The head trains through the whole network, because %s.", reason)
        return learner.fit_phase(phase.epochs, phase.schedule, phase.name, plan)


class StoreOutdatedError(TrainingError):
    """The model was changed while its head trained on stored features."""


class KeepBest:
    """Keeps the head whose held-out loss is the best, and puts it back at the end.

    A callback of this phase alone.
    """

    def __init__(self, held_out: StoredBatches, per_pass: int, patience: int) -> None:
        self.held_out = held_out
        self.per_pass = per_pass
        self.patience = patience
        self.best_loss = math.inf
        self.best_pass = 0
        self._weights: dict[str, Tensor] = {}

    def after_step(self, run: loop.Run) -> None:
        """Look at the held-out loss after each pass."""
        if run.step % self.per_pass:
            return
        done = run.step // self.per_pass
        head = run.model.get_submodule("1")
        loss = self._loss(run)
        if loss < self.best_loss:
            self.best_loss, self.best_pass = loss, done
            self._weights = {name: t.clone() for name, t in head.state_dict().items()}
        early = done - self.best_pass >= self.patience
        if early or run.step == run.steps:
            if self._weights:
                head.load_state_dict(self._weights)
            run.stop = f"best of {done} passes of the head: {self.best_pass}"

    def state_dict(self) -> dict[str, Any]:
        """What it has found so far."""
        found = {"loss": self.best_loss, "pass": self.best_pass} if self._weights else {}
        return {"best": found, "weights": dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._weights = dict(state["weights"])
        if state["best"]:
            self.best_loss, self.best_pass = state["best"]["loss"], state["best"]["pass"]

    def _loss(self, run: loop.Run) -> float:
        results = evaluate(
            run.model,
            self.held_out,
            loss_func=run.learner.loss_func,
            meter=Meter((), 0),
            accelerator=run.accelerator,
            processes=run.processes,
            forward=run.forward,
        )
        return results["valid_loss"]


def _store(
    run: loop.Run, first_epoch: int, defaults: FineTuneDefaults
) -> tuple[Stored, Stored | None]:
    """The features of the training photos in all views, and of the validation photos."""
    started, learner = time.perf_counter(), run.learner
    varied = getattr(learner.dls, "augment", True) is not None
    views = run.passes * defaults.views if varied else 1
    train_views: Any = getattr(learner.dls, "train_views")  # noqa: B009 - not all data have it
    first_view = _VIEWS_FROM + first_epoch * views
    passes = [train_views(epoch=first_view + view) for view in range(views)]
    held = [] if run.valid is None or not len(run.valid) else [run.valid]
    total = sum(map(len, passes)) + sum(map(len, held))
    with learner.reporter.bar("features of the frozen body", total) as bar:
        options: dict[str, Any] = {
            "accelerator": run.accelerator,
            "max_bytes": defaults.max_bytes,
            "advance": bar.advance,
            "processes": run.processes,
        }
        stored = store(learner.model, passes, **options)
        run.body_passes, run.store_seconds = views, time.perf_counter() - started
        valid = store(learner.model, [held[0]], **options) if held else None
    run.seconds_before = time.perf_counter() - started
    return stored, valid


def _prepare(
    run: loop.Run,
    stored: Stored,
    valid: Stored | None,
    first_epoch: int,
    defaults: FineTuneDefaults,
) -> None:
    """Let the run train the head from the store."""
    size = int(getattr(run.learner.dls, "batch_size", 64)) * run.accumulate
    run.accumulate = 1  # stored features are small: several batches are one
    kept, held_out = _split(stored, defaults.hold_out)
    seed = run.learner.epoch_seed(first_epoch)
    train = StoredBatches(kept, size, defaults.head_passes, seed=seed)
    run.train = run.source = train
    run.per_pass = train.per_pass / len(kept.views)
    run.valid = None if valid is None else StoredBatches(valid, size)
    if held_out is not None:
        best = KeepBest(StoredBatches(held_out, size), train.per_pass, defaults.patience)
        run.callbacks = (best, *run.callbacks)
    first = split_head(run.model.get_submodule("1"))

    def head_alone(features: Tensor) -> Tensor:
        if run.changes:
            raise StoreOutdatedError("the model was changed while its head trained on features")
        return forward_rest(run.model.get_submodule("1"), first, features)

    run.part = head_alone


def _split(stored: Stored, part: float) -> tuple[Stored, Stored | None]:
    """Features to train on, and those of other photos to choose by; None where there are few."""
    if stored.targets.ndim != 1 or stored.targets.is_floating_point():
        return stored, None
    kept, held_out = stratified_split(stored.targets.tolist(), part, seed=0)
    if len(held_out) < _LEAST_HELD_OUT:
        return stored, None
    return stored.take(kept), stored.take(held_out)
