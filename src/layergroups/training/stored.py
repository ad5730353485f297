"""Epochs of a frozen phase from stored outputs of the frozen layers.

While groups are frozen, what they give for an item is a constant. So the frozen layers run over all
items once, in as many augmented views as are asked for, one in each of the first epochs; every
epoch trains the rest of the model on what was kept. Surgery, thawing, other weights, other data:
whatever changes the constant drops it, at once, and training goes on through the whole network.
"""

from __future__ import annotations

import logging
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from layergroups.groups.freezing import StayInEval
from layergroups.training.checks import labelled
from layergroups.training.device import to_device
from layergroups.training.modes import evaluating
from layergroups.training.replay import (
    NoPassageError,
    Passage,
    find_passage,
    forward_from,
    record,
)
from layergroups.training.seeds import mixed
from layergroups.training.shelf import Shelf, StoreOptions, TooLargeError

if TYPE_CHECKING:
    from layergroups.training.loop import Run

_log = logging.getLogger("layergroups")
_PROBE = 3  # items by which the boundary is found
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of a function, another one in each process


class Features(tuple[Tensor, ...]):
    """Stored values, one tensor (N, ...) each, where else the inputs of a batch would stand."""

    __slots__ = ()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"run.inputs.{name}: in this epoch run.inputs are stored outputs of the frozen layers, "
            "not images. A callback that needs the images needs fit(..., store=False)."
        )


@dataclass
class FeatureStore:
    """What a learner keeps between its fits; it knows by itself when it is out of date.

    Attributes:
        mark: of everything that the kept values depend on.
        data: the training and validation batches, held so that they are not taken for others.
        passage: where values pass from the frozen part to the rest; None if they cannot.
        train: values of training items.
        valid: values of validation items.
        epochs: those in whose augmentation the views were taken.
        pending: mark and epochs of a store that was lost with its process.
    """

    mark: int = 0
    data: tuple[object, object] = (None, None)
    passage: Passage | None = None
    train: Shelf | None = None
    valid: Shelf | None = None
    epochs: list[int] = field(default_factory=list)
    pending: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""

    def begin(self, mark: int, data: tuple[object, object]) -> None:
        """Forget everything, and note what comes next."""
        self.mark, self.data, self.passage, self.reason = mark, data, None, ""
        self.train, self.valid, self.epochs, self.pending = None, None, [], {}

    def state_dict(self) -> dict[str, Any]:
        """What is needed to fill it again, JSON-ready."""
        if self.pending:
            return dict(self.pending)
        return {"mark": self.mark, "epochs": list(self.epochs)} if self.epochs else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Fill it again when it is needed, if model and data are the same then."""
        self.begin(0, (None, None))
        self.pending = dict(state)


class StoredEpochs:
    """Where the batches of each epoch of one fit come from, and how they go through the model.

    Args:
        store: of the learner.
        options: bounds and views.
    """

    def __init__(self, store: FeatureStore, options: StoreOptions) -> None:
        self.store = store
        self.options = options
        self.on = False
        self._resting: list[Tensor] = []
        self._token: object = None
        self._told = ""

    def begin_epoch(self, run: Run) -> bool:
        """Let the coming epoch train from the store, if it can and if it is worth it."""
        self.on, run.body_passes, run.store_seconds = False, 0, 0.0
        resting = run.groups.resting_modules()
        if not resting:
            self.store.begin(0, (None, None))
            return False
        self._resting = _tensors_of(run.model, resting)
        reason = _why_not(run) or self._look(run, resting)
        if reason:
            self._tell(reason)
            return False
        epoch, views = run.learner.epochs_done, self._views(run)
        fresh = epoch not in self.store.epochs and len(self.store.epochs) < views
        if fresh and not self.store.epochs and run.epochs - run.epoch <= views:
            return False
        try:
            if fresh:
                self._fill_train(run, epoch)
            self._fill_valid(run)
        except (NoPassageError, TooLargeError) as problem:
            self.store.reason = str(problem)
            self._tell(str(problem))
            return False
        self.on, self._token, run.source = True, self._now(run), _Replays(self, run, epoch)
        return True

    def forward(self, run: Run, inputs: Features) -> Any:
        """Stored values through the rest of the model; if they are out of date, the images."""
        if not self.holds(run):
            self.on, run.source = False, run.train
            _log.warning("Something frozen changed: this epoch goes on through the whole network.")
            run.inputs, _ = labelled(to_device(next(_raw(run, run.batch - 1)), _device(run)))
            return run.forward(run.inputs)
        assert self.store.passage is not None
        return forward_from(run.model, self.store.passage, inputs)

    def holds(self, run: Run) -> bool:
        """Whether the values are those that the frozen layers would give now."""
        return self.on and self._token == self._now(run)

    def validation(self, run: Run) -> Iterable[Any] | None:
        """The validation batches from the store; None if they are to be read."""
        if not self.holds(run) or self.store.valid is None or run.valid is None:
            return None
        return _in_order(self.store.valid, _batch_size(run))

    # The store

    def _now(self, run: Run) -> object:
        """Another value as soon as model, freezing or weights change, as far as that is cheap."""
        groups = run.groups
        rests = tuple(rate == 0 for rate in groups.rates)
        versions = sum(tensor._version for tensor in self._resting)
        return id(run.model), groups.frozen, rests, groups.norms_train, run.changes, versions

    def _look(self, run: Run, resting: Sequence[nn.Module]) -> str:
        """Bring the store in step with model and data; why it cannot be used, or empty."""
        store, frozen = self.store, _paths(run.model, resting)
        mark, data = _mark(run, frozen, self._resting), (run.train, run.valid)
        same = store.data[0] is data[0] and store.data[1] is data[1]
        if store.mark == mark and same:
            return store.reason
        pending = store.pending
        store.begin(mark, data)
        try:
            store.passage = find_passage(run.model, frozen, _probe(run))
            _check_hooks(run.model, store.passage)
            if pending.get("mark") == mark:
                for epoch in pending["epochs"]:
                    self._fill_train(run, epoch)
        except (NoPassageError, TooLargeError) as problem:
            store.reason = str(problem)
        return store.reason

    def _fill_train(self, run: Run, epoch: int) -> None:
        """Keep one more view of the training items, as they are varied in that epoch."""
        batches, started = _train_views(run, epoch), time.perf_counter()
        view = len(self.store.epochs)
        self.store.train = self._fill(run, batches, self.store.train, view, self._views(run))
        self.store.epochs.append(epoch)
        run.body_passes += 1
        run.store_seconds += time.perf_counter() - started

    def _fill_valid(self, run: Run) -> None:
        if self.store.valid is None and run.valid is not None and len(run.valid):
            self.store.valid = self._fill(run, run.valid, None, 0, 1)

    def _fill(self, run: Run, batches: Any, shelf: Shelf | None, view: int, views: int) -> Shelf:
        """Run the frozen layers over batches that hold all items in their order."""
        passage, done = self.store.passage, 0
        assert passage is not None
        model, title = run.model, "outputs of the frozen layers"
        with evaluating(model), run.learner.reporter.bar(title, len(batches)) as bar:
            for batch in batches:
                inputs, targets = labelled(to_device(batch, _device(run)))
                with run.accelerator.autocast():
                    values = record(model, passage, inputs)
                if shelf is None:
                    shelf = Shelf(_count(batches), views, values, self.options)
                shelf.put(view, range(done, done + len(targets)), values, targets)
                done += len(targets)
                bar.advance()
        if shelf is None or done != shelf.items:
            raise NoPassageError(f"the data gave {done} items, not as many as they say")
        return shelf

    def _views(self, run: Run) -> int:
        return self.options.views if getattr(run.train, "varied", True) else 1

    def _tell(self, reason: str) -> None:
        if reason != self._told:
            _log.warning("The frozen layers run in every epoch, because %s.", reason)
        self._told = reason


@dataclass(frozen=True)
class _Replays:
    """The batches of one epoch from the store, in the order that this epoch has."""

    stored: StoredEpochs
    run: Run
    epoch: int

    def __len__(self) -> int:
        return len(self.run.train)

    def __iter__(self) -> Iterator[Any]:
        return self.starting_at(0)

    def starting_at(self, first: int) -> Iterator[Any]:
        """Without the first batches; the images themselves from where the store is dropped."""
        store, run = self.stored.store, self.run
        views = self._drawn()
        order: list[list[int]] = run.train.positions(self.epoch)  # type: ignore[attr-defined] # see _why_not
        for number, positions in islice(enumerate(order), first, None):
            if not self.stored.holds(run):
                yield from _raw(run, number)
                return
            assert store.train is not None
            index = torch.tensor(positions)
            values, targets = store.train.get(views[index], index)
            yield Features(values), targets

    def _drawn(self) -> Tensor:
        """The view of each item: the one taken in this epoch, else one of all by chance."""
        store = self.stored.store
        assert store.train is not None
        if self.epoch in store.epochs:
            return torch.full((store.train.items,), store.epochs.index(self.epoch))
        generator = torch.Generator().manual_seed(mixed(self.run.learner.epoch_seed(), "views"))
        return torch.randint(len(store.epochs), (store.train.items,), generator=generator)


def _in_order(shelf: Shelf, batch_size: int) -> Iterator[Any]:
    for positions in torch.arange(shelf.items).split(batch_size):
        values, targets = shelf.get(torch.zeros_like(positions), positions)
        yield Features(values), targets


def _raw(run: Run, batch: int) -> Iterator[Any]:
    """The training batches themselves, from one of this epoch on."""
    run.train.set_epoch(run.learner.epochs_done)  # type: ignore[attr-defined] # see _why_not
    quick = getattr(run.train, "starting_at", None)
    return islice(iter(run.train), batch, None) if quick is None else iter(quick(batch))


def _why_not(run: Run) -> str:
    """Why nothing can be stored for these data and this learner; empty if it can."""
    if not all(hasattr(run.train, name) for name in ("positions", "set_epoch", "photos")):
        return f"{type(run.train).__name__} does not tell which item is where"
    if not hasattr(run.learner.dls, "train_views"):
        return f"{type(run.learner.dls).__name__} has no train_views(epoch)"
    if run.groups.norms_train:
        return "frozen norm layers train"
    if run.accelerator.num_processes > 1:
        return "each process sees other items in each epoch"
    if any(getattr(m, "_compiled_call_impl", None) is not None for m in run.model.modules()):
        return "the model is compiled"
    return ""


def _check_hooks(model: nn.Module, passage: Passage) -> None:
    """Hooks of other hands on constant modules would see nothing.

    Raises:
        NoPassageError: there are some.
    """
    for path in passage.paths:
        for below, module in model.get_submodule(path).named_modules(prefix=path):
            hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
            if not all(isinstance(hook, StayInEval) for hook in hooks):
                raise NoPassageError(f"there are hooks on {below}, which would see nothing")


def _tensors_of(model: nn.Module, resting: Sequence[nn.Module]) -> list[Tensor]:
    """All that the frozen part computes with: what does not train, and buffers of what rests."""
    fixed = [p for p in model.parameters() if not p.requires_grad]
    buffers = {id(b): b for module in resting for b in module.buffers()}
    return [*fixed, *buffers.values()]


def _paths(model: nn.Module, modules: Sequence[nn.Module]) -> list[str]:
    wanted = set(modules)
    return [path for path, module in model.named_modules() if module in wanted]


def _mark(run: Run, frozen: Sequence[str], tensors: Sequence[Tensor]) -> int:
    """A checksum of all that the kept values depend on."""
    data = run.learner.dls
    told = [getattr(data, name, "") for name in ("size", "input", "augment", "crop_pct", "seed")]
    text = _ADDRESS.sub("", repr([*frozen, *told, run.accelerator.mixed_precision]))
    mark = zlib.crc32(text.encode())
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        mark = zlib.crc32(plain.view(torch.uint8).numpy().data if len(plain) else b"", mark)
    return mark


def _train_views(run: Run, epoch: int) -> Any:
    """The training items in their order, varied as in an epoch."""
    return run.learner.dls.train_views(epoch=epoch)  # type: ignore[attr-defined] # see _why_not


def _probe(run: Run) -> Any:
    """A few items, as the model takes them."""
    inputs, _ = labelled(to_device(next(iter(_train_views(run, 0))), _device(run)))
    return tree_map_only(Tensor, lambda t: t[:_PROBE], inputs)


def _count(batches: Any) -> int:
    return len(batches.photos)


def _batch_size(run: Run) -> int:
    return int(getattr(run.learner.dls, "batch_size", 64))


def _device(run: Run) -> torch.device:
    device: torch.device = run.accelerator.device
    return device
