"""What a learner keeps of the outputs of frozen layers, and what shows that it is out of date.

A *boundary* lies after the layer groups that rest, and is named by their indices. At each boundary
that is kept there are a mark, of all that the values depend on, and the shelves with the values.

The frozen layers run over all items once, and what they give at each boundary is kept.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layergroups._forward import labelled
from layergroups.data import Shard, items_in, shards_of
from layergroups.groups import StayInEval, as_if_resting
from layergroups.training.feature_cache._conv_bn_fusion import Folding
from layergroups.training.feature_cache._feature_buffer import (
    FeatureBuffer,
    FeatureCacheConfig,
    TooLargeError,
    is_channels_last,
)
from layergroups.training.feature_cache._feature_cut import FeatureCut, NoPassageError, find_cut
from layergroups.training.hardware import to_device
from layergroups.training.state import evaluating

if TYPE_CHECKING:
    from layergroups.training.distributed import Processes
    from layergroups.training.loop import FitContext


Resting = tuple[int, ...]


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of a function, another one in each process


@dataclass
class CacheEntry:
    """The values at one boundary.

    Attributes:
        mark: of everything that they depend on.
        tensors: weights and buffers that the frozen part computes with.
        passage: where values pass from the frozen part to the rest; None if they cannot.
        train: values of training items.
        valid: values of validation items.
        views: the epochs in whose augmentation the views of training items were taken.
        room: how many views the shelf of training items has room for, or is to have.
        folded: whether convolutions do the work of the norms behind them when values are kept.
        modules: those of the model when the passage was found.
        reason: why there are no values.
    """

    mark: int
    tensors: Sequence[Tensor] = ()
    passage: FeatureCut | None = None
    train: FeatureBuffer | None = None
    valid: FeatureBuffer | None = None
    views: list[int] = field(default_factory=list)
    room: int = 1
    folded: bool = False
    modules: Sequence[nn.Module] = ()
    reason: str = ""

    @property
    def shelves(self) -> list[FeatureBuffer]:
        """Those that there are."""
        return [shelf for shelf in (self.train, self.valid) if shelf is not None]

    def state_dict(self) -> dict[str, Any]:
        """What is needed to fill it again, JSON-ready."""
        return {"mark": self.mark, "views": list(self.views), "folded": self.folded}


@dataclass
class FeatureCache:
    """What a learner keeps between its fits, for one boundary or several.

    Attributes:
        kept: by boundary.
        data: the training and validation batches, held so that they are not taken for others.
        pending: marks and views of what was lost with its process, by boundary.
        folding: how the frozen layers were run last.
        body_passes: of the frozen layers over the training items since the epoch began.
        seconds: that these took.
    """

    kept: dict[Resting, CacheEntry] = field(default_factory=dict)
    data: tuple[object, object] = (None, None)
    pending: dict[Resting, Mapping[str, Any]] = field(default_factory=dict)
    folding: Folding | None = None
    body_passes: int = 0
    seconds: float = 0.0

    def forget_work(self) -> None:
        """Count passes and seconds from here."""
        self.body_passes, self.seconds = 0, 0.0

    @property
    def shelves(self) -> list[FeatureBuffer]:
        """Those of all boundaries."""
        return [shelf for kept in self.kept.values() for shelf in kept.shelves]

    def keep_only(self, boundaries: Collection[Resting]) -> None:
        """Forget all others."""
        for known in (self.kept, self.pending):
            for boundary in known.keys() - set(boundaries):
                del known[boundary]
        if not self.kept:
            self.folding = None

    def state_dict(self) -> list[dict[str, Any]]:
        """What is needed to fill it again, JSON-ready."""
        views = dict(self.pending)
        views |= {b: k.state_dict() for b, k in self.kept.items()}
        return [{"groups": list(b), **views[b]} for b in sorted(views) if views[b]["views"]]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Keep what is as it was then; fill the rest again when it is needed and still true."""
        wanted = {tuple(s["groups"]): {k: s[k] for k in s if k != "groups"} for s in state}
        same = [
            boundary
            for boundary, kept in self.kept.items()
            if wanted.get(boundary) == kept.state_dict()
        ]
        self.keep_only(same)
        self.pending = {b: wanted[b] for b in wanted.keys() - set(same)}


def kept_at(
    run: FitContext, store: FeatureCache, boundary: Resting, probe: Callable[[], Any]
) -> CacheEntry:
    """What is kept at a boundary and is true now; without values if nothing is.

    Args:
        run: in progress.
        store: of its learner.
        boundary: the groups that rest, or will.
        probe: gives a few items, as the model takes them.
    """
    data = (run.train, run.valid)
    if store.data[0] is not data[0] or store.data[1] is not data[1]:
        store.kept, store.data = {}, data
    with as_if_resting(run.groups, boundary) as resting:
        tensors, mark = _tensors_of(run.model, resting), _mark(run, resting)
        kept = store.kept.get(boundary)
        if kept is None or kept.mark != mark or not _is_built_so(run.model, kept):
            kept = store.kept[boundary] = _looked_again(run, mark, resting, kept, probe)
    kept.tensors = tensors
    if kept.passage is not None:
        kept.reason = next(_strangers(run.model, kept.passage), "")
    return kept


def _is_built_so(model: nn.Module, kept: CacheEntry) -> bool:
    """Whether the model is made of the modules of which the passage was found."""
    now = list(model.modules())
    return len(now) == len(kept.modules) and all(map(is_, now, kept.modules))


def _looked_again(
    run: FitContext,
    mark: int,
    resting: Sequence[nn.Module],
    kept: CacheEntry | None,
    probe: Callable[[], Any],
) -> CacheEntry:
    """With the passage found anew; values stay if they are true and are what the rest needs."""
    modules = list(run.model.modules())
    try:
        passage = find_cut(run.model, _paths(run.model, resting), probe())
    except NoPassageError as problem:
        return CacheEntry(mark, modules=modules, reason=str(problem))
    if kept is None or kept.mark != mark or kept.passage is None:
        return CacheEntry(mark, passage=passage, modules=modules)
    if kept.passage.needs != passage.needs:
        return CacheEntry(mark, passage=passage, modules=modules)
    return replace(kept, passage=passage, modules=modules)


def _strangers(model: nn.Module, passage: FeatureCut) -> Iterator[str]:
    """In words, hooks of other hands on constant modules: they would see nothing."""
    for path in passage.paths:
        for below, module in model.get_submodule(path).named_modules(prefix=path):
            hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
            if not all(isinstance(hook, StayInEval) for hook in hooks):
                yield f"there are hooks on {below}, which would see nothing"


def _tensors_of(model: nn.Module, resting: Sequence[nn.Module]) -> list[Tensor]:
    """All that the frozen part computes with: what does not train, and buffers of what rests."""
    fixed = [p for p in model.parameters() if not p.requires_grad]
    buffers = {id(b): b for module in resting for b in module.buffers()}
    return [*fixed, *buffers.values()]


def _paths(model: nn.Module, modules: Sequence[nn.Module]) -> list[str]:
    wanted = set(modules)
    return [path for path, module in model.named_modules() if module in wanted]


def _mark(run: FitContext, resting: Sequence[nn.Module]) -> int:
    """A checksum of all that the values depend on."""
    built = [(path, run.model.get_submodule(path)) for path in _paths(run.model, resting)]
    lines = [f"{path} {type(module).__name__} {module.extra_repr()}" for path, module in built]
    text = _ADDRESS.sub(
        "", repr([*lines, run.learner.data.fingerprint(), run.accelerator.mixed_precision])
    )
    mark = zlib.crc32(text.encode())
    for tensor in _tensors_of(run.model, resting):
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        mark = zlib.crc32(plain.view(torch.uint8).numpy().data if len(plain) else b"", mark)
    return mark


@dataclass
class _Aim:
    """Where the values at one boundary go in one pass.

    Attributes:
        kept: at the boundary; it gets the shelf when the pass is done.
        view: the how-manieth of the items.
        views: that the shelf is to hold, where it is to be made.
        shelf: None until the first values are there.
        gone: whether there was no room, where it could be done without.
    """

    kept: CacheEntry
    view: int
    views: int
    shelf: FeatureBuffer | None
    gone: bool = False


def fill_train(
    run: FitContext,
    store: FeatureCache,
    options: FeatureCacheConfig,
    boundaries: Sequence[Resting],
    *,
    epoch: int,
) -> None:
    """Keep one more view of the training items at these boundaries.

    Args:
        run: in progress.
        store: of its learner; it has looked at the boundaries.
        options: bounds.
        boundaries: the first is needed; others are dropped if there is no room for them.
        epoch: in whose augmentation.

    Raises:
        TooLargeError: there is no room for the first.
        NoPassageError: the model or the data are not what they were when they were looked at.
    """
    started = time.perf_counter()
    there = [boundary for boundary in boundaries if boundary in store.kept]
    chosen = [store.kept[boundary] for boundary in there]
    aims = [_Aim(kept, len(kept.views), kept.room, kept.train) for kept in chosen]
    _go_over(run, train_views(run, epoch), aims, store, options)
    for boundary, aim in zip(there, aims, strict=True):
        if aim.gone:
            del store.kept[boundary]
        else:
            aim.kept.train = aim.shelf
            aim.kept.views.append(epoch)
    store.body_passes += 1
    store.seconds += time.perf_counter() - started


def fill_valid(
    run: FitContext, store: FeatureCache, options: FeatureCacheConfig, boundaries: Sequence[Resting]
) -> None:
    """Keep the validation items at these boundaries, as `fill_train`, where they are not yet."""
    if run.valid is None or not len(run.valid):
        return
    missing = [b for b in boundaries if b in store.kept and store.kept[b].valid is None]
    aims = [_Aim(store.kept[boundary], 0, 1, None) for boundary in missing]
    if aims:
        _go_over(run, run.valid, aims, store, options)
    for boundary, aim in zip(missing, aims, strict=True):
        aim.kept.valid = aim.shelf
        if aim.gone:
            del store.kept[boundary]


def train_views(run: FitContext, epoch: int) -> Any:
    """The training items in their order, varied as in an epoch."""
    return run.learner.data.views(epoch)


def is_varied(run: FitContext) -> bool:
    """Whether a training item is another one in each epoch."""
    return run.learner.data.augmented


def _go_over(
    run: FitContext,
    batches: Any,
    aims: Sequence[_Aim],
    store: FeatureCache,
    options: FeatureCacheConfig,
) -> None:
    """Run the frozen layers over batches that hold all items in their order."""
    done, count, title = 0, items_in(batches) or 0, "outputs of the frozen layers"
    passages = [aim.kept.passage for aim in aims if aim.kept.passage is not None]
    folding = store.folding = Folding.kept(
        store.folding, run.model, passages, on=all(aim.kept.folded for aim in aims)
    )
    with evaluating(run.model), run.learner.reporter.bar(title, len(batches)) as bar:
        for share in shards_of(batches, run.processes):
            found, targets = _outputs(run, share, folding)
            for aim, values in zip(aims, found, strict=True):
                if aim.shelf is None and not aim.gone:
                    made = (other.shelf for other in aims if other.shelf is not None)
                    room = options.left_by({id(s): s for s in (*store.shelves, *made)}.values())
                    _make_shelf(aim, count, values, room, needed=aim is aims[0])
                if aim.shelf is not None:
                    aim.shelf.put(aim.view, range(done, done + share.n_items), values, targets)
            done += share.n_items
            bar.advance()
    if done != count:
        raise NoPassageError(f"the data gave {done} items, not as many as they say")


def _make_shelf(
    aim: _Aim, items: int, values: Sequence[Tensor], room: FeatureCacheConfig, *, needed: bool
) -> None:
    try:
        aim.shelf = FeatureBuffer(items, aim.views, values, room)
    except TooLargeError:
        if needed:
            raise
        aim.gone = True


def _outputs(run: FitContext, share: Shard, folding: Folding) -> tuple[list[list[Tensor]], Tensor]:
    """The values of a whole batch at each boundary, and its targets, from all processes."""
    inputs, targets = labelled(to_device(share.batch, run.accelerator.device))
    with run.accelerator.autocast():
        found = folding.record(inputs)
    run.processes.meet("outputs of the frozen layers", {"batch": share.check})
    joined = [[_joined(value, share, run.processes) for value in values] for values in found]
    return joined, _joined(targets, share, run.processes)


def _joined(rows: Tensor, share: Shard, processes: Processes) -> Tensor:
    """The rows of all processes, in the order of the batch and in the layout that they have."""
    if not processes.several:
        return rows
    places = torch.tensor(share.positions[: share.n_counted], dtype=torch.long)
    if is_channels_last(rows):
        plain = rows[: share.n_counted].permute(0, 2, 3, 1)
        return processes.in_order(plain, places).permute(0, 3, 1, 2)
    return processes.in_order(rows[: share.n_counted].contiguous(), places)
