"""Epochs of a frozen phase from stored outputs of the frozen layers.

While groups are frozen, what they give for an item is a constant. So the frozen layers run over all
items once, in as many augmented views as are asked for, one in each of the first epochs; every
epoch trains the rest of the model on what was kept. Surgery, thawing, other weights, other data:
whatever changes the constant drops it, at once, and training goes on through the whole network.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from layergroups._forward import labelled
from layergroups._random import mixed
from layergroups.data import (
    SeekableBatches,
    Shard,
    can_start_later,
    check_of,
    shard_positions,
    shards_of,
    starting_at,
)
from layergroups.training.feature_cache._feature_buffer import (
    FeatureBuffer,
    FeatureCacheConfig,
    TooLargeError,
)
from layergroups.training.feature_cache._feature_cache import (
    CacheEntry,
    FeatureCache,
    Resting,
    fill_train,
    fill_valid,
    is_varied,
    kept_at,
    train_views,
)
from layergroups.training.feature_cache._feature_cut import NoPassageError, forward_from
from layergroups.training.hardware import to_device

if TYPE_CHECKING:
    from layergroups.data import Batches
    from layergroups.training.loop import FitContext


_log = logging.getLogger("layergroups")


_FURTHER = 1 << 24  # between the epoch numbers that give further passes their orders


_PROBE = 3  # items by which the boundary is found


_version = attrgetter("_version")


class CachedInputs(tuple[Tensor, ...]):
    """Stored values, one tensor (N, ...) each, where else the inputs of a batch would stand."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"run.inputs.{name}: in this epoch run.inputs are stored outputs of the frozen layers, "
            "not images. A callback that needs the images needs fit(..., store=False)."
        )


class CachedEpochs:
    """Where the batches of each epoch of one fit come from, and how they go through the model.

    Args:
        store: of the learner.
        options: bounds and views.
        passes: over all training items, for each epoch from the store; each in other views.
    """

    required = False
    epochs_counted = 1

    def __init__(self, store: FeatureCache, options: FeatureCacheConfig, passes: int = 1) -> None:
        self.store = store
        self.options = options
        self.passes = passes
        self.on = False
        self.least = 1  # items that a process can train on
        self._kept = CacheEntry(0)
        self._token: object = None
        self._told = ""
        self._skips = False
        self._items: Any = None

    def skip_epoch(self) -> None:
        """Leave the next epoch to the data."""
        self._skips = True

    def owns(self, inputs: object) -> bool:
        """Whether these inputs are stored values."""
        return isinstance(inputs, CachedInputs)

    def batches_for_epoch(self, run: FitContext) -> Batches | None:
        """The coming epoch from the store, if it can be and if it is worth it."""
        skips, self._skips = self._skips, False
        if not skips:
            self.begin_epoch(run)
        return self._source(run) if self.on else None

    def begin_epoch(self, run: FitContext) -> None:
        """Let the coming epoch train from the store, if it can and if it is worth it."""
        self.on = False
        self.store.forget_work()
        boundary = run.groups.resting
        self.store.keep_only([boundary] if boundary else [])
        if not boundary:
            return
        reason = why_not(run)
        try:
            if not reason and self._fill(run, boundary):
                self._turn_on(run, boundary)
        except (NoPassageError, TooLargeError) as problem:
            reason = str(problem)
            self._give_up(boundary, reason)
        if reason and reason != self._told:
            _log.warning("The frozen layers run in every epoch, because %s.", reason)
        self._told = reason

    def forward(self, run: FitContext, inputs: CachedInputs) -> Any:
        """Stored values through the rest of the model; if they are out of date, the images."""
        if not self.holds(run):
            return self.without(run)
        assert self._kept.passage is not None
        return forward_from(run.model, self._kept.passage, inputs)

    def holds(self, run: FitContext) -> bool:
        """Whether the values are those that the frozen layers would give now."""
        return self.on and self._token == self._now(run)

    def without(self, run: FitContext) -> Any:
        """The images of this batch through the whole network, as all that come after it."""
        self.on, run.batches = False, run.train
        _log.warning("Something frozen changed: this epoch goes on through the whole network.")
        share = next(raw_shares(run, (run.batch - 1) % len(run.train), self.least))
        run.inputs, _ = labelled(to_device(share.batch, _device(run)))
        return run.forward(run.inputs)

    def validation(self, run: FitContext) -> Iterable[Any] | None:
        """The validation batches from the store; None if they are to be read."""
        if self._kept.valid is None or not self.holds(run):
            return None
        return InOrder(self._kept.valid, batch_size(run))

    def resources(self, run: FitContext) -> dict[str, float]:
        """Passes over the training items, and what it took to store their values."""
        return {
            "passes": round(run.batch / self.per_pass(run), 3),
            "body_passes": float(self.store.body_passes),
            "store_seconds": self.store.seconds,
        }

    def per_pass(self, run: FitContext) -> float:
        """Batches in which all items come once."""
        return max(1, len(run.train))

    def look(self, run: FitContext, boundary: Resting) -> CacheEntry:
        """What is kept at a boundary, in step with model and data.

        Raises:
            NoPassageError: nothing can be.
        """
        if self._items is None:
            inputs, _ = labelled(to_device(next(iter(train_views(run, 0))), _device(run)))
            self._items = tree_map_only(Tensor, lambda t: t[:_PROBE], inputs)
        kept = kept_at(run, self.store, boundary, lambda: self._items)
        if kept.reason:
            raise NoPassageError(kept.reason)
        return kept

    def _give_up(self, boundary: Resting, reason: str) -> None:
        """Do not try again what cannot be done; a hook may go, and is looked for each time."""
        known = self.store.kept[boundary]
        if not known.reason:
            gone = CacheEntry(known.mark, modules=known.modules, reason=reason)
            self.store.kept[boundary] = gone

    def sees(self, run: FitContext, boundary: Resting) -> bool:
        """Whether values can be kept at a boundary."""
        try:
            self.look(run, boundary)
        except NoPassageError:
            self.store.kept.pop(boundary, None)
            return False
        return True

    def _turn_on(self, run: FitContext, boundary: Resting) -> None:
        self._kept, self.on = self.store.kept[boundary], True
        self._token = self._now(run)

    def _source(self, run: FitContext) -> Batches:
        """Where the batches of the coming epoch come from."""
        return _Replays(self, run, self._kept, run.learner.epochs_done, self.passes)

    def _now(self, run: FitContext) -> object:
        """Another value as soon as model, freezing or weights change, as far as that is cheap."""
        versions = sum(map(_version, self._kept.tensors))
        groups = run.groups
        return id(run.model), groups.resting, groups.norms_train, run.changes, versions

    def _fill(self, run: FitContext, boundary: Resting) -> bool:
        """Bring the store in step, with one more view if there are too few; whether it is used."""
        kept, views = self.look(run, boundary), self.options.views if is_varied(run) else 1
        lost = self.store.pending.pop(boundary, {})
        true = lost["views"] if lost.get("mark") == kept.mark and not kept.views else []
        if true:
            kept.folded = bool(lost.get("folded"))
        if kept.train is None:
            kept.room = max(views, len(true))
        for epoch in true:
            fill_train(run, self.store, self.options, [boundary], epoch=epoch)
        epoch = run.learner.epochs_done
        if epoch not in kept.views and len(kept.views) < min(views, kept.room):
            if not kept.views and run.epochs - run.epoch <= views:
                return False  # too few epochs to come
            fill_train(run, self.store, self.options, [boundary], epoch=epoch)
        fill_valid(run, self.store, self.options, [boundary])
        return True


class CachedBatches(ABC):
    """Batches from a shelf; which rows, is said by `plan`."""

    shelf: FeatureBuffer

    @abstractmethod
    def plan(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Views and positions of the items of each batch."""

    def __iter__(self) -> Iterator[Any]:
        return (_taken(self.shelf, *rows) for rows in self.plan())

    def shards(self, rank: int, world: int, least: int = 1) -> Iterator[Shard]:
        """What one of several processes takes of each batch."""
        return (_share(self.shelf, *rows, rank, world, least) for rows in self.plan())


@dataclass(frozen=True)
class InOrder(CachedBatches):
    """All items of a shelf in their order, in its first view."""

    shelf: FeatureBuffer
    batch_size: int

    def plan(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Views and positions of the items of each batch."""
        for positions in torch.arange(self.shelf.items).split(self.batch_size):
            yield torch.zeros_like(positions), positions


@dataclass(frozen=True)
class _Replays(CachedBatches):
    """The batches of one epoch from the store; the images from where the store is dropped."""

    stored: CachedEpochs
    run: FitContext
    kept: CacheEntry
    epoch: int
    passes: int

    @property
    def shelf(self) -> FeatureBuffer:  # type: ignore[override] # read only
        """Of the training items."""
        assert self.kept.train is not None
        return self.kept.train

    def __len__(self) -> int:
        return self.passes * len(self.run.train)

    def __iter__(self) -> Iterator[Any]:
        return self.starting_at(0)

    def starting_at(self, first: int) -> Iterator[Any]:
        """Without the first batches."""
        for number, rows in islice(enumerate(self.plan()), first, None):
            if not self.stored.on:
                yield from (share.batch for share in raw_shares(self.run, self._raw(number)))
                return
            yield _taken(self.shelf, *rows)

    def shards(self, rank: int, world: int, least: int = 1) -> Iterator[Shard]:
        """What one of several processes takes of each batch."""
        self.stored.least = least
        for number, rows in enumerate(self.plan()):
            if not self.stored.on:
                yield from raw_shares(self.run, self._raw(number), least)
                return
            yield _share(self.shelf, *rows, rank, world, least)

    def plan(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Views and positions of the items of each batch, in the order that this epoch has."""
        views, count = self._drawn(), len(self.kept.views)
        for number in range(self.passes):
            shuffled = self.epoch + number * _FURTHER
            order: list[list[int]] = self.run.train.positions(shuffled)  # type: ignore[attr-defined] # see why_not
            for chosen in order:
                positions = torch.tensor(chosen)
                yield (views[positions] + number) % count, positions

    def _raw(self, number: int) -> int:
        """The batch of the training data at which to go on instead of a batch from the store."""
        return number % len(self.run.train)

    def _drawn(self) -> Tensor:
        """The view of each item: the one taken in this epoch, else one of all by chance."""
        views, items = self.kept.views, self.shelf.items
        if self.epoch in views:
            return torch.full((items,), views.index(self.epoch))
        generator = torch.Generator().manual_seed(mixed(self.run.learner.epoch_seed(), "views"))
        return torch.randint(len(views), (items,), generator=generator)


def _taken(shelf: FeatureBuffer, views: Tensor, positions: Tensor) -> tuple[CachedInputs, Tensor]:
    values, targets = shelf.get(views, positions)
    return CachedInputs(values), targets


def _share(
    shelf: FeatureBuffer, views: Tensor, positions: Tensor, rank: int, world: int, least: int
) -> Shard:
    """What one of several processes takes of a batch of rows."""
    mine, own = shard_positions(len(positions), rank, world, least)
    batch = _taken(shelf, views[list(mine)], positions[list(mine)])
    check = check_of([views.tolist(), positions.tolist()])
    return Shard(batch, own, len(positions), mine, check)


def raw_shares(run: FitContext, first: int, least: int = 1) -> Iterator[Shard]:
    """The training batches themselves, from one of this epoch on."""
    run.train.set_epoch(run.learner.epochs_done)  # type: ignore[attr-defined] # see why_not
    if can_start_later(run.train) and not run.processes.several:
        return shards_of(starting_at(run.train, first), run.processes)
    return islice(shards_of(run.train, run.processes, min_items=least), first, None)


def why_not(run: FitContext) -> str:
    """Why nothing can be stored for these data and this learner; empty if it can."""
    if not isinstance(run.train, SeekableBatches):
        return f"{type(run.train).__name__} does not tell which item is where"
    if run.learner.data.views(0) is None:
        return f"{type(run.learner.dls).__name__} has no views(epoch)"
    if run.groups.norms_train:
        return "frozen norm layers train"
    if run.replicas.sharded:
        return "FSDP2 gathers the weights only where a model runs as a whole"
    if any(getattr(m, "_compiled_call_impl", None) is not None for m in run.model.modules()):
        return "the model is compiled"
    return ""


def batch_size(run: FitContext) -> int:
    """Items in a batch of the data; 64 if they do not tell."""
    return run.learner.data.batch_size or 64


def _device(run: FitContext) -> torch.device:
    device: torch.device = run.accelerator.device
    return device
