"""The first phase of `fine_tune`: many passes of the head over cached outputs of the frozen body.

The outputs come from the learner's feature cache, as in every fit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from layergroups.data import weighted_order
from layergroups.errors import TrainingError
from layergroups.training.feature_cache import (
    UNVARIED,
    Boundary,
    CachedBatches,
    CachedEpochs,
    CacheEntry,
    FeatureBuffer,
    batch_size,
    probe,
    why_not,
)
from layergroups.training.loop import FitContext, check_batch_count, fit
from layergroups.training.optim import Repeated
from layergroups.training.recipes._held_out import MORE_RATE, MORE_STEPS, LearnHeldOut
from layergroups.training.recipes._phases import FineTuneDefaults, FitSetup, Phase, fit_phase

if TYPE_CHECKING:
    from layergroups.data import Batches
    from layergroups.training.state import History, LearnerState

_log = logging.getLogger("layergroups")
_VIEWS_FROM: Final = 1 << 20  # first epoch number of the views; ordinary epochs stay below


def train_head(
    learner: LearnerState, phase: Phase, setup: FitSetup, also: Sequence[Boundary] = ()
) -> History:
    """Run the frozen layers over some views of the items, then train the rest on their outputs.

    If a later phase is to be judged by held-out items, the head trains without them first, then on
    with all. The history gets one row. If this is not possible, a warning gives the reason, and the
    phase trains as `fit` does. Values at the boundaries `also` of later phases are cached in the
    same passes.
    """
    last = setup.checkpointer(learner, phase, kind="-head")
    later = [LearnHeldOut(setup.held_out)] if setup.held_out.items else []
    if last and (done := last[0].finished(learner, later)) is not None:
        return done
    decay = HeadDecay(setup.figures.head_decay)
    callbacks = [decay, *later, *setup.callbacks, *learner.callbacks, *last]
    run = setup.context(learner, phase, 1, callbacks)
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
    views = epochs_counted * figures.views if data.augmented and figures.augmented else 1
    epochs = [_VIEWS_FROM + first * views + n for n in range(views)]
    if (views > 1 or not figures.augmented) and data.views(None) is not None:
        epochs[0] = UNVARIED
    entry = fill_cache(run, setup, epochs, also)
    if entry.train is None:
        return entry.reason
    size = batch_size(run) * run.accumulate
    run.accumulate = 1  # cached values are small, so the batches of a step become one batch
    seed, weights = run.learner.epoch_seed(first), data.sampling_weights
    held_out = setup.held_out.items
    batches = [Passes.of(entry.train, held_out, views, size, figures, seed, weights)]
    if held_out:
        with_all = Passes.of(entry.train, (), views, size, figures, seed, weights)
        batches.append(replace(with_all, passes=math.ceil(MORE_STEPS * with_all.passes)))
        share = len(batches[0]) / sum(map(len, batches))
        run.schedule = Repeated(run.schedule, share, MORE_RATE)
    for callback in run.callbacks:
        if isinstance(callback, LearnHeldOut):
            callback.steps = len(batches[0])
    train = Trainings(tuple(batches))
    run.features = HeadFeatures(setup, run.groups.inactive, entry, train, epochs_counted)
    run.batches = train
    run.seconds_before = time.perf_counter() - started
    return ""


def fill_cache(
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

    @classmethod
    def of(
        cls,
        buffer: FeatureBuffer,
        left_out: Sequence[int],
        views: int,
        batch_size: int,
        figures: FineTuneDefaults,
        seed: int,
        weights: Tensor | None,
    ) -> Passes:
        """As many passes over all items but `left_out` as the figures ask for."""
        used = torch.ones(buffer.items, dtype=torch.bool)
        used[list(left_out)] = False
        items = used.nonzero().flatten()
        one = cls(buffer, items, views, batch_size, 1, seed)
        passes = max(figures.head_passes, math.ceil(figures.head_steps / one.per_pass))
        return replace(one, passes=passes, weights=None if weights is None else weights[items])

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


@dataclass(frozen=True)
class Trainings(CachedBatches):
    """The passes of one training after those of the other."""

    parts: tuple[Passes, ...]

    @property
    def buffer(self) -> FeatureBuffer:  # type: ignore[override] # read-only
        return self.parts[-1].buffer

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        return chain.from_iterable(part.rows() for part in self.parts)


class HeadDecay:
    """A callback that multiplies the weight decay of AdamW while the head trains alone.

    Many steps on few items overfit otherwise. Other optimizers, whose weight decay acts through the
    gradients, keep theirs.
    """

    def __init__(self, factor: float) -> None:
        self.factor = factor
        self._own: list[tuple[dict[str, Any], float]] = []  # during a step

    def before_step(self, run: FitContext) -> None:
        if isinstance(run.optimizer, torch.optim.AdamW):
            for group in run.optimizer.param_groups:
                self._own.append((group, group["weight_decay"]))
                group["weight_decay"] *= self.factor

    def after_step(self, run: FitContext) -> None:
        for group, decay in self._own:
            group["weight_decay"] = decay
        self._own.clear()

    def after_all(self, run: FitContext) -> None:
        self.after_step(run)  # of a step that failed


class FeaturesOutdatedError(TrainingError):
    """The model was changed while its head trained on cached outputs."""

    def __init__(self) -> None:
        super().__init__("the model was changed while its head trained on cached outputs")


class HeadFeatures(CachedEpochs):
    """The `FeatureSource` of this phase, which cannot run without the cache."""

    required = True

    def __init__(
        self, setup: FitSetup, boundary: Boundary, entry: CacheEntry, rows: Trainings, counted: int
    ) -> None:
        super().__init__(setup.cache, setup.cache_config)
        self.filled, self.boundary = entry, boundary
        self.rows, self.epochs_counted = rows, counted

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
        last = self.rows.parts[-1]
        return last.per_pass / last.views
