"""Train a learner as a trial, then restore everything exactly.

The trial runs on the model itself, not on a copy, since a loss or a hook may refer to the model.
Everything that it may change is saved first, and restored however the trial ends.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from layergroups import anatomy
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
    if learner.processes.is_distributed:
        raise TrainingError(
            f"lr_find runs in one process, not in {learner.processes.world}. Run it in a separate "
            "script, without torchrun, and pass the rates to the fit: "
            "learn.fit_one_cycle(3, lr={...})."
        )
    learner.placed_model()
    learner.layer_groups.sync()
    snapshot = Snapshot(learner)
    try:
        snapshot.begin()
        with keep_freed_memory():
            yield snapshot
    finally:
        with uninterrupted():
            snapshot.restore()


class Snapshot:
    """Everything that a trial may change; the learner is on its device, its groups are synced."""

    def __init__(self, learner: LearnerState) -> None:
        self.learner = learner
        self._opt = learner.opt
        self._scaler = learner.accelerator.scaler
        self._scale = None if self._scaler is None else dict(self._scaler.state_dict())
        loss = learner.loss_func
        roots = [learner.model, *([loss] if isinstance(loss, nn.Module) else [])]
        self._modules = [module for root in roots for module in each_module(root)]
        owners = [learner, learner.groups, learner.cache, learner.data.train, *self._modules]
        self._contents = anatomy.Snapshot(_containers(owners), deep=False)
        own = (p for module in self._modules for p in own_parameters(module).values())
        parameters = {id(p): p for p in own if p is not None}
        self._parameters = [(p, p.requires_grad, p.grad) for p in parameters.values()]
        self._tensors = [(t, t.detach().clone()) for t in _tensors(self._modules) if _may_change(t)]
        self._versions = [version(tensor) for tensor, _ in self._tensors]
        self._random = random_state()
        self._train = learner.data.train
        self._data = random_start(self._train)

    def begin(self) -> None:
        """Prepare a trial: a copy of the optimizer, no gradients, no callbacks."""
        for parameter, _, _ in self._parameters:
            parameter.grad = None
        for module in self._modules:  # recompiling for each freezing would take longer than a trial
            call_uncompiled(module)
        self.learner.callbacks = []
        self.learner.opt = None if self._opt is None else self._copied(self._opt)
        self.learner.made_optimizer()

    def rewind(self) -> None:
        """Restore the start for the next trial."""
        with uninterrupted():
            self.restore()
            self.begin()

    def restore(self) -> None:
        """Restore everything, each part even if a different one fails."""
        with ExitStack() as last_first:
            last_first.callback(load_random_state, *self._random)
            last_first.callback(begin_again, self._train, self._data)
            if self._scaler is not None:
                last_first.callback(self._scaler.load_state_dict, self._scale)
            last_first.callback(self._restore_tensors)
            last_first.callback(self._contents.restore)

    def _restore_tensors(self) -> None:
        with torch.no_grad():
            for tensor, saved in self._tensors:
                if tensor.shape != saved.shape:
                    tensor.resize_(saved.shape)
                tensor.data.copy_(saved)
        for parameter, trains, gradient in self._parameters:
            if parameter.requires_grad != trains:
                parameter.requires_grad_(trains)
            parameter.grad = gradient
        # The version counters too: the feature cache uses them to detect writes.
        set_versions([tensor for tensor, _ in self._tensors], self._versions)

    def _copied(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        held = [p for group in optimizer.param_groups for p in group["params"]]
        return copy.deepcopy(optimizer, {id(p): p for p in held})


def _containers(owners: Iterable[object]) -> Iterator[object]:
    for owner in owners:
        attributes = getattr(owner, "__dict__", None)
        if attributes is not None:
            yield attributes
            yield from (v for v in attributes.values() if isinstance(v, dict | list | set))


def _tensors(modules: Iterable[nn.Module]) -> Iterator[Tensor]:
    """Parameters, buffers and tensor attributes of modules, each once."""
    seen: set[int] = set()
    for module in modules:
        for value in module.__dict__.values():
            inside = value.values() if isinstance(value, dict) else [value]
            for tensor in inside:
                if isinstance(tensor, Tensor) and id(tensor) not in seen:
                    seen.add(id(tensor))
                    yield tensor


def _may_change(tensor: Tensor) -> bool:
    """Whether in-place operations can write to it; not if its elements share memory."""
    if tensor.is_meta or tensor.is_inference() or tensor.layout != torch.strided:
        return False
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    return not any(size > 1 and stride == 0 for size, stride in sizes)
