"""What each block of a model needs on these data, measured: gradients, their noise, what moves.

Sources: relative gradient norm and signal-to-noise ratio: Lee et al. 2022, «Surgical Fine-Tuning
Improves Adaptation to Distribution Shifts» (their Auto-RGN and Auto-SNR). The ratio of sums by
which signal is told from noise: McCandlish et al. 2018, «An Empirical Model of Large-Batch
Training». Change of a representation as 1 - linear CKA: Kornblith et al. 2019, «Similarity of
Neural Network Representations Revisited», between before and after training as in Neyshabur et al.
2020, «What is being transferred in transfer learning?».
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from layergroups.errors import TrainingError
from layergroups.training.checks import BATCH_OF_ONE, is_batch_of_one, labelled
from layergroups.training.device import to_device
from layergroups.training.layout import in_safe_layout
from layergroups.training.losses import checked_loss
from layergroups.training.modes import evaluating

if TYPE_CHECKING:
    from layergroups.anatomy import Block
    from layergroups.training.looking import Looking


@dataclass(frozen=True)
class Evidence:
    """What was measured of some parameters that belong together.

    Attributes:
        name: of the block or layer group.
        parameters: how many scalars.
        relative_gradient: norm of the mean gradient over norm of the weights.
        signal_to_noise: squared norm of the gradient, without what noise adds to it, over the
            variance of a batch's gradient.
        change: 1 - linear CKA of its outputs before and after a few steps in which all groups
            train at the same rate; None where it has no output of its own.
    """

    name: str
    parameters: int
    relative_gradient: float
    signal_to_noise: float
    change: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        return dict(vars(self))


@dataclass
class Sums:
    """Gradients of one parameter over batches.

    Attributes:
        total: their sum.
        squares: the sum of their squared norms.
    """

    total: Tensor
    squares: float = 0.0

    def add(self, gradient: Tensor) -> None:
        """Take in one more."""
        self.total += gradient
        self.squares += float(gradient.double().square().sum())


@dataclass
class Gradients:
    """Gradients of all parameters over batches.

    Attributes:
        sums: by the parameter's name.
        batches: how many were taken in.
    """

    sums: dict[str, Sums] = field(default_factory=dict)
    batches: int = 0

    def add(self, model: nn.Module, scale: float) -> None:
        """Take in those of one batch, which were multiplied by `scale`."""
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                gradient = parameter.grad.detach().float() / scale
                if name not in self.sums:
                    self.sums[name] = Sums(torch.zeros_like(gradient))
                self.sums[name].add(gradient)
        self.batches += 1

    def evidence(
        self, name: str, members: Mapping[str, Tensor], change: float | None = None
    ) -> Evidence:
        """What they say of some parameters."""
        n = self.batches
        known = [self.sums[member] for member in members if member in self.sums]
        mean = sum(float((sums.total / n).double().square().sum()) for sums in known)
        noise = (sum(sums.squares for sums in known) - n * mean) / (n - 1)
        signal = max(0.0, mean - noise / n)
        weights = sum(float(p.detach().double().square().sum()) for p in members.values())
        return Evidence(
            name=name,
            parameters=sum(p.numel() for p in members.values()),
            relative_gradient=math.sqrt(mean / weights) if weights else 0.0,
            signal_to_noise=signal / noise if noise > 0 else math.inf if signal else 0.0,
            change=change,
        )


def gradients(learner: Looking, batches: Iterable[Any], done: Callable[[], None]) -> Gradients:
    """Of the loss of each batch, as in training; no weight moves.

    Args:
        learner: with its model in training mode, and all parameters to look at trainable.
        batches: pairs (inputs, targets).
        done: called after each.

    Raises:
        TrainingError: the loss cannot be computed, or a batch has one item beside batch norm.
    """
    model, accelerator, found = learner.groups.model, learner.accelerator, Gradients()
    for batch in batches:
        inputs, targets = labelled(to_device(batch, accelerator.device))
        model.zero_grad(set_to_none=True)
        try:
            with accelerator.autocast():
                outputs = model(in_safe_layout(inputs, model.modules()))
                loss = checked_loss(learner.loss_func, outputs, targets)
        except ValueError as cause:
            if is_batch_of_one(cause, targets):
                raise TrainingError(BATCH_OF_ONE) from cause
            raise
        accelerator.backward(loss)
        scaler = accelerator.scaler
        found.add(model, 1.0 if scaler is None else scaler.get_scale())
        done()
    model.zero_grad(set_to_none=True)
    return found


def grams(learner: Looking, blocks: Sequence[Block], batch: Any) -> dict[int, Tensor]:
    """For each block's outputs of a batch of n items their centred products, (n, n).

    They are all that linear CKA looks at, whatever the layout of channels, places and tokens.
    """
    model, accelerator = learner.groups.model, learner.accelerator
    inputs, targets = labelled(to_device(batch, accelerator.device))
    found: dict[int, Tensor] = {}
    with evaluating(model), _listening(model, blocks, found, len(targets)), accelerator.autocast():
        model(in_safe_layout(inputs, model.modules()))
    return found


def change_of(before: Tensor, after: Tensor) -> float:
    """1 - linear CKA, from the centred products (n, n) of the same items; 0 to 1."""
    lengths = before.norm() * after.norm()
    return max(0.0, 1.0 - float((before * after).sum() / lengths)) if lengths else 0.0


@contextmanager
def _listening(
    model: nn.Module, blocks: Sequence[Block], found: dict[int, Tensor], items: int
) -> Iterator[None]:
    handles = []
    for block in blocks:
        path = last_module(block, blocks)
        if path:
            take = partial(_take, found, block.index, items)
            handles.append(model.get_submodule(path).register_forward_hook(take))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def last_module(block: Block, blocks: Sequence[Block]) -> str:
    """Path of the last module that a block alone is made of; empty if there is none."""
    others = [path for other in blocks if other is not block for path in other.modules]

    def is_own(path: str) -> bool:
        shared = any(p == path or p.startswith(f"{path}.") for p in others)
        return bool(path) and not shared

    return next((path for path in reversed(block.modules) if is_own(path)), "")


def _take(
    found: dict[int, Tensor], index: int, items: int, module: nn.Module, args: Any, output: Any
) -> None:
    """A hook: the products of an output that has a row for each item."""
    for value in tree_leaves(output):
        if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1:
            if len(value) == items:
                rows = value.detach().float().flatten(1)
                rows = rows - rows.mean(dim=0)
                found[index] = (rows @ rows.T).double().cpu()
            return  # the first such value is the output
