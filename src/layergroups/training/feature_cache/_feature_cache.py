"""The cached outputs of frozen layers, and how outdated ones are detected.

A *boundary* lies after the inactive groups (frozen, or rate 0) and is identified by their indices.
Each cached boundary has a `CacheEntry`: where the model is cut, a fingerprint of everything that
the values depend on, and the buffers with the values.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from operator import is_
from typing import Any, Final
from weakref import ref

import torch
from torch import Tensor, nn

from layergroups._fingerprint import checksum, stable_text
from layergroups._forward import labelled
from layergroups.data import Shard, items_in, order_of, shards_of, texts_of
from layergroups.groups import as_if_inactive
from layergroups.training.distributed import Processes
from layergroups.training.feature_cache._conv_bn_fusion import FrozenPart
from layergroups.training.feature_cache._feature_buffer import (
    FeatureBuffer,
    FeatureCacheConfig,
    NoSpaceError,
)
from layergroups.training.feature_cache._feature_cut import (
    FeatureCut,
    NoCutError,
    find_cut,
    foreign_hooks,
)
from layergroups.training.hardware import to_device
from layergroups.training.loop import FitContext
from layergroups.training.state import evaluating

Boundary = tuple[int, ...]
UNVARIED: Final = -1  # among the epochs of cached views: items without augmentation
_ATTRIBUTES: Final = (bool, int, float, str, tuple, list, type(None))


@dataclass(eq=False)
class CacheEntry:
    fingerprint: int  # of everything that they depend on
    # The epochs whose augmentation the cached views have. Without buffers (after a restart) the
    # views are computed again when needed.
    views: list[int] = field(default_factory=list)
    fused: bool = False  # norms into convolutions, to compute the values
    cut: FeatureCut | None = None  # None if that is impossible, or not tried yet
    train: FeatureBuffer | None = None  # values of training items
    valid: FeatureBuffer | None = None
    tensors: Sequence[Tensor] = ()  # weights and buffers of the frozen part
    modules: Sequence[nn.Module] = ()  # of the model when the cut was found
    reason: str = ""  # why there are no values
    # What else the values depend on while this process runs: sizes and times of the files, plain
    # attributes of the frozen modules.
    facts: Mapping[Any, str] = field(default_factory=dict)

    @property
    def buffers(self) -> list[FeatureBuffer]:
        return [buffer for buffer in (self.train, self.valid) if buffer is not None]

    def state_dict(self) -> dict[str, Any]:
        """The values needed to fill it again, JSON-ready; the keys are those of format 2."""
        return {"mark": self.fingerprint, "views": list(self.views), "folded": self.fused}


@dataclass
class FeatureCache:
    """What a learner caches between its fits, at one boundary or several."""

    entries: dict[Boundary, CacheEntry] = field(default_factory=dict)
    data: tuple[object, object] = (None, None)  # batches; the reference keeps their ids unique
    body_passes: int = 0  # of the frozen layers over the training items in this epoch
    seconds: float = 0.0  # the time of these passes
    _stamps: tuple[Callable[[], object], str] = (lambda: None, "")  # of the files, and in which fit

    @property
    def buffers(self) -> list[FeatureBuffer]:
        return [buffer for entry in self.entries.values() for buffer in entry.buffers]

    def forget_work(self) -> None:
        self.body_passes, self.seconds = 0, 0.0

    def keep_only(self, boundaries: Collection[Boundary]) -> None:
        self.entries = {b: entry for b, entry in self.entries.items() if b in boundaries}

    def state_dict(self) -> list[dict[str, Any]]:
        entries = sorted(self.entries.items())
        return [{"groups": list(b), **entry.state_dict()} for b, entry in entries if entry.views]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Keep the entries that are unchanged, and add the others to be filled again."""
        known, self.entries = self.entries, {}
        for saved in state:
            boundary = tuple(saved["groups"])
            views, fused = list(saved["views"]), bool(saved.get("folded"))
            entry = CacheEntry(saved["mark"], views, fused)
            same = known.get(boundary)
            unchanged = same is not None and same.state_dict() == entry.state_dict()
            self.entries[boundary] = same if same is not None and unchanged else entry

    def entry_for(
        self, fit: FitContext, boundary: Boundary, probe: Callable[[], Any]
    ) -> CacheEntry:
        """The entry at a boundary, synced with model and data; without values it has a `reason`.

        `probe` returns a few items as inputs of the model.
        """
        data = (fit.learner.data.train, fit.valid)  # `fit.train` may leave some items out
        if not all(map(is_, self.data, data)):
            # Entries that were loaded have no values yet, so nothing of the old data.
            self.entries = {b: e for b, e in self.entries.items() if e.views and not e.buffers}
            self.data = data
        with as_if_inactive(fit.groups, boundary) as inactive:
            tensors, modules = _tensors_of(fit.model, inactive), list(fit.model.modules())
            fingerprint = _fingerprint(fit, inactive, tensors)
            if self._stamps[0]() is not fit:  # once for each fit: it asks for every file
                self._stamps = (ref(fit), fit.learner.data.file_stamps())
            facts = _attributes(inactive) | {"files": self._stamps[1]}
            entry = self.entries.get(boundary)
            known = entry is not None and entry.fingerprint == fingerprint
            if entry is None or not known or not entry.facts.items() <= facts.items():
                entry = CacheEntry(fingerprint)
            if [*map(id, entry.modules)] != [*map(id, modules)]:
                entry = _with_cut(fit, entry, _paths(fit.model, inactive), probe)
                changed = _attributes(inactive).items() - facts.items()  # such as counts of calls
                entry.facts = {k: v for k, v in facts.items() if k not in dict(changed)}
        entry.tensors, entry.modules = tensors, modules
        if entry.cut is not None:  # hooks may be added or removed, so check each time
            hooked = foreign_hooks(fit.model, entry.cut)
            entry.reason = hooked and f"there are hooks on {hooked}, which would see nothing"
        self.entries[boundary] = entry
        return entry

    def give_up(self, entry: CacheEntry, reason: str) -> None:
        """Drop the values and do not try again until the model changes."""
        entry.views, entry.train, entry.valid, entry.cut = [], None, None, None
        entry.reason = reason

    def reserve(
        self, fit: FitContext, entry: CacheEntry, views: int, config: FeatureCacheConfig
    ) -> bool:
        """Allocate the buffers of an entry; if a process has no space, none has the entry."""
        assert entry.cut is not None
        problem = ""
        left = config.left_by(self.buffers)
        try:
            specs, items = entry.cut.tensors, items_in(fit.train) or 0
            entry.train = FeatureBuffer(items, views, specs, left)
            items = 0 if fit.valid is None else items_in(fit.valid) or 0
            if items:
                entry.valid = FeatureBuffer(items, 1, specs, left.left_by([entry.train]))
        except NoSpaceError as error:
            problem = str(error)
        # One process without space must not leave the others to train on cached values alone.
        problem = fit.processes.any_text("space for outputs of the frozen layers", problem)
        if problem:
            self.give_up(entry, problem)
        return not problem

    def fill(self, fit: FitContext, entries: Sequence[CacheEntry], epochs: Sequence[int]) -> None:
        """Run the frozen layers over views of the training items, and over the validation items.

        One pass fills all these entries, which have buffers. The views have the augmentation of
        these epochs; lost views come first. Where model or data differ from the trial, the entries
        are given up.
        """
        try:
            self._fill(fit, entries, epochs)
        except NoCutError as problem:
            for entry in entries:
                self.give_up(entry, str(problem))

    def _fill(self, fit: FitContext, entries: Sequence[CacheEntry], epochs: Sequence[int]) -> None:
        lost = 0
        for entry in entries:
            if entry.train is not None and not entry.train.is_filled:
                lost, entry.views = len(entry.views), []
        cuts = [entry.cut for entry in entries if entry.cut is not None]
        part = FrozenPart(fit.model, cuts, fuse=all(entry.fused for entry in entries))
        for number, epoch in enumerate(epochs):
            started = time.perf_counter()
            places = [(e.train, len(e.views)) for e in entries if e.train is not None]
            view = fit.learner.data.views(None if epoch == UNVARIED else epoch)
            _run_over(fit, part, view, places)
            for entry in entries:
                entry.views.append(epoch)
            if number >= lost:  # work that a resumed run repeats does not count for this epoch
                self.body_passes += 1
                self.seconds += time.perf_counter() - started
        valid = [(e.valid, 0) for e in entries if e.valid is not None and not e.valid.is_filled]
        if valid:
            _run_over(fit, part, fit.valid, valid)


def _with_cut(
    fit: FitContext, entry: CacheEntry, paths: Sequence[str], probe: Callable[[], Any]
) -> CacheEntry:
    """The entry for the current modules; it keeps its values if the rest needs the same ones."""
    try:
        with fit.accelerator.autocast():
            cut = find_cut(fit.model, paths, probe())
    except NoCutError as problem:
        return CacheEntry(entry.fingerprint, reason=str(problem))
    if texts_of(fit.learner.data.train) and any(len(tensor.shape) > 1 for tensor in cut.tensors):
        return CacheEntry(entry.fingerprint, reason="texts differ in their number of tokens")
    if entry.cut is not None and not entry.cut.caches_same_as(cut):
        return CacheEntry(entry.fingerprint, cut=cut)
    entry.cut, entry.reason = cut, ""
    return entry


def _tensors_of(model: nn.Module, inactive: Sequence[nn.Module]) -> list[Tensor]:
    fixed = [p for p in model.parameters() if not p.requires_grad]
    buffers = {id(b): b for module in inactive for b in module.buffers()}
    return [*fixed, *buffers.values()]


def _attributes(modules: Sequence[nn.Module]) -> dict[Any, str]:
    """Numbers, texts and lists in the modules, which people change between fits."""
    return {
        (id(module), name): stable_text(value)
        for outer in modules
        for module in outer.modules()
        for name, value in vars(module).items()
        if not name.startswith("_") and name != "training" and isinstance(value, _ATTRIBUTES)
    }


def _paths(model: nn.Module, modules: Sequence[nn.Module]) -> list[str]:
    wanted = set(modules)
    return [path for path, module in model.named_modules() if module in wanted]


def _fingerprint(fit: FitContext, inactive: Sequence[nn.Module], tensors: Sequence[Tensor]) -> int:
    built = [(path, fit.model.get_submodule(path)) for path in _paths(fit.model, inactive)]
    lines = [f"{path} {type(module).__name__} {module.extra_repr()}" for path, module in built]
    text = stable_text([*lines, fit.learner.data.fingerprint(), fit.accelerator.mixed_precision])
    found = zlib.crc32(text.encode())
    for tensor in tensors:
        found = checksum(tensor, found)
    return found


def _run_over(
    fit: FitContext, part: FrozenPart, batches: Any, places: Sequence[tuple[FeatureBuffer, int]]
) -> None:
    """Run the frozen layers over all items in their order; write to a view of each buffer."""
    done, expected, title = 0, items_in(batches), "outputs of the frozen layers"
    order = order_of(batches)
    with evaluating(fit.model), fit.learner.reporter.bar(title, len(batches)) as bar:
        for shard in shards_of(batches, fit.processes):
            found, targets = _outputs(fit, shard, part)
            positions: Sequence[int] = range(done, done + shard.n_items)
            if order is not None:
                positions = order[done : done + shard.n_items]
            for (buffer, view), values in zip(places, found, strict=True):
                buffer.write(view, positions, values, targets)
            done += shard.n_items
            bar.advance()
    if done != expected:
        raise NoCutError(f"the data have {done} items, but report {expected}")


def _outputs(fit: FitContext, shard: Shard, part: FrozenPart) -> tuple[list[list[Tensor]], Tensor]:
    """The values of a whole batch at each cut, and its targets, from all processes."""
    inputs, targets = labelled(to_device(shard.batch, fit.accelerator.device))
    with fit.accelerator.autocast():
        found = part.run(inputs)
    fit.processes.barrier("outputs of the frozen layers", {"batch": shard.check})
    joined = [[_joined(value, shard, fit.processes) for value in values] for values in found]
    return joined, _joined(targets, shard, fit.processes)


def _joined(rows: Tensor, shard: Shard, processes: Processes) -> Tensor:
    if not processes.is_distributed:
        return rows
    places = torch.tensor(shard.positions[: shard.n_counted], dtype=torch.long)
    own = rows[: shard.n_counted]
    if own.ndim == 4 and not own.is_contiguous():  # gloo ignores strides: send channels last
        return processes.in_order(own.permute(0, 2, 3, 1).contiguous(), places).permute(0, 3, 1, 2)
    return processes.in_order(own.contiguous(), places)
