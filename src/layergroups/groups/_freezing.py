"""Freezes modules: no weight, buffer, running statistic or dropout mask of a frozen group changes.

`requires_grad` stops the weights. Statistics and masks depend on the mode of a module, so frozen
modules are in eval mode, and forward pre-hooks restore it after any `model.train()`. The hooks are
on every frozen module that may read its mode, because a module can be called from anywhere. A hook
skips modules whose parameters were set to `requires_grad_(True)`, so plain PyTorch can unfreeze a
copy of a frozen model: `copy.requires_grad_(True).train()`.

Limits. A layer or parameter that several groups run belongs to the first of them. A container with
layers of frozen and other groups trains: functional dropout in its own `forward`, or a buffer that
it owns, is not frozen. A layer that draws without reading its mode, such as
`nn.FractionalMaxPool2d`, also draws when frozen. Buffers that a frozen layer writes in eval mode
too (observers of quantization, membranes of spiking networks) are put back by `HoldBuffers`;
weights that a layer writes through `.data` move.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary, WeakMethod

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.nn.parameter import is_lazy

from layergroups._checks import number
from layergroups._paths import module_at, parent
from layergroups._torch import (
    NormBase,
    drop_compiled_graphs,
    forward_hooks,
    forward_pre_hooks,
    own_buffers,
    takes_hooks,
)
from layergroups.anatomy import differentiable
from layergroups.errors import GroupingError
from layergroups.groups._partition import ModuleTree
from layergroups.groups._surgery import ModelSnapshot

log = logging.getLogger("layergroups")

_NORMS = (NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm)
_EPSILONS = ("eps", "epsilon", "variance_epsilon")  # torch and timm; others; transformers
# files and types of torch.nn that read `training`
_READING_FILES = ("batchnorm", "dropout", "instancenorm", "rnn", "transformer")
_READING_TYPES = (nn.RReLU, nn.MultiheadAttention)


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises activations: torch's norms, and modules built like one.

    Those have an epsilon, and only vectors of a number for each channel as parameters and buffers,
    such as timm's filter response norms and the root mean square norms of language models. A
    wrapper that holds a linear layer and a norm is not a norm.
    """
    if isinstance(module, _NORMS):
        return True
    if type(module).__module__.startswith("torch.nn.utils."):  # spectral norm of weights
        return False
    tensors = [t for t in (*module.parameters(), *module.buffers()) if not is_lazy(t)]
    return (
        any(isinstance(getattr(module, name, None), float) for name in _EPSILONS)
        and any(t.numel() > 1 for t in tensors)
        and all(t.numel() == max(t.shape, default=1) for t in tensors)
    )


def frozen_modules(model: nn.Module, tree: ModuleTree, frozen: Collection[int]) -> list[nn.Module]:
    """Modules all of whose parameters and layers are in frozen groups, outer ones first."""
    groups = {module: tree.groups(path) for path, module in model.named_modules()}
    for module in reversed(list(groups)):
        if not groups[module]:  # a different name for modules registered before
            groups[module] = set().union(*(groups[child] for child in module.children()))
    return [module for module, known in groups.items() if known and known <= set(frozen)]


# -- hooks ---------------------------------------------------------------------------------------

Mode = tuple[bool, bool]  # training mode of a module and of its model at freezing


@dataclass(frozen=True, eq=False)
class StayInEval:
    """Puts the module that it is on, and those inside it, in eval mode before they run.

    Attributes:
        modules: each with the parameter that must be frozen for it to stay in eval mode, its own or
            of a module around it.
        modes: of these modules, before they were frozen.
        parameters: those that freezing turned off, so that other layer groups of the model, or of a
            copy, can tell them from those that the user froze.
    """

    modules: tuple[tuple[nn.Module, nn.Parameter | None], ...]
    modes: tuple[Mode, ...] = ()
    parameters: tuple[nn.Parameter, ...] = ()

    def __call__(self, *_: object) -> None:
        for module, frozen in self.modules:
            if module.training and (frozen is None or not frozen.requires_grad):
                module.training = False


class RestoreRows:
    """Takes back what a frozen embedding with `max_norm` writes into its weight; before and after.

    Its output is the same, as torch shortens the rows that are read, and no others, at each read.
    """

    def __call__(self, module: nn.Module, args: tuple[Any, ...], *output: Any) -> None:
        rows, weight = args[0] if args else slice(None), module.weight
        assert isinstance(weight, Tensor)
        with torch.no_grad():
            if not output:
                self._saved = weight[rows].clone()
            elif not weight.requires_grad:
                weight[rows] = self._saved


class HoldBuffers:
    """On the root: frozen modules run on copies of the buffers that they write in eval mode too."""

    def __init__(self, places: Iterable[tuple[nn.Module, str]]) -> None:
        self._places = list(places)

    def __call__(self, _: nn.Module, __: Any, *output: Any) -> None:
        if not output:
            self._held = [own_buffers(module).get(name) for module, name in self._places]
        for (module, name), held in zip(self._places, self._held, strict=True):
            own_buffers(module)[name] = held if output or held is None else held.clone()


class BeforeForward:
    """On the root: calls layer groups before the model runs in training mode.

    A module that joins a frozen group must be in eval mode before it first runs. The reference to
    the groups is weak, and a copy of the model does not call them.
    """

    def __init__(self, method: Callable[[nn.Module], None] | None = None) -> None:
        self._method = None if method is None else WeakMethod(method)

    def __call__(self, module: nn.Module, *_: object) -> None:
        # a compiled graph cannot check; the step of the optimizer does so
        if torch.compiler.is_compiling() or not module.training or self._method is None:
            return
        method = self._method()
        if method is not None:
            method(module)

    def __reduce__(self) -> tuple[type[BeforeForward], tuple[()]]:
        return BeforeForward, ()  # a weak reference can be neither copied nor pickled


_OURS = (StayInEval, RestoreRows, HoldBuffers, BeforeForward)


def call_before_forward(model: nn.Module, method: Callable[[nn.Module], None]) -> None:
    """Call a method before the model runs in training mode, instead of that of other groups."""
    for key, hook in list(forward_pre_hooks(model).items()):
        if isinstance(hook, BeforeForward):
            del forward_pre_hooks(model)[key]
    if takes_hooks(model):
        model.register_forward_pre_hook(BeforeForward(method), prepend=True)
    _watch_joining()
    _METHODS.update(dict.fromkeys(model.modules(), WeakMethod(method)))


_METHODS: WeakKeyDictionary[nn.Module, WeakMethod[Callable[[nn.Module], None]]] = (
    WeakKeyDictionary()
)


@cache
def _watch_joining() -> None:
    """Call the groups also before a module runs that has joined: a loop may never call the root."""
    register_module_module_registration_hook(_joins)


def _joins(parent: nn.Module, _: str, joining: nn.Module | None) -> None:
    reference = _METHODS.get(parent)
    method = None if reference is None else reference()
    if method is None or joining is None:
        return
    for module in joining.modules():
        known = any(isinstance(h, BeforeForward) for h in forward_pre_hooks(module).values())
        if _reads_mode(module) and takes_hooks(module) and not known:
            module.register_forward_pre_hook(BeforeForward(method), prepend=True)


def has_foreign_hooks(module: nn.Module) -> bool:
    """Whether a module has forward hooks that are not of layer groups."""
    hooks = (*forward_hooks(module).values(), *forward_pre_hooks(module).values())
    return not all(isinstance(hook, _OURS) for hook in hooks)


def remove_hooks(model: nn.Module) -> dict[nn.Module, Mode]:
    """Remove all hooks of layer groups; returns the modules that they held in eval mode."""
    held: dict[nn.Module, Mode] = {}
    for module in model.modules():
        for hook in forward_pre_hooks(module).values():
            if isinstance(hook, StayInEval):
                held.update(zip((m for m, _ in hook.modules), hook.modes, strict=True))
        for hooks in (forward_pre_hooks(module), forward_hooks(module)):
            for key in [key for key, hook in hooks.items() if isinstance(hook, _OURS)]:
                del hooks[key]
    return held


def frozen_by_groups(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that do not train only because layer groups froze them."""
    hooks = [hook for m in model.modules() for hook in forward_pre_hooks(m).values()]
    return [
        p for h in hooks if isinstance(h, StayInEval) for p in h.parameters if not p.requires_grad
    ]


def keep_in_eval(
    model: nn.Module,
    modules: Iterable[nn.Module],
    turned_off: Iterable[nn.Parameter],
    *,
    norms_train: bool,
    written: Iterable[str] = (),
) -> None:
    """Hold these modules, outer ones first, in eval mode, and release all others.

    Released modules return to the mode they had, or to that of the model if it has changed since.
    Hooks of other layer groups, also those copied with the model, are removed. `turned_off` are
    parameters that would train if nothing were frozen, `written` what a run writes in eval mode.
    """
    frozen = dict.fromkeys(modules)
    held = {m for m in frozen if not (norms_train and is_norm(m)) and not _needs_train_mode(m)}
    before = remove_hooks(model)
    # where all is frozen, freezing put the model itself in eval mode
    model_trains = model.training or (model in before and before[model][0])
    for module, (trained, model_trained) in before.items():
        if module not in held:
            module.training = trained if model_trains == model_trained else model_trains
    if before.keys() != held:
        drop_compiled_graphs()  # they do not notice that hooks were added or removed
    modes = {m: before.get(m, (m.training, model_trains)) for m in held}
    frozen_by = _nearest_frozen(model)
    left = {id(p): p for p in turned_off}
    covered: set[nn.Module] = set()
    hosts = _nearest_with_hooks(model)
    for module in model.modules():
        known = module.parameters(recurse=module in frozen)
        own = tuple(p for p in known if left.pop(id(p), None) is not None)
        hold = module in held and (module not in covered or _reads_mode(module))
        below = [m for m in module.modules() if m in held] if hold else []
        covered.update(below)
        if own or below:
            hook = StayInEval(
                tuple((m, frozen_by[m]) for m in below), tuple(modes[m] for m in below), own
            )
            # first of all hooks: that of the older spectral_norm reads the mode
            if (host := hosts[module]) is not None:
                host.register_forward_pre_hook(hook, prepend=True)
    places = [(module_at(model, parent(name)), name.rpartition(".")[2]) for name in written]
    places = [(m, n) for m, n in places if m in held and own_buffers(m).get(n) is not None]
    if places and takes_hooks(model):
        buffers = HoldBuffers(places)
        model.register_forward_pre_hook(buffers, prepend=True)
        model.register_forward_hook(buffers, always_call=True)
    if held and not takes_hooks(model):
        log.warning(
            "a scripted or traced model takes no hooks, so its frozen layers do not stay in eval "
            "mode: freeze again after model.train(); a trace made in training mode keeps that mode"
        )
    for module in held:
        module.training = False
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) and module.max_norm is not None:
            rows = RestoreRows()
            module.register_forward_pre_hook(rows)
            module.register_forward_hook(rows, prepend=True)


def _nearest_with_hooks(model: nn.Module) -> dict[nn.Module, nn.Module | None]:
    """For each module itself, or the nearest around it, where that is scripted."""
    found: dict[nn.Module, nn.Module | None] = {}
    at: dict[str, nn.Module | None] = {}
    for path, module in model.named_modules():
        at[path] = found[module] = module if takes_hooks(module) else at.get(parent(path))
    return found


def _nearest_frozen(model: nn.Module) -> dict[nn.Module, nn.Parameter | None]:
    """For each module a frozen parameter of it, or else of the nearest module around it."""
    found: dict[nn.Module, nn.Parameter | None] = {}
    at: dict[str, nn.Parameter | None] = {}
    for path, module in model.named_modules():
        above = at.get(parent(path))
        at[path] = found[module] = next(
            (p for p in module.parameters() if not p.requires_grad and differentiable(p)), above
        )
    return found


def _reads_mode(module: nn.Module) -> bool:
    """Whether a module may read its mode: any but the modules of torch that never do."""
    _, of_torch, file = type(module).__module__.partition("torch.nn.modules.")
    hooked = bool(forward_hooks(module) or forward_pre_hooks(module)) or "forward" in vars(module)
    return not of_torch or hooked or file in _READING_FILES or isinstance(module, _READING_TYPES)


def _needs_train_mode(module: nn.Module) -> bool:
    # without dropout eval mode changes nothing, and cuDNN needs train mode for the backward pass
    return isinstance(module, nn.RNNBase) and not module.dropout


# -- frozen by the user --------------------------------------------------------------------------

# Parameters with requires_grad=False that layer groups did not freeze, each with whether an adapter
# library did. They stay frozen until `groups.unfreeze()` or `requires_grad_(True)`; those that an
# adapter library froze until its adapters are removed.
UserFrozen = dict[nn.Parameter, bool]


def still_frozen(
    before: UserFrozen, trainable: Iterable[nn.Parameter], *, adapted: bool
) -> UserFrozen:
    """Without parameters that require a gradient again, with those that were frozen since.

    `trainable` are those that the groups let train; `adapted`: the model has adapter layers.
    """
    new = {p: adapted for p in trainable if not p.requires_grad and differentiable(p)}
    return new | {p: held for p, held in before.items() if not p.requires_grad}


def frozen_after_surgery(
    before: UserFrozen, old: ModelSnapshot, now: ModelSnapshot, trained: Collection[nn.Parameter]
) -> UserFrozen:
    """The parameters that the user has frozen, after surgery.

    `before` and `old` have converted parameters instead of their originals; `trained` are those
    that their groups let train.
    """
    removed = old.adapted and not now.adapted
    mine = {p: held for p, held in before.items() if p in now.names and not (held and removed)}
    known: Collection[nn.Parameter] = now.names
    if old.adapted or not now.adapted:  # new adapters freeze weights of frozen groups too
        known = [p for p in now.names if p not in old.names or (p in trained and p not in before)]
    return still_frozen(mine, known, adapted=now.adapted)


def first_to_train(epoch: float, start: int, every: float = 1) -> int:
    """The lowest layer group that trains in an epoch of gradual unfreezing, from the head down.

    It is `start` in epoch 0, and one less after each `every` epochs (Howard and Ruder 2018,
    «Universal Language Model Fine-tuning for Text Classification»).
    """
    number("epoch", epoch, 0, math.inf, 1, GroupingError)
    number("every", every, 0, math.inf, 2, GroupingError, open_ends=True)
    return max(0, start - math.floor(epoch / every + 1e-9))  # 0.3 / 0.1 is just below 3
