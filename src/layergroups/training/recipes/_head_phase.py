"""The first phase of `fine_tune`: the head trained to the end, for the price of few passes.

The recipe alone: which photos are held out, how many passes there are, and which head is the best.
What the frozen layers give comes from the learner's store, as in every fit.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layergroups.data import stratified_split, weighted_order
from layergroups.errors import TrainingError
from layergroups.tasks._metrics import Meter
from layergroups.training.callbacks import Checkpointer, asked
from layergroups.training.feature_cache import (
    CachedBatches,
    CachedEpochs,
    FeatureBuffer,
    FeatureCacheConfig,
    NoPassageError,
    TooLargeError,
    batch_size,
    fill_train,
    fill_valid,
    is_varied,
    why_not,
)
from layergroups.training.loop import FitContext, check_batch_count, evaluate, fit, new_fit_context
from layergroups.training.recipes._phases import FitSetup, Phase, fit_phase

if TYPE_CHECKING:
    from layergroups.data import Batches
    from layergroups.training.feature_cache import FeatureCache, Resting
    from layergroups.training.state import History, LearnerState


_log = logging.getLogger("layergroups")


_VIEWS_FROM = 1 << 20  # epoch numbers of the views, apart from those of ordinary epochs


_LEAST_HELD_OUT = 16


def train_head(
    learner: LearnerState, phase: Phase, setup: FitSetup, also: Sequence[Resting] = ()
) -> History:
    """Run the frozen layers over some views of the photos, then train the rest on their outputs.

    The best head is chosen by its loss on a stratified part of the training photos, which the head
    does not train on; the validation photos choose nothing. One row is added to the history.

    Args:
        learner: with its body frozen.
        phase: of the recipe.
        setup: of the fit; it has the figures of the recipe.
        also: boundaries of later phases, at which values are kept in the same passes.
    """
    plan = setup.checkpoints
    keeper = None if plan is None else Checkpointer(plan, learner, kind="-head")
    done = keeper and keeper.finished(learner, asked(phase.name, 1, phase.schedule, learner))
    if done:
        return done
    last = () if keeper is None else (keeper,)
    run = new_fit_context(learner, 1, phase.schedule, phase.name, setup.callbacks, last)
    first_epoch = learner.epochs_done if keeper is None else keeper.first_epoch
    try:
        with run.processes.together():
            _prepare(run, phase.epochs, setup, first_epoch, also)
        return fit(run)
    except (NoPassageError, TooLargeError, StoreOutdatedError) as reason:
        _log.warning("The head trains through the whole network, because %s.", reason)
        again = phase.stored and isinstance(reason, StoreOutdatedError)
        return fit_phase(learner, replace(phase, stored=again), setup)


class StoreOutdatedError(TrainingError):
    """The model was changed while its head trained on stored features."""


@dataclass(frozen=True)
class Passes(CachedBatches):
    """Passes over rows of a shelf, each through every item in every view once.

    Attributes:
        shelf: of the training items.
        items: positions of those that are meant, (N,).
        views: how many there are.
        batch_size: rows in a batch; with a seed a last batch of one row is left out.
        passes: how often to go through all.
        seed: of the order, drawn anew for each pass; None keeps the order of the items.
        weights: the part of a pass that each item is due, float64 (N,); None for all alike.
    """

    shelf: FeatureBuffer
    items: Tensor
    views: int
    batch_size: int
    passes: int = 1
    seed: int | None = None
    weights: Tensor | None = None

    @property
    def per_pass(self) -> int:
        """Batches in one pass."""
        full, rest = divmod(len(self.items) * self.views, self.batch_size)
        return full + (rest > (self.seed is not None and full > 0))

    def __len__(self) -> int:
        return self.passes * self.per_pass

    def plan(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Views and positions of the items of each batch."""
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


class HeadFromStore(CachedEpochs):
    """The batches of this phase.

    Args:
        store: of the learner.
        options: bounds.
        boundary: below the head.
        passes: over what is kept there.
    """

    required = True

    def __init__(
        self, store: FeatureCache, options: FeatureCacheConfig, boundary: Resting, passes: Passes
    ) -> None:
        super().__init__(store, options)
        self.boundary = boundary
        self.rows = passes

    def begin_epoch(self, run: FitContext) -> None:
        """Train on what was filled before the fit, if it is still true."""
        known = self.store.kept.get(self.boundary)
        resting = run.groups.resting
        if resting != self.boundary or known is None or self.look(run, resting) is not known:
            raise StoreOutdatedError(_OUTDATED)
        self._turn_on(run, self.boundary)

    def per_pass(self, run: FitContext) -> float:
        """Batches in which all items come once, in one view."""
        return self.rows.per_pass / self.rows.views

    def without(self, run: FitContext) -> Any:
        """There is no such phase without the store.

        Raises:
            StoreOutdatedError: always.
        """
        raise StoreOutdatedError(_OUTDATED)

    def _source(self, run: FitContext) -> Batches:
        return self.rows


_OUTDATED = "the model was changed while its head trained on stored outputs"


class KeepBest:
    """Keeps the weights whose held-out loss is the best, and puts them back at the end.

    A callback of this phase alone.
    """

    def __init__(self, held_out: Passes, per_pass: int, patience: int) -> None:
        self.held_out = held_out
        self.per_pass = per_pass
        self.patience = patience
        self.best_loss = math.inf
        self.best_pass = 0
        self._weights: dict[str, Tensor] = {}

    def after_step(self, run: FitContext) -> None:
        """Look at the held-out loss after each pass."""
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
        """What it has found so far."""
        found = {"loss": self.best_loss, "pass": self.best_pass} if self._weights else {}
        return {"best": found, "weights": dict(self._weights)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self._weights = dict(state["weights"])
        if state["best"]:
            self.best_loss, self.best_pass = state["best"]["loss"], state["best"]["pass"]

    def _loss(self, run: FitContext) -> float:
        results = evaluate(
            run.model,
            self.held_out,
            loss_func=run.learner.loss_func,
            task=run.learner.task,
            meter=Meter((), 0),
            accelerator=run.accelerator,
            processes=run.processes,
            forward=run.forward,
        )
        return results["valid_loss"]


def _moving(run: FitContext) -> dict[str, Tensor]:
    """What of the model may move in this phase: what trains, and buffers of what does not rest."""
    still = {
        m for module in run.groups.resting_modules(run.groups.resting) for m in module.modules()
    }
    moving: dict[str, Tensor] = {n: p for n, p in run.model.named_parameters() if p.requires_grad}
    for path, module in run.model.named_modules():
        if module not in still:
            moving |= module.named_buffers(prefix=path, recurse=False)
    return moving


def _prepare(
    run: FitContext,
    epochs_counted: int,
    setup: FitSetup,
    first_epoch: int,
    also: Sequence[Resting],
) -> None:
    """Fill the store, and let the run train the head from it.

    Raises:
        NoPassageError: the rest of the model cannot run from stored values.
        TooLargeError: there is no room for them.
    """
    started, defaults = time.perf_counter(), setup.figures
    setup.cache.forget_work()
    run.replicas.align(run.model, "the start of the head's training")
    reason = why_not(run)
    if reason:
        raise NoPassageError(reason)
    check_batch_count(run.train)
    size = batch_size(run) * run.accumulate
    run.accumulate = 1  # stored values are small: several batches are one
    views = epochs_counted * defaults.views if is_varied(run) else 1
    epochs = [_VIEWS_FROM + first_epoch * views + n for n in range(views)]
    shelf = _fill(run, setup, epochs, also)
    kept, held_out = _split(shelf.targets, defaults.hold_out)
    seed = run.learner.epoch_seed(first_epoch)
    weights = run.learner.data.sampling_weights
    due = None if weights is None else weights[kept]
    train = Passes(shelf, kept, views, size, defaults.head_passes, seed, due)
    if len(held_out):
        best = KeepBest(Passes(shelf, held_out, views, size), train.per_pass, defaults.patience)
        run.callbacks = (best, *run.callbacks)
    store, options = setup.cache, setup.cache_config
    run.features = HeadFromStore(store, options, run.groups.resting, train)
    run.features.epochs_counted = epochs_counted
    run.batches = train
    run.seconds_before = time.perf_counter() - started


def _fill(
    run: FitContext, setup: FitSetup, epochs: Sequence[int], also: Sequence[Resting]
) -> FeatureBuffer:
    """Keep these views of the training items, and the validation items.

    They are kept below the head, and where there is room also at other boundaries.
    """
    store, options, boundary = setup.cache, setup.cache_config, run.groups.resting
    defaults = setup.figures
    if defaults.max_bytes is not None:
        memory = min(options.memory, defaults.max_bytes)
        options = replace(options, memory=memory, disk=min(options.disk, defaults.max_bytes))
    store.keep_only([])
    looks = CachedEpochs(store, options)
    kept = looks.look(run, boundary)
    kept.room, kept.folded = len(epochs), True
    others = [other for other in also if looks.sees(run, other)]
    for other in others:
        store.kept[other].folded = True
        store.kept[other].room = max(len(epochs), options.views if is_varied(run) else 1)
    try:
        _fill_all(run, store, options, [boundary, *others], epochs)
    except TooLargeError:
        if not others:
            raise
        store.keep_only([boundary])
        _fill_all(run, store, options, [boundary], epochs)
    assert kept.train is not None
    return kept.train


def _fill_all(
    run: FitContext,
    store: FeatureCache,
    options: FeatureCacheConfig,
    boundaries: Sequence[Resting],
    epochs: Sequence[int],
) -> None:
    """Fill what is not there yet."""
    for epoch in epochs:
        if epoch not in store.kept[boundaries[0]].views:
            fill_train(run, store, options, boundaries, epoch=epoch)
    fill_valid(run, store, options, boundaries)


def _split(targets: Tensor, part: float) -> tuple[Tensor, Tensor]:
    """Positions of items to train on, and of others to choose by; none where there are few."""
    classes = targets.ndim == 1 and not targets.is_floating_point()
    labels = targets.tolist() if classes else [0] * len(targets)
    kept, held_out = stratified_split(labels, part, seed=0)
    if len(held_out) >= _LEAST_HELD_OUT:
        return torch.tensor(kept), torch.tensor(held_out)
    return torch.arange(len(targets)), torch.arange(0)
