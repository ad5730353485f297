"""What a learner keeps of the outputs of frozen layers, and what shows that it is out of date.

A *boundary* lies after the layer groups that rest, and is named by their indices. At each boundary
that is kept there are a mark, of all that the values depend on, and the shelves with the values.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import is_
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layergroups.groups.freezing import StayInEval, as_if_resting
from layergroups.training.replay import NoPassageError, Passage, find_passage

if TYPE_CHECKING:
    from layergroups.training.folding import Folding
    from layergroups.training.run import Run
    from layergroups.training.shelf import Shelf

Resting = tuple[int, ...]

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of a function, another one in each process


@dataclass
class Kept:
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
    passage: Passage | None = None
    train: Shelf | None = None
    valid: Shelf | None = None
    views: list[int] = field(default_factory=list)
    room: int = 1
    folded: bool = False
    modules: Sequence[nn.Module] = ()
    reason: str = ""

    @property
    def shelves(self) -> list[Shelf]:
        """Those that there are."""
        return [shelf for shelf in (self.train, self.valid) if shelf is not None]

    def state_dict(self) -> dict[str, Any]:
        """What is needed to fill it again, JSON-ready."""
        return {"mark": self.mark, "views": list(self.views), "folded": self.folded}


@dataclass
class FeatureStore:
    """What a learner keeps between its fits, for one boundary or several.

    Attributes:
        kept: by boundary.
        data: the training and validation batches, held so that they are not taken for others.
        pending: marks and views of what was lost with its process, by boundary.
        folding: how the frozen layers were run last.
    """

    kept: dict[Resting, Kept] = field(default_factory=dict)
    data: tuple[object, object] = (None, None)
    pending: dict[Resting, Mapping[str, Any]] = field(default_factory=dict)
    folding: Folding | None = None

    @property
    def shelves(self) -> list[Shelf]:
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


def kept_at(run: Run, store: FeatureStore, boundary: Resting, probe: Callable[[], Any]) -> Kept:
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


def _is_built_so(model: nn.Module, kept: Kept) -> bool:
    """Whether the model is made of the modules of which the passage was found."""
    now = list(model.modules())
    return len(now) == len(kept.modules) and all(map(is_, now, kept.modules))


def _looked_again(
    run: Run,
    mark: int,
    resting: Sequence[nn.Module],
    kept: Kept | None,
    probe: Callable[[], Any],
) -> Kept:
    """With the passage found anew; values stay if they are true and are what the rest needs."""
    modules = list(run.model.modules())
    try:
        passage = find_passage(run.model, _paths(run.model, resting), probe())
    except NoPassageError as problem:
        return Kept(mark, modules=modules, reason=str(problem))
    if kept is None or kept.mark != mark or kept.passage is None:
        return Kept(mark, passage=passage, modules=modules)
    if kept.passage.needs != passage.needs:
        return Kept(mark, passage=passage, modules=modules)
    return replace(kept, passage=passage, modules=modules)


def _strangers(model: nn.Module, passage: Passage) -> Iterator[str]:
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


def _mark(run: Run, resting: Sequence[nn.Module]) -> int:
    """A checksum of all that the values depend on."""
    data = run.learner.dls
    told = [getattr(data, name, "") for name in ("size", "input", "augment", "crop_pct", "seed")]
    built = [(path, run.model.get_submodule(path)) for path in _paths(run.model, resting)]
    lines = [f"{path} {type(module).__name__} {module.extra_repr()}" for path, module in built]
    text = _ADDRESS.sub("", repr([*lines, *told, run.accelerator.mixed_precision]))
    mark = zlib.crc32(text.encode())
    for tensor in _tensors_of(run.model, resting):
        plain = tensor.detach().cpu().contiguous().reshape(-1)
        mark = zlib.crc32(plain.view(torch.uint8).numpy().data if len(plain) else b"", mark)
    return mark
