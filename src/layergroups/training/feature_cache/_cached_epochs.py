"""Epochs of a fit on cached outputs of frozen layers.

The frozen layers run once over all items in each augmented view, one view in each of the first
epochs; every epoch trains the rest of the model on the cached outputs. Any change (surgery,
unfreezing, different weights or data) drops them, and training goes on through the whole network.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from layergroups._forward import labelled
from layergroups._random import mixed
from layergroups._torch import is_compiled, version
from layergroups.data import (
    Batches,
    SeekableBatches,
    Shard,
    can_start_later,
    check_of,
    shard_positions,
    shards_of,
    starting_at,
    texts_of,
)
from layergroups.training.feature_cache._feature_buffer import FeatureBuffer, FeatureCacheConfig
from layergroups.training.feature_cache._feature_cache import (
    UNVARIED,
    Boundary,
    CacheEntry,
    FeatureCache,
)
from layergroups.training.feature_cache._feature_cut import few_items, run_rest
from layergroups.training.hardware import to_device
from layergroups.training.loop import FitContext
from layergroups.training.state import evaluating

_log = logging.getLogger("layergroups")
_PASS_OFFSET = 1 << 24  # between the epoch numbers that seed the orders of further passes


class CachedInputs(tuple[Tensor, ...]):
    """Cached values, one tensor (N, ...) each, as the inputs of a batch."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"run.inputs.{name}: in this epoch run.inputs are cached outputs of the frozen layers, "
            "not images. A callback that needs the images needs fit(..., feature_cache=False)."
        )


class CachedEpochs:
    """The `FeatureSource` of a fit: uses the cache in all epochs in which that is possible.

    Each cached epoch is `passes` over all training items, each in different views; with `plain`
    all see the items without augmentation.
    """

    required = False
    epochs_counted = 1

    def __init__(
        self,
        cache: FeatureCache,
        config: FeatureCacheConfig,
        passes: int = 1,
        *,
        plain: bool = False,
    ) -> None:
        self.cache, self.plain = cache, plain
        self.config = config
        self.passes = passes
        self.min_items = 1  # that a process can train on
        self._entry: CacheEntry | None = None  # from which the epoch trains
        self._state: object = None  # of the model when the epoch began
        self._warned = ""
        self._skip = False

    def batches_for_epoch(self, run: FitContext) -> Batches | None:
        skip, self._skip, self._entry = self._skip, False, None
        if run.batch == 0:  # else the counts of the epoch were restored
            self.cache.forget_work()
        if skip:
            return None
        boundary = run.groups.inactive
        self.cache.keep_only([boundary] if boundary else [])
        reason = boundary and (why_not(run) or self._fill(run, boundary))
        if reason and reason != self._warned:
            # Of texts only vectors of whole texts are cached: tokens differ in number.
            level = logging.INFO if texts_of(run.learner.data.train) else logging.WARNING
            _log.log(level, "The frozen layers run in every epoch, because %s.", reason)
        self._warned = reason or ""
        return self._batches(run)

    def _batches(self, run: FitContext) -> Batches | None:
        if self._entry is None or self._entry.train is None:
            return None
        epoch = run.learner.epochs_done
        return _EpochBatches(self._entry.train, self, run, self._entry.views, epoch, self.passes)

    def skip_epoch(self) -> None:
        self._skip = True

    def owns(self, inputs: object) -> bool:
        return isinstance(inputs, CachedInputs)

    def forward(self, run: FitContext, inputs: CachedInputs) -> Any:
        """Run the rest of the model on cached values, or the whole model if they are outdated."""
        entry = self._entry
        if entry is None or entry.cut is None or not self.is_valid(run):
            return self.fall_back(run)
        return run_rest(run.model, entry.cut, inputs)

    def fall_back(self, run: FitContext) -> Any:
        """Run the whole network for this batch, and for the rest of the epoch."""
        self._entry, run.batches = None, run.train
        _log.warning("A frozen layer changed: this epoch continues through the whole network.")
        shard = next(data_shards(run, (run.batch - 1) % len(run.train), self.min_items))
        run.inputs, _ = labelled(to_device(shard.batch, run.accelerator.device))
        return run.forward(run.inputs)

    def validation(self, run: FitContext) -> Iterable[Any] | None:
        valid = None if self._entry is None else self._entry.valid
        return InOrder(valid, batch_size(run)) if valid is not None and self.is_valid(run) else None

    def resources(self, run: FitContext) -> dict[str, float]:
        return {
            "passes": round(run.batch / self.batches_per_pass(run), 3),
            "body_passes": float(self.cache.body_passes),
            "store_seconds": self.cache.seconds,
        }

    def state_dict(self) -> dict[str, Any]:
        # The cost of this epoch so far, so that a resumed run reports the same numbers.
        return {"body_passes": self.cache.body_passes, "seconds": self.cache.seconds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.cache.body_passes, self.cache.seconds = state["body_passes"], state["seconds"]

    def begin(self, run: FitContext, entry: CacheEntry) -> None:
        """Train from this entry until something that it depends on changes."""
        self._entry, self._state = entry, self._cheap_state(run, entry)

    def is_valid(self, run: FitContext) -> bool:
        """Whether the frozen layers would still compute the same values."""
        return self._entry is not None and self._state == self._cheap_state(run, self._entry)

    def _cheap_state(self, run: FitContext, entry: CacheEntry) -> object:
        # Compared in every step, so version counters (torch counts writes) instead of checksums.
        versions = sum(map(version, entry.tensors))
        groups = run.groups
        return id(run.model), groups.inactive, groups.norms_train, run.changes, versions

    def _fill(self, run: FitContext, boundary: Boundary) -> str:
        """Update the entry and train from it, if enough epochs remain; the reason if that fails."""
        entry = self.cache.entry_for(run, boundary, lambda: probe(run))
        if entry.reason:
            return entry.reason
        varied = run.learner.data.augmented and not self.plain
        wanted = self.config.views if varied else 1
        if not entry.views and run.epochs - run.epoch <= wanted:
            return ""
        lost = [] if entry.buffers else list(entry.views)
        epoch = UNVARIED if self.plain else run.learner.epochs_done
        is_new = epoch not in entry.views and len(entry.views) < wanted
        epochs = [*lost, *([epoch] if is_new else [])]
        space = max(wanted, len(lost))
        if entry.train is not None or self.cache.reserve(run, entry, space, self.config):
            self.cache.fill(run, [entry], epochs)
        if not entry.reason:
            self.begin(run, entry)
        return entry.reason

    def batches_per_pass(self, run: FitContext) -> float:
        return max(1, len(run.train))


class CachedBatches(ABC):
    """Batches from a buffer; subclasses define the rows of each batch."""

    buffer: FeatureBuffer

    @abstractmethod
    def rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Views and positions of the items of each batch."""

    def __iter__(self) -> Iterator[Any]:
        return (self.batch(*rows) for rows in self.rows())

    def shards(self, rank: int, world: int, min_items: int = 1) -> Iterator[Shard]:
        return (self.shard(*rows, rank, world, min_items) for rows in self.rows())

    def batch(self, views: Tensor, positions: Tensor) -> tuple[CachedInputs, Tensor]:
        values, targets = self.buffer.read(views, positions)
        return CachedInputs(values), targets

    def shard(
        self, views: Tensor, positions: Tensor, rank: int, world: int, min_items: int
    ) -> Shard:
        mine, counted = shard_positions(len(positions), rank, world, min_items)
        batch = self.batch(views[list(mine)], positions[list(mine)])
        check = check_of([views.tolist(), positions.tolist()])
        return Shard(batch, counted, len(positions), mine, check)


@dataclass(frozen=True)
class InOrder(CachedBatches):
    """All items of a buffer in their order, in its first view."""

    buffer: FeatureBuffer
    batch_size: int

    def rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        for positions in torch.arange(self.buffer.items).split(self.batch_size):
            yield torch.zeros_like(positions), positions


@dataclass(frozen=True)
class _EpochBatches(CachedBatches):
    """The cached batches of one epoch; once the cache is dropped, those of the data."""

    buffer: FeatureBuffer
    source: CachedEpochs
    run: FitContext
    views: list[int]
    epoch: int
    passes: int

    def __len__(self) -> int:
        return self.passes * len(self.run.train)

    def __iter__(self) -> Iterator[Any]:
        return self.starting_at(0)

    def starting_at(self, first: int) -> Iterator[Any]:
        for number, rows in islice(enumerate(self.rows()), first, None):
            if self.source._entry is None:
                later = data_shards(self.run, number % len(self.run.train))
                yield from (shard.batch for shard in later)
                return
            yield self.batch(*rows)

    def shards(self, rank: int, world: int, min_items: int = 1) -> Iterator[Shard]:
        self.source.min_items = min_items
        for number, rows in enumerate(self.rows()):
            if self.source._entry is None:
                yield from data_shards(self.run, number % len(self.run.train), min_items)
                return
            yield self.shard(*rows, rank, world, min_items)

    def rows(self) -> Iterator[tuple[Tensor, Tensor]]:
        """In the order of the data in this epoch; each pass shifts the views by one."""
        views, count = self._drawn_views(), len(self.views)
        for number in range(self.passes):
            shuffled = self.epoch + number * _PASS_OFFSET
            order: list[list[int]] = self.run.train.positions(shuffled)  # type: ignore[attr-defined] # see why_not
            for chosen in order:
                positions = torch.tensor(chosen)
                yield (views[positions] + number) % count, positions

    def _drawn_views(self) -> Tensor:
        """The view of each item: the one computed in this epoch, else a random one."""
        if self.epoch in self.views:
            return torch.full((self.buffer.items,), self.views.index(self.epoch))
        generator = torch.Generator().manual_seed(mixed(self.run.learner.epoch_seed(), "views"))
        return torch.randint(len(self.views), (self.buffer.items,), generator=generator)


def data_shards(run: FitContext, first: int, min_items: int = 1) -> Iterator[Shard]:
    """The training batches of the data in this epoch, from number `first` on."""
    run.train.set_epoch(run.learner.epochs_done)  # type: ignore[attr-defined] # see why_not
    if can_start_later(run.train) and not run.processes.is_distributed:
        return shards_of(starting_at(run.train, first), run.processes)
    return islice(shards_of(run.train, run.processes, min_items=min_items), first, None)


def why_not(run: FitContext) -> str:
    """Why nothing can be cached for these data and this learner; empty if it can."""
    if not isinstance(run.train, SeekableBatches):
        return f"{type(run.train).__name__} does not expose the order of its items"
    if run.learner.data.views(0) is None:
        return f"{type(run.learner.dls).__name__} has no views(epoch)"
    if run.groups.norms_train:
        return "frozen norm layers train"
    if run.replicas.sharded:
        return "FSDP2 gathers the weights only where a model runs as a whole"
    if any(is_compiled(m) for m in run.model.modules()):
        return "the model is compiled"
    return ""


def probe(run: FitContext) -> Any:
    """A few items as inputs of the model."""
    with evaluating(run.model):  # restores the random numbers that a DataLoader draws
        batch = next(iter(run.learner.data.views(0) or ()))  # there are views: see why_not
        inputs, _ = labelled(to_device(batch, run.accelerator.device))
    return few_items(inputs)


def batch_size(run: FitContext) -> int:
    """The batch size of the data; 64 if unknown."""
    return run.learner.data.batch_size or 64
