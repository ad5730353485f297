"""What a frozen body gives is a constant: run it once, keep it, and train the head from that.

A small store in memory, for one phase of one fit. The body's outputs are kept after those first
layers of the head that only pool or reshape, which makes them about a hundred times smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layergroups.data.shares import Share
from layergroups.errors import TrainingError
from layergroups.training.checks import labelled
from layergroups.training.device import to_device
from layergroups.training.distributed import ALONE, Processes
from layergroups.training.modes import evaluating
from layergroups.training.replay import RESHAPING
from layergroups.training.shares import shares_of

if TYPE_CHECKING:
    from accelerate import Accelerator

    from layergroups.groups import LayerGroups


@dataclass(frozen=True, eq=False)
class Stored:
    """Outputs of the body and the targets, in the order of the photos.

    Attributes:
        views: for each pass over the photos, features (N, ...).
        targets: (N,), the same for every view.
    """

    views: tuple[Tensor, ...]
    targets: Tensor

    def take(self, positions: Sequence[int]) -> Stored:
        """The photos at these positions, in all views."""
        index = torch.tensor(positions, dtype=torch.long, device=self.targets.device)
        return Stored(tuple(view[index] for view in self.views), self.targets[index])

    def __len__(self) -> int:
        return len(self.targets)


class TooLargeError(TrainingError):
    """The outputs of the body would need more memory than is allowed."""


@dataclass(frozen=True)
class StoredBatches:
    """Batches from the store, as a training loop wants them.

    One pass goes through every photo in every view once.

    Attributes:
        stored: the features.
        batch_size: items in a batch; a last batch of one item is left out.
        passes: how often to go through all.
        seed: of the order, drawn anew for each pass; None keeps the order of the photos.
    """

    stored: Stored
    batch_size: int
    passes: int = 1
    seed: int | None = None

    @property
    def per_pass(self) -> int:
        """Batches in one pass."""
        return len(self._bounds())

    def __len__(self) -> int:
        return self.passes * self.per_pass

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator()
        if self.seed is not None:
            generator.manual_seed(self.seed)
        device = self.stored.targets.device
        features = torch.cat(self.stored.views)
        targets = torch.cat([self.stored.targets] * len(self.stored.views))
        for _ in range(self.passes):
            order = torch.arange(len(targets))
            if self.seed is not None:
                order = torch.randperm(len(targets), generator=generator)
            for start, end in self._bounds():
                chosen = order[start:end].to(device)
                yield features[chosen], targets[chosen]

    def _bounds(self) -> list[tuple[int, int]]:
        total = len(self.stored) * len(self.stored.views)
        starts = range(0, total, self.batch_size)
        bounds = [(start, min(start + self.batch_size, total)) for start in starts]
        whole = [(start, end) for start, end in bounds if end - start > 1]
        return bounds if self.seed is None else whole


def why_not(model: nn.Module, groups: LayerGroups) -> str | None:
    """Why the head cannot be trained on stored outputs of the body; None if it can."""
    if type(model) is not nn.Sequential or len(model) != 2:
        return "the model is not a plain Sequential of body and head"
    body, head = set(model[0].parameters()), set(model[1].parameters())
    if body & head:
        return "body and head share parameters"
    if not any(p.requires_grad for p in head):
        return "the head is frozen"
    for group, rate in zip(groups, groups.rates, strict=True):
        in_body = body.intersection(group.parameters())
        if in_body and not (group.frozen or rate == 0):
            return f"group {group.name!r} holds layers of the body and is not frozen"
    if any(p.requires_grad for p in body):
        return "norm layers of the body still train"
    if any(m._forward_hooks or m._forward_pre_hooks for m in (model, model[1])):
        return "there are hooks on the model or its head"
    return None


def split_head(head: nn.Module) -> int:
    """How many first layers of a head only pool or reshape; 0 unless it is a plain Sequential."""
    if type(head) is not nn.Sequential:
        return 0
    count = 0
    for layer in head:
        if type(layer) not in RESHAPING or layer._forward_hooks or layer._forward_pre_hooks:
            break
        count += 1
    return count


def forward_rest(head: nn.Module, first: int, features: Tensor) -> Tensor:
    """Features through the head, without its first layers."""
    if first == 0:
        whole: Tensor = head(features)
        return whole
    assert isinstance(head, nn.Sequential)
    for layer in list(head)[first:]:
        features = layer(features)
    return features


def store(
    model: nn.Module,
    passes: Iterable[Iterable[Any]],
    *,
    accelerator: Accelerator,
    max_bytes: int,
    advance: Callable[[], None],
    processes: Processes = ALONE,
) -> Stored:
    """Run the frozen body over each pass of batches and keep what comes out.

    Args:
        model: body and head.
        passes: each the same photos in the same order, in other views.
        accelerator: where and in which precision to compute; the features stay there.
        max_bytes: the most that they may take.
        advance: called after every batch.
        processes: who share the work; each gets the features of all photos.

    Raises:
        TooLargeError: the features need more.
        TrainingError: the passes do not have the same targets in the same order.
    """
    body, head = model.get_submodule("0"), model.get_submodule("1")
    first = split_head(head)
    views: list[Tensor] = []
    targets: Tensor | None = None
    room = max_bytes // processes.world  # for what each process finds itself
    with evaluating(model):
        for batches in passes:
            kept = _Pass(room)
            for share in shares_of(batches, processes):
                inputs, labels = labelled(to_device(share.batch, accelerator.device))
                with accelerator.autocast():
                    features = _reshaped(head, first, body(inputs))
                kept.add(share, features, labels)
                advance()
                if kept.room < 0:
                    break
            view, these = kept.joined(processes, max_bytes)
            room = kept.room
            views.append(view)
            if targets is not None and not torch.equal(targets, these):
                raise TrainingError("The views of the training photos differ in their order.")
            targets = these
    assert targets is not None
    return Stored(tuple(view.clone() for view in views), targets.clone())


class _Pass:
    """What one process keeps of one pass over the photos."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._rows: list[tuple[Tensor, Tensor, Tensor]] = []
        self._whole = 0

    def add(self, share: Share, features: Tensor, labels: Tensor) -> None:
        """Keep its share of a batch."""
        places = torch.tensor(share.positions[: share.own], dtype=torch.long) + self._whole
        self._rows.append((features[: share.own], labels[: share.own], places))
        self._whole += share.items
        self.room -= features.numel() * features.element_size()

    def joined(self, processes: Processes, max_bytes: int) -> tuple[Tensor, Tensor]:
        """Features and targets of all photos, in their order.

        Raises:
            TooLargeError: they need too much memory, in any process.
        """
        said = processes.meet("the features of a pass", say=[self.room < 0])
        if any(full for (full,) in said):
            raise TooLargeError(f"the body's outputs need more than {max_bytes >> 20} MB")
        if not self._rows:
            raise TrainingError("There are no photos to run the body over.")
        features, labels, places = (torch.cat(column) for column in zip(*self._rows, strict=True))
        return processes.in_order(features, places), processes.in_order(labels, places)


def _reshaped(head: nn.Module, first: int, features: Tensor) -> Tensor:
    for layer in list(head.children())[:first]:
        features = layer(features)
    return features
