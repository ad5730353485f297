"""Everything of a learner that a trial or a refused fit may change, to put it back exactly.

The work runs on the model itself, not on a copy, since a loss or a hook may refer to the model.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from layergroups import anatomy
from layergroups._interrupts import uninterrupted
from layergroups._torch import call_uncompiled, each_module, own_parameters, set_versions, version
from layergroups.checkpoints import load_random_state, random_state
from layergroups.training.loop._resuming import begin_again, random_start
from layergroups.training.state import LearnerState


class Snapshot:
    """What a learner is: the values, not only the objects.

    Buffers and their version counters, attributes of modules, gradients, `requires_grad`, modes,
    hooks, freezing, rates, optimizer, counts, history, the place in the data and the random states
    of Python, NumPy and torch.

    With `weights` also the values of parameters, for a trial that trains.
    """

    def __init__(self, learner: LearnerState, *, weights: bool) -> None:
        self.learner = learner
        self._groups, self._settings = learner.layer_groups, learner.layer_groups.state_dict()
        self._opt = learner.opt
        self._scaler = learner.accelerator.scaler
        self._scale = None if self._scaler is None else dict(self._scaler.state_dict())
        loss = learner.loss_func
        roots = [learner.model, *([loss] if isinstance(loss, nn.Module) else [])]
        self._modules = [module for root in roots for module in each_module(root)]
        owners = [learner, learner.groups, learner.cache, learner.data.train, *self._modules]
        held = [] if self._opt is None else [self._opt.state, *self._opt.param_groups]
        self._contents = anatomy.Snapshot([*_containers(owners), *held], deep=False)
        own = (p for module in self._modules for p in own_parameters(module).values())
        parameters = {id(p): p for p in own if p is not None}
        self._parameters = [(p, p.requires_grad, p.grad) for p in parameters.values()]
        changing = filter(_may_change, _tensors(self._modules))
        tensors = [t for t in changing if weights or id(t) not in parameters]
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._versions = [version(tensor) for tensor in tensors]
        self._random = random_state()
        self._train = learner.data.train
        self._data = random_start(self._train)

    def begin(self) -> None:
        """Prepare a trial: a copy of the optimizer, no gradients, no callbacks."""
        for parameter, _, _ in self._parameters:
            parameter.grad = None
        for module in self._modules:  # recompiling for each freezing would take longer than a trial
            call_uncompiled(module)
        self.learner.compile, self.learner.callbacks = None, []
        if self._opt is not None:
            held = {id(p): p for group in self._opt.param_groups for p in group["params"]}
            self.learner.opt = made = copy.deepcopy(self._opt, held)
            if (inner := vars(self._opt).get("_base_optimizer")) is not None:  # copies lack it
                vars(made)["_base_optimizer"] = copy.deepcopy(inner, held)
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
            # first, because it reaches the rates of other optimizers that are attached
            last_first.callback(self._groups.load_state_dict, self._settings, strict=False)

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
