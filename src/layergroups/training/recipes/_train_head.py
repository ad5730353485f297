"""The first phase of `fine_tune`: many passes of the head over cached outputs of the frozen body.

This file decides which items are held out, how many passes there are, and which head is the best.
The outputs come from the learner's feature cache, as in every fit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from layergroups.data import weighted_order
from layergroups.errors import TrainingError
from layergroups.tasks import Meter, stratified_split
from layergroups.training.feature_cache import (
    Boundary,
    CachedBatches,
    CachedEpochs,
    CacheEntry,
    FeatureBuffer,
    batch_size,
    probe,
    why_not,
)
from layergroups.training.loop import FitContext, check_batch_count, evaluate, fit
from layergroups.training.recipes._phases import FitSetup, Phase, fit_phase

if TYPE_CHECKING:
    from layergroups.data import Batches
    from layergroups.training.state import History, LearnerState

_log = logging.getLogger("layergroups")
_VIEWS_FROM: Final = 1 << 20  # first epoch number of the views; ordinary epochs stay below
_MIN_HELD_OUT: Final = 16


def train_head(
    learner: LearnerState, phase: Phase, setup: FitSetup, also: Sequence[Boundary] = ()
) -> History:
    """Run the frozen layers over some views of the items, then train the rest on their outputs.

    The head with the best loss on a stratified, held-out part of the training items is used; the
    validation items have no influence. The history gets one row. If this is not possible, a warning
    gives the reason, and the phase trains as `fit` does.
    Values at the boundaries `also` of later phases are cached in the same passes.
    """
    last = setup.checkpointer(learner, phase, kind="-head")
    if last and (done := last[0].finished(learner)) is not None:
        return done
    callbacks = [*setup.callbacks, *learner.callbacks, *last]
    run = FitContext(learner, 1, phase.schedule, phase.name, callbacks)
    first_epoch = last[0].first_epoch if last else learner.epochs_done
    outdated = False
    with run.processes.failing_together():
        reason = _prepare(run, phase.epochs, setup, first_epoch, also)
    if not reason:
        try:
            return fit(run)
        except FeaturesOutdatedError as cause:  # detected during a forward pass
            reason, outdated = str(cause), True
    _log.warning("The head trains through the whole network, because %s.", reason)
    return fit_phase(learner, replace(phase, stored=phase.stored and outdated), setup)


def _prepare(
    run: FitContext, epochs_counted: int, setup: FitSetup, first: int, also: Sequence[Boundary]
) -> str:
    """Fill the cache and set up the run to train from it; returns the reason if that fails."""
    started, figures, data = time.perf_counter(), setup.figures, run.learner.data
    setup.cache.forget_work()
    run.replicas.broadcast_weights(run.model, "the start of the head's training")
    reason = why_not(run)
    if reason:
        return reason
    check_batch_count(run.train)
    views = epochs_counted * figures.views if data.augmented else 1
    epochs = [_VIEWS_FROM + first * views + n for n in range(views)]
    entry = _filled(run, setup, epochs, also)
    if entry.train is None:
        return entry.reason
    size = batch_size(run) * run.accumulate
    run.accumulate = 1  # cached values are small, so the batches of a step become one batch
    items, held_out = _split(entry.train.targets, figures.hold_out)
    seed, weights = run.learner.epoch_seed(first), data.sampling_weights
    weights = None if weights is None else weights[items]
    train = Passes(entry.train, items, views, size, figures.head_passes, seed, weights)
    if len(held_out):
        held = Passes(entry.train, held_out, views, size)
        run.callbacks = (KeepBest(held, train.per_pass, figures.patience), *run.callbacks)
    run.features = HeadFeatures(setup, run.groups.inactive, entry, train, epochs_counted)
    run.batches = train
    run.seconds_before = time.perf_counter() - started
    return ""


def _filled(
    run: FitContext, setup: FitSetup, epochs: Sequence[int], also: Sequence[Boundary]
) -> CacheEntry:
    """Cache these views at the boundary of the head, and if there is space at those of `also`."""
    cache, config, limit = setup.cache, setup.cache_config, setup.figures.max_bytes
    if limit is not None:
        config = replace(config, memory=min(config.memory, limit), disk=min(config.disk, limit))
    cache.keep_only([])
    items = probe(run)
    entry, *others = (cache.entry_for(run, b, lambda: items) for b in (run.groups.inactive, *also))
    wanted = [entry]
    if not entry.reason and cache.reserve(run, entry, len(epochs), config):
        later = max(len(epochs), config.views if run.learner.data.augmented else 1)
        wanted += [e for e in others if not e.reason and cache.reserve(run, e, later, config)]
        for each in wanted:
            each.fused = True
        cache.fill(run, wanted, epochs)
    cache.keep_only([b for b, known in cache.entries.items() if known in wanted])
    return entry


def _split(targets: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """Positions of the items to train on, and of the held-out ones (none if there are few)."""
    classes = targets.ndim == 1 and not targets.is_floating_point()
    labels = targets.tolist() if classes else [0] * len(targets)
    trained, held_out = stratified_split(labels, part, seed=0)
    if len(held_out) >= _MIN_HELD_OUT:
        return torch.tensor(trained), torch.tensor(held_out)
    return torch.arange(len(targets)), torch.arange(0)


@dataclass(frozen=True)
class Passes(CachedBatches):
    """Passes over rows of a buffer; each pass has every one of `items` in every view once.

    With a seed the order is drawn for each pass, by the weights if given, and an incomplete last
    batch is dropped.
    """

    buffer: FeatureBuffer
    items: Tensor
    views: int
    batch_size: int
    passes: int = 1
    seed: int | None = None
    weights: Tensor | None = None

    @property
    def per_pass(self) -> int:
        full, rest = divmod(len(self.items) * self.views, self.batch_size)
        return full + (rest > (self.seed is not None and full > 0))

    def __len__(self) -> int:
        return self.passes * self.per_pass

    def rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator()
        if self.seed is not None:
            generator.manual_seed(self.seed)
        count = len(self.items)
        for _ in range(self.passes):
            order = torch.arange(count * self.views)
            if self.weights is not None:
                drawn = int(torch.randint(1 << 31, (), generator=generator))
                order = weighted_order(self.weights.repeat(self.views), None, drawn)
            elif self.seed is not None:
                order = torch.randperm(len(order), generator=generator)
            for chosen in order.split(self.batch_size)[: self.per_pass]:
                yield chosen // count, self.items[chosen % count]


class FeaturesOutdatedError(TrainingError):
    """The model was changed while its head trained on cached outputs."""

    def __init__(self) -> None:
        super().__init__("the model was changed while its head trained on cached outputs")


class HeadFeatures(CachedEpochs):
    """The `FeatureSource` of this phase, which cannot run without the cache."""

    required = True

    def __init__(
        self, setup: FitSetup, boundary: Boundary, entry: CacheEntry, passes: Passes, counted: int
    ) -> None:
        super().__init__(setup.cache, setup.cache_config)
        self.filled, self.boundary = entry, boundary
        self.rows, self.epochs_counted = passes, counted

    def batches_for_epoch(self, run: FitContext) -> Batches | None:
        known = self.cache.entries.get(self.boundary)
        if run.groups.inactive != self.boundary or known is not self.filled:
            raise FeaturesOutdatedError
        entry = self.cache.entry_for(run, self.boundary, lambda: probe(run))
        if entry is not self.filled or entry.reason:
            raise FeaturesOutdatedError
        self.begin(run, entry)
        return self.rows

    def fall_back(self, run: FitContext) -> Any:
        raise FeaturesOutdatedError

    def batches_per_pass(self, run: FitContext) -> float:
        return self.rows.per_pass / self.rows.views


class KeepBest:
    """A callback that restores the weights with the best held-out loss at the end."""

    def __init__(self, held_out: Passes, per_pass: int, patience: int) -> None:
        self.held_out, self.per_pass, self.patience = held_out, per_pass, patience
        self.best_loss, self.best_pass = math.inf, 0
        self._weights: dict[str, Tensor] = {}

    def after_step(self, run: FitContext) -> None:
        if run.step % self.per_pass:
            return
        done = run.step // self.per_pass
        loss = self._loss(run)
        if loss < self.best_loss:
            self.best_loss, self.best_pass = loss, done
            self._weights = {name: t.detach().clone() for name, t in _moving(run).items()}
        early = done - self.best_pass >= self.patience
        if early or run.step == run.steps:
            with torch.no_grad():
                for name, tensor in _moving(run).items() if self._weights else ():
                    tensor.copy_(self._weights[name])
            run.stop = f"best of {done} passes of the head: {self.best_pass}"

    def state_dict(self) -> dict[str, Any]:
        found = {"loss": self.best_loss, "pass": self.best_pass} if self._weights else {}
        return {"best": found, "weights": dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._weights = dict(state["weights"])
        if state["best"]:
            self.best_loss, self.best_pass = state["best"]["loss"], state["best"]["pass"]

    def _loss(self, run: FitContext) -> float:
        loss_only = Meter((), 0, run.learner.task)
        found = evaluate(run.learner, self.held_out, meter=loss_only, forward=run.forward)
        return found["valid_loss"]


def _moving(run: FitContext) -> dict[str, Tensor]:
    inactive = {
        m for module in run.groups.inactive_modules(run.groups.inactive) for m in module.modules()
    }
    moving: dict[str, Tensor] = {n: p for n, p in run.model.named_parameters() if p.requires_grad}
    for path, module in run.model.named_modules():
        if module not in inactive:
            moving |= module.named_buffers(prefix=path, recurse=False)
    return moving
