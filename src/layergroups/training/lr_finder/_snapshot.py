"""Try something on a learner for real, and have everything as it was before, to the bit.

The trial runs on the model itself, not on a copy: a loss or a hook that holds the model sees it
train as in any fit. What it may change is written down first, and put back however the trial ends.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layergroups._interrupts import uninterrupted
from layergroups._torch import call_uncompiled, each_module, own_parameters, set_versions, version
from layergroups.checkpoints import load_random_state, random_state
from layergroups.errors import TrainingError
from layergroups.training.hardware import keep_freed_memory
from layergroups.training.loop import begin_again, random_start

if TYPE_CHECKING:
    from layergroups.training.state import LearnerState


@contextmanager
def restoring(learner: LearnerState) -> Iterator[Snapshot]:
    """For a trial: at its end, also by an exception or Ctrl-C, the learner is as at its start.

    Weights, buffers and their version counters, what modules keep in attributes, gradients,
    `requires_grad`, modes, hooks, freezing, rates, optimizer, counts, history, the place in the
    data and the random states of Python, NumPy and torch. It takes the memory of the model once
    more.

    Raises:
        TrainingError: several processes train together; a trial of one would leave the others.
    """
    if learner.processes.several:
        raise TrainingError(
            "lr_find tries things out on one process, here are "
            f"{learner.processes.world}. Run them in a script of its own, without torchrun, and "
            "give what they find to the fit: learn.fit_one_cycle(3, lr={...})."
        )
    learner.placed_model()
    learner.layer_groups.sync()
    moment = Snapshot(learner)
    try:
        moment.begin()
        with keep_freed_memory():
            yield moment
    finally:
        with uninterrupted():
            moment.restore()


class Snapshot:
    """All that a trial may change, as it is now.

    Args:
        learner: on its device, its groups in step with the model.
    """

    def __init__(self, learner: LearnerState) -> None:
        self.learner = learner
        self._opt = learner.opt
        self._scaler = learner.accelerator.scaler
        self._scale = None if self._scaler is None else dict(self._scaler.state_dict())
        modules = [m for root in _roots(learner) for m in each_module(root)]
        owners = [learner, learner.groups, learner.store, learner.data.train, *modules]
        self._owners = [_Owner(owner) for owner in owners if hasattr(owner, "__dict__")]
        self._modules = modules
        parameters = {
            id(p): p for m in modules for p in own_parameters(m).values() if p is not None
        }
        self._parameters = [(p, p.requires_grad, p.grad) for p in parameters.values()]
        self._tensors = [
            (t, t.detach().clone(), version(t)) for t in _tensors(modules) if _may_change(t)
        ]
        self._random = random_state()
        self._data = random_start(learner.data.train)

    def begin(self) -> None:
        """Make ready for a trial: an optimizer of its own, no gradients, no callbacks."""
        for parameter, _, _ in self._parameters:
            parameter.grad = None
        for module in self._modules:  # compiling again for each freezing takes longer than a trial
            call_uncompiled(module)
        self.learner.callbacks = []
        self.learner.opt = None if self._opt is None else self._copied(self._opt)
        self.learner.made_optimizer()

    def rewind(self) -> None:
        """Go back to the start, for the next trial."""
        with uninterrupted():
            self.restore()
            self.begin()

    def restore(self) -> None:
        """Put everything back."""
        for owner in self._owners:
            owner.restore()
        with torch.no_grad():
            for tensor, saved, _ in self._tensors:
                tensor.data.copy_(saved)
        for parameter, trains, gradient in self._parameters:
            if parameter.requires_grad != trains:
                parameter.requires_grad_(trains)
            parameter.grad = gradient
        tensors = tuple(tensor for tensor, _, _ in self._tensors)
        versions = tuple(version for _, _, version in self._tensors)
        set_versions(tensors, versions)
        if self._scaler is not None:
            self._scaler.load_state_dict(self._scale)
        begin_again(self.learner.data.train, self._data)
        load_random_state(*self._random)

    def _copied(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """With all that it remembers, over the same parameters."""
        held = [p for group in optimizer.param_groups for p in group["params"]]
        return copy.deepcopy(optimizer, {id(p): p for p in held})


class _Owner:
    """An object's attributes, and what is in those that are plain containers."""

    def __init__(self, owner: Any) -> None:
        self._now: dict[str, Any] = owner.__dict__
        self._was = dict(self._now)
        self._containers = [(v, v.copy()) for v in self._was.values() if _is_container(v)]

    def restore(self) -> None:
        self._now.clear()
        self._now.update(self._was)
        for container, content in self._containers:
            if isinstance(container, list):
                container[:] = content
            else:
                container.clear()
                container.update(content)


def _is_container(value: object) -> bool:
    return type(value) in (dict, list, set, OrderedDict)


def _roots(learner: LearnerState) -> list[nn.Module]:
    """The model, and the loss where it is a module too."""
    loss = learner.loss_func
    return [learner.model, *([loss] if isinstance(loss, nn.Module) else [])]


def _tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Parameters, buffers and what modules keep besides, each once."""
    seen: set[int] = set()
    for module in modules:
        for value in module.__dict__.values():
            inside = value.values() if isinstance(value, dict) else [value]
            for tensor in inside:
                if isinstance(tensor, Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor


def _may_change(tensor: Tensor) -> bool:
    """Whether an operation in place could write to it: not where several places share memory."""
    if tensor.is_meta or tensor.is_inference() or tensor.layout != torch.strided:
        return False
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return not any(size > 1 and stride == 0 for size, stride in sizes)
