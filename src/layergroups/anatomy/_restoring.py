"""Looking changes nothing: a model, and all that it holds, is as it was before a dry run."""

from __future__ import annotations

import logging
import operator
import random
import sys
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.backends import mha

from layergroups._torch import each_module, fake_tensor_log, own_tensors

_UNSET = object()
_LARGEST = 10_000  # a longer container is data, not something that a forward fills
_LEAVES = (str, bytes, int, float, complex, type(None), type, ModuleType)
_STDLIB_HOLDERS = ("collections", "functools", "types", "weakref")
LIGHTNING = ("lightning", "pytorch_lightning")  # its modules hold their Trainer, and that the data


@contextmanager
def restoring(
    model: nn.Module, call: Any = None, *, training: bool = False, autograd: bool = False
) -> Iterator[Snapshot]:
    """Set all modules to one mode for the time of the block, then restore the model.

    Put back are the attributes of modules and of all objects that they hold, containers (nested
    ones too), closures, the values of buffers, the modes, `requires_grad` and the random states.

    Args:
        model: to set and restore.
        call: the arguments of the run; objects in them are restored too.
        training: training mode, not eval mode.
        autograd: every parameter requires a gradient; otherwise none does.
    """
    held = Snapshot([model, call])
    buffers = [(b, b.detach().clone()) for b in model.buffers() if not b.is_meta]
    flags = [(p, p.requires_grad) for p in model.parameters() if p.is_leaf]
    random_states = random.getstate(), np.random.get_state()
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    level = fake_tensor_log.level
    try:
        fake_tensor_log.setLevel(logging.CRITICAL)  # a run that fails is reported by us, once
        with torch.random.fork_rng(devices=devices), torch.enable_grad(), _no_fast_path():
            # Flags, not `model.eval()`: a model's own `train()` may act (LoRA layers merge their
            # weights in it), and in a dry run nothing may act. See `eval_mode` for real runs.
            _set_modes(each_module(model), training)
            # Gradients stay enabled, so that a `no_grad` of the model's own is seen.
            _require_grad([(p, autograd) for p, _ in flags])
            yield held
    finally:
        fake_tensor_log.setLevel(level)
        held.restore()
        _require_grad(flags)
        _write_back(buffers)
        random.setstate(random_states[0])
        np.random.set_state(random_states[1])


def _require_grad(flags: Iterable[tuple[Tensor, bool]]) -> None:
    for parameter, required in flags:
        if (
            differentiable(parameter)
            and parameter.requires_grad != required
            and not parameter.is_inference()
        ):
            parameter.requires_grad_(required)


def differentiable(parameter: Tensor) -> bool:
    """Whether a parameter can require a gradient; quantized weights cannot."""
    return parameter.is_floating_point() or parameter.is_complex()


@contextmanager
def _no_fast_path() -> Iterator[None]:
    """Attention runs layer by layer, without the nested tensors of torch's fast path."""
    enabled = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        mha.set_fastpath_enabled(enabled)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors in a value, each once: in containers, and in the attributes of objects."""
    waiting, seen = [value], {id(None)}
    while waiting:
        holder = waiting.pop()
        if id(holder) in seen or issubclass(type(holder), _LEAVES):
            continue
        seen.add(id(holder))
        if isinstance(holder, Tensor):
            yield holder
        elif not isinstance(holder, (nn.Module, FunctionType, MethodType)):
            content = _content(holder)
            inside = content.values() if isinstance(content, dict) else content or ()
            if issubclass(type(holder), (tuple, frozenset)):
                inside = holder
            own = getattr(holder, "__dict__", {})
            waiting.extend(reversed([*inside, *own.values()]))


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode for a real evaluation; afterwards every module is in its mode again.

    About 0.1 ms for 300 modules.
    """
    modules = each_module(model)
    modes = [module.training for module in modules]
    acting = [m for m in modules if _acts_on_mode(m)]
    own = [t for m in acting for t in own_tensors(m).values() if not t.is_meta]
    values = [(tensor, tensor.detach().clone()) for tensor in own]
    try:
        if acting:
            # The model's own methods, unlike in `restoring`: its numbers count here, and a layer
            # that merges weights in `eval()` takes them apart again in its own `train()`.
            model.eval()
        _set_modes(modules, False)
        yield
    finally:
        for module, mode in zip(modules, modes, strict=True):
            if module.training != mode and module in acting:
                module.train(mode)
        for module, mode in zip(modules, modes, strict=True):
            _set_modes([module], mode)
        _write_back(values)  # weights merged and taken apart again differ in their last bits


def _acts_on_mode(module: nn.Module) -> bool:
    kind, own = type(module), module.__dict__
    plain = kind.train is nn.Module.train and kind.eval is nn.Module.eval
    return not plain or "train" in own or "eval" in own


def _set_modes(modules: Iterable[nn.Module], mode: bool) -> None:
    for module in modules:
        if type(module).__setattr__ is nn.Module.__setattr__:
            module.__dict__["training"] = mode  # `Module.__setattr__` takes 2 µs for each
        else:
            module.training = mode


def _write_back(values: Sequence[tuple[Tensor, Tensor]]) -> None:
    with torch.no_grad():
        for tensor, value in values:
            changed = tensor.shape == value.shape and not torch.equal(tensor, value)
            if changed:
                tensor.copy_(value)


class Snapshot:
    """What objects hold, and what those hold: attributes, containers, closures.

    Classes and modules of Python are not entered, nor are objects of the standard library (loggers,
    locks) apart from its containers, nor those of Lightning that are no layers.

    Args:
        roots: objects to begin with.
        deep: False holds the content of the roots alone.
    """

    def __init__(self, roots: Iterable[object], *, deep: bool = True) -> None:
        self._held: list[tuple[Any, Any]] = []
        self.alive: list[object] = []  # so that no id is given twice
        seen: set[int] = set()
        waiting = list(roots)
        while waiting:
            holder = waiting.pop()
            if issubclass(type(holder), _LEAVES) or id(holder) in seen:
                continue
            seen.add(id(holder))
            self.alive.append(holder)
            content = _content(holder)
            if content is not None:
                self._held.append((holder, content))
            if deep:
                waiting.extend(_inside(holder, content))

    def restore(self) -> None:
        """Give each holder its content again, where it changed; it stays the same object."""
        for holder, content in self._held:
            if not _same(_content(holder), content):
                _refill(holder, content)


def _content(holder: Any) -> Any:
    """A shallow copy of what can change in a holder, or None."""
    kind = type(holder)
    if (base := _container(kind)) is not None:  # its methods, past those that a subclass replaces
        if base.__len__(holder) > _LARGEST:
            return None
        return dict(base.items(holder)) if issubclass(base, dict) else base.copy(holder)
    if issubclass(kind, np.ndarray):
        return list(holder.flat) if holder.dtype == object and holder.size <= _LARGEST else None
    if kind is CellType:
        with suppress(ValueError):  # an empty cell
            return [holder.cell_contents]
        return []
    slots = [n for k in kind.__mro__ for n in _names(k.__dict__.get("__slots__", ()))]
    found = {name: _attribute(holder, name) for name in slots}
    return {name: v for name, v in found.items() if v is not _UNSET} if slots else None


def _attribute(holder: object, name: str) -> Any:
    """An attribute, or _UNSET; a `__getattr__` of the object, which may act, is not called."""
    try:
        return object.__getattribute__(holder, name)
    except AttributeError:
        return _UNSET


def _container(kind: type) -> Any:
    return next((c for c in (OrderedDict, dict, list, set, deque) if issubclass(kind, c)), None)


def _names(slots: str | Iterable[str]) -> list[str]:
    found = [slots] if isinstance(slots, str) else list(slots)
    return [name for name in found if not name.startswith("__")]  # "__dict__", "__weakref__"


def _inside(holder: Any, content: Any) -> Iterable[Any]:
    kind = type(holder)
    if issubclass(kind, (tuple, frozenset)):
        return holder if len(holder) <= _LARGEST else ()
    if kind is FunctionType:
        return [*(holder.__closure__ or ()), holder.__defaults__, holder.__kwdefaults__,
                holder.__dict__]  # fmt: skip
    if kind is MethodType:
        return [holder.__self__, holder.__func__]
    if kind in (staticmethod, classmethod):
        return [holder.__func__]
    if kind is partial:
        return [holder.func, holder.args, holder.keywords]
    held = content.values() if isinstance(content, dict) else content or ()
    package = kind.__module__.partition(".")[0]
    if package in sys.stdlib_module_names and package not in _STDLIB_HOLDERS:
        return held
    if package in LIGHTNING and not issubclass(kind, nn.Module):
        return held
    return [*held, _attribute(holder, "__dict__")]


def _same(now: Any, was: Any) -> bool:
    if len(now) != len(was) or isinstance(now, set):
        return isinstance(now, set) and now == was
    if isinstance(now, dict) and not all(map(operator.is_, now.values(), was.values())):
        return False
    return all(map(operator.is_, now, was))  # the keys of a dict


def _refill(holder: Any, content: Any) -> None:
    if (base := _container(type(holder))) is not None:
        base.clear(holder)
        (base.extend if hasattr(base, "extend") else base.update)(holder, content)
    elif isinstance(holder, np.ndarray):
        for index, value in enumerate(content):
            holder.flat[index] = value
    elif isinstance(holder, CellType):
        if content:
            holder.cell_contents = content[0]
        else:
            del holder.cell_contents
    else:
        for name in _content(holder):
            if name not in content:
                object.__delattr__(holder, name)
        for name, value in content.items():
            object.__setattr__(holder, name, value)  # frozen dataclasses too
