"""Batches for trials: read once, gone through many times; what frozen layers make of them, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from layergroups.errors import TrainingError
from layergroups.groups.freezing import StayInEval
from layergroups.training.checks import labelled
from layergroups.training.device import to_device
from layergroups.training.modes import evaluating
from layergroups.training.replay import NoPassageError, Passage, find_passage, forward_from, record
from layergroups.training.shares import count_items

if TYPE_CHECKING:
    from layergroups.groups import LayerGroups
    from layergroups.training.looking import Looking

_PROBE: Final = 3  # items by which it is found where the frozen layers end


class Room:
    """A bound on the bytes that are kept.

    Args:
        limit: in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, values: object) -> bool:
        """Whether these tensors may be kept; counts them if so."""
        size = sum(leaf.nbytes for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
        if size > self.left:
            return False
        self.left -= size
        return True


class TrialBatches:
    """The training batches of the coming epoch, over and over, always the same ones.

    They are kept as they are read, up to `room`; what does not fit is read again in each round.

    Args:
        learner: whose batches.
        room: for what is kept.
    """

    def __init__(self, learner: Looking, room: Room) -> None:
        self._learner = learner
        self._room = room
        self._kept: list[Any] = []
        self._open: Any = None
        self._read = 0
        self._whole = self._full = False

    def rounds(self) -> Iterator[tuple[int | None, Any]]:
        """Without end: batches with a number, None for one that may be another in the next round.

        Raises:
            TrainingError: there are no items in them.
        """
        while True:
            number = -1
            for number, batch in enumerate(self.round()):
                yield (number if number < len(self._kept) else None), batch
            if number < 0:
                raise TrainingError(
                    "There are no training batches to try anything on. Give photos: learn.dls = "
                    "ImageDataLoaders.from_folder(...)."
                )

    def round(self) -> Iterator[Any]:
        """Each batch once."""
        number = 0
        while number < len(self._kept) or self._read_on():
            yield self._kept[number]
            number += 1
        if self._full:
            yield from self._rest()

    def first(self, most: int) -> list[Any]:
        """The first batches of a round, at most so many and as many as there is room for."""
        while len(self._kept) < most and self._read_on():
            pass
        return self._kept[:most]

    def close(self) -> None:
        """Let go of what was being read."""
        if hasattr(self._open, "close"):
            self._open.close()

    def _read_on(self) -> bool:
        """Keep one more batch, if there is one and room for it."""
        if self._open is None:
            self._learner.begin_epoch(self._learner.dls.train, seeded=False)
            self._open = iter(self._learner.dls.train)
        while not (self._whole or self._full):
            batch = next(self._open, None)
            if batch is None:
                self._whole = True
            elif not count_items(batch):
                self._read += 1
            elif self._room.take(batch):
                self._kept.append(batch)
                self._read += 1
                return True
            else:
                self._full = True
                self.close()
        return False

    def _rest(self) -> Iterator[Any]:
        """What is not kept, read again."""
        source: Any = self._learner.dls.train
        self._learner.begin_epoch(source, seeded=False)
        quick = getattr(source, "starting_at", None)
        rest = islice(iter(source), self._read, None) if quick is None else quick(self._read)
        yield from (batch for batch in rest if count_items(batch))


class Shortcut:
    """The way of each batch through the model, on which frozen layers run only once.

    Args:
        learner: frozen as it is to be.
        batch: one of them, to find the way.
        room: for what is kept.
    """

    def __init__(self, learner: Looking, batch: Any, room: Room) -> None:
        self._model: nn.Module = learner.groups.model
        self._kept: dict[int, list[Tensor]] = {}
        self._room = room
        self.passage = _passage(learner, batch)

    def way(self, number: int | None) -> Callable[..., Any]:
        """From the inputs of a batch to the model's outputs.

        Args:
            number: of the batch, as `rounds` has it.
        """
        passage = self.passage
        if passage is None or number is None:
            return self._model

        def forward(inputs: Any) -> Any:
            values = self._kept.get(number)
            if values is None:
                with evaluating(self._model):
                    (values,) = record(self._model, [passage], inputs)
                if self._room.take(values):
                    self._kept[number] = values
            return forward_from(self._model, passage, values)

        return forward

    def forget(self) -> None:
        """Give the room back."""
        for values in self._kept.values():
            self._room.left += sum(value.nbytes for value in values)
        self._kept.clear()


def _passage(learner: Looking, batch: Any) -> Passage | None:
    """Where the frozen layers end, if what they give can stand for them."""
    groups = learner.groups
    paths = [] if groups.norms_train else _below(groups)
    if not paths:
        return None
    inputs, targets = labelled(to_device(batch, learner.accelerator.device))
    if len(targets) < _PROBE:
        return None
    try:
        with learner.accelerator.autocast():
            some = tree_map_only(Tensor, lambda t: t[:_PROBE], inputs)
            passage = find_passage(groups.model, paths, some)
    except NoPassageError:
        return None
    return None if _are_heard(groups.model, passage.calls) else passage


def _below(groups: LayerGroups) -> list[str]:
    """Paths of the modules of resting groups before the first one that trains."""
    rests = [frozen or rate == 0 for frozen, rate in zip(groups.frozen, groups.rates, strict=True)]
    first = rests.index(False) if False in rests else 0
    layers = {layer for group in groups[:first] for layer in group.layers}
    resting = set(groups.resting_modules(groups.resting))

    def is_below(module: nn.Module) -> bool:
        return all(m in layers for m in module.modules() if not any(m.children()))

    named = groups.model.named_modules()
    return [path for path, module in named if module in resting and is_below(module)]


def _are_heard(model: nn.Module, calls: Mapping[Any, Any]) -> bool:
    """Whether somebody listens to layers that would not run."""
    below = {m for call in calls for m in model.get_submodule(call.path).modules()}
    hooks = [h for m in below for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    return not all(isinstance(hook, StayInEval) for hook in hooks)
