"""Frozen means frozen: no weight, buffer, running statistic or dropout mask of a group moves.

`requires_grad` stops the weights; statistics and masks follow the mode of a module, so frozen
modules are put in eval mode, and forward pre-hooks keep them there when somebody calls
`model.train()`. The hooks are on every frozen module that may read its mode, so it does not matter
who calls it: the model, a loop over a `ModuleList`, or a person. A hook lets a module go whose
parameters somebody has set to `requires_grad_(True)`, so a copy of a frozen model can be freed by
plain PyTorch: `copy.requires_grad_(True).train()`.

Three limits. A layer or parameter that several groups run belongs to the first of them, and is
frozen or trains with it. A container that holds layers of frozen groups and of others trains: what
it does by itself (functional dropout in its own `forward`, a buffer of its own) is not frozen.
And what draws without reading its mode, as `nn.FractionalMaxPool2d` does, draws when frozen too.

This file knows modules and hooks only, and what the user froze; `LayerGroups` says what is frozen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from weakref import WeakMethod

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from layergroups._paths import parent
from layergroups._torch import NormBase, drop_compiled_graphs, forward_hooks, forward_pre_hooks
from layergroups.errors import GroupingError
from layergroups.groups._partition import ModuleTree
from layergroups.groups._surgery import ModelSnapshot

_NORMS = (
    NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm,
)  # fmt: skip
_EPSILONS = ("eps", "epsilon", "variance_epsilon")  # torch and timm; others; transformers

# files and types of torch.nn that read `training`
_READING_FILES = ("batchnorm", "dropout", "instancenorm", "rnn", "transformer")
_READING_TYPES = (nn.RReLU, nn.MultiheadAttention)


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises activations: torch's norms, and what is built like one.

    That is an epsilon, and no other parameters or buffers than vectors, of one number for each
    channel. So timm's filter response norms and the root mean square norms of language models are
    norms, a wrapper that holds a linear layer beside its norm is not.
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


def differentiable(parameter: nn.Parameter) -> bool:
    """Whether a parameter can require a gradient at all; quantized weights cannot."""
    return parameter.is_floating_point() or parameter.is_complex()


def frozen_modules(
    model: nn.Module, places: ModuleTree, frozen: Collection[int]
) -> list[nn.Module]:
    """Modules all of whose parameters and layers are in frozen groups, outer ones first.

    A module that is registered in several places counts at the first.
    """
    groups = {module: places.groups(path) for path, module in model.named_modules()}
    for module in reversed(list(groups)):
        if not groups[module]:  # a different name for modules registered before
            groups[module] = set().union(*(groups[child] for child in module.children()))
    return [module for module, known in groups.items() if known and known <= set(frozen)]


# -- hooks ---------------------------------------------------------------------------------------


Mode = tuple[bool, bool]  # whether a module trained when it was frozen, and whether its model did


@dataclass(frozen=True, eq=False)
class StayInEval:
    """Puts frozen modules back in eval mode before they run.

    Attributes:
        modules: the module that it is on and those inside it, each with the parameter that must be
            frozen for it to stay in eval mode, its own or of a module around it.
        modes: of these modules, before they were frozen.
        parameters: what freezing turned off, so that other layer groups of the same model, or of a
            copy, can tell it from what the user froze.
    """

    modules: tuple[tuple[nn.Module, nn.Parameter | None], ...]
    modes: tuple[Mode, ...] = ()
    parameters: tuple[nn.Parameter, ...] = ()

    def __call__(self, *_: object) -> None:
        """Put them in eval mode, but those that somebody has freed."""
        for module, frozen in self.modules:
            if module.training and (frozen is None or not frozen.requires_grad):
                module.training = False


class BeforeForward:
    """On the root: tells layer groups that the model is about to run in training mode.

    What joins a frozen group must be in eval mode before it first runs. The groups are not kept
    alive by it, and a copy of the model tells nobody.
    """

    def __init__(self, method: Callable[[nn.Module], None] | None = None) -> None:
        self._method = None if method is None else WeakMethod(method)

    def __call__(self, module: nn.Module, *_: object) -> None:
        """Call the method, if its object still lives."""
        # compiled graphs do not look; there the step of the optimizer does
        if torch.compiler.is_compiling() or not module.training or self._method is None:
            return
        method = self._method()
        if method is not None:
            method(module)

    def __reduce__(self) -> tuple[type[BeforeForward], tuple[()]]:
        """A weak reference can be neither copied nor pickled."""
        return BeforeForward, ()


def call_before_forward(model: nn.Module, method: Callable[[nn.Module], None]) -> None:
    """Call a method before the model runs in training mode, and no other groups' any more."""
    for key, hook in list(forward_pre_hooks(model).items()):
        if isinstance(hook, BeforeForward):
            del forward_pre_hooks(model)[key]
    model.register_forward_pre_hook(BeforeForward(method), prepend=True)


def has_foreign_hooks(module: nn.Module) -> bool:
    """Whether a module has forward hooks that are not of layer groups."""
    hooks = (*forward_hooks(module).values(), *forward_pre_hooks(module).values())
    return not all(isinstance(hook, (StayInEval, BeforeForward)) for hook in hooks)


def remove_hooks(model: nn.Module) -> dict[nn.Module, Mode]:
    """Take away all hooks of layer groups; returns the modules that they kept in eval mode."""
    held: dict[nn.Module, Mode] = {}
    for module in model.modules():
        for key, hook in list(forward_pre_hooks(module).items()):
            if isinstance(hook, StayInEval):
                held.update(zip((m for m, _ in hook.modules), hook.modes, strict=True))
            if isinstance(hook, (StayInEval, BeforeForward)):
                del forward_pre_hooks(module)[key]
    return held


def frozen_by_groups(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that do not train because layer groups froze them, and for no other reason."""
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
) -> None:
    """Keep these modules in eval mode, and no others any more.

    Those that are let go have the mode that they had, or that of the model if it is in a different
    mode since. Hooks of other layer groups, or of the model that this is a copy of, go.

    Args:
        model: all of it.
        modules: frozen ones, outer ones first.
        turned_off: parameters that would train if nothing were frozen.
        norms_train: leave norm layers in the mode that they have.
    """
    frozen = dict.fromkeys(modules)
    held = {m for m in frozen if not (norms_train and is_norm(m)) and not _needs_train_mode(m)}
    before = remove_hooks(model)
    for module, (trained, model_trained) in before.items():
        if module not in held:
            module.training = trained if model.training == model_trained else model.training
    if before.keys() != held:
        drop_compiled_graphs()  # they do not see that hooks come or go
    modes = {m: before.get(m, (m.training, model.training)) for m in held}
    frozen_by = _nearest_frozen(model)
    left = {id(p): p for p in turned_off}
    covered: set[nn.Module] = set()
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
            module.register_forward_pre_hook(hook, prepend=True)
    for module in held:
        module.training = False


def _nearest_frozen(model: nn.Module) -> dict[nn.Module, nn.Parameter | None]:
    """For each module a frozen parameter: its own, or else of the nearest module around it."""
    found: dict[nn.Module, nn.Parameter | None] = {}
    at: dict[str, nn.Parameter | None] = {}
    for path, module in model.named_modules():
        above = at.get(parent(path))
        at[path] = found[module] = next(
            (p for p in module.parameters() if not p.requires_grad and differentiable(p)), above
        )
    return found


def _reads_mode(module: nn.Module) -> bool:
    """Whether a module may read its mode: all may, but for those of torch that never do."""
    _, _, file = type(module).__module__.rpartition("torch.nn.modules.")
    hooked = bool(forward_hooks(module) or forward_pre_hooks(module)) or "forward" in vars(module)
    known = type(module).__module__.startswith("torch.nn.modules.")
    return not known or hooked or file in _READING_FILES or isinstance(module, _READING_TYPES)


def _needs_train_mode(module: nn.Module) -> bool:
    """A recurrent layer without dropout has nothing that moves, and cuDNN wants it in train."""
    return isinstance(module, nn.RNNBase) and not module.dropout


# -- frozen by the user --------------------------------------------------------------------------


@dataclass(frozen=True)
class UserFrozen:
    """Parameters with `requires_grad=False` that layer groups did not freeze.

    They stay so whatever is frozen or not, until the user frees them, by `groups.unfreeze()` or
    `requires_grad_(True)`. What an adapter library froze is free when its adapters are gone.

    Attributes:
        by_hand: these.
        by_adapters: those found so when the model had adapter layers; `unfreeze` leaves them.
    """

    by_hand: frozenset[nn.Parameter] = frozenset()
    by_adapters: frozenset[nn.Parameter] = frozenset()

    def __contains__(self, parameter: object) -> bool:
        return parameter in self.by_hand or parameter in self.by_adapters

    @property
    def all(self) -> frozenset[nn.Parameter]:
        """Both."""
        return self.by_hand | self.by_adapters

    def looked_at(self, trained: Iterable[nn.Parameter], *, adapted: bool) -> UserFrozen:
        """As it is now: without those that require a gradient, with those that the user froze.

        Args:
            trained: parameters that the groups let train.
            adapted: whether the model has adapter layers.
        """
        new = frozenset(p for p in trained if not p.requires_grad and differentiable(p)) - self.all
        return UserFrozen(
            _still(self.by_hand) | (frozenset() if adapted else new),
            _still(self.by_adapters) | (new if adapted else frozenset()),
        )

    def replaced(self, new: Mapping[nn.Parameter, nn.Parameter]) -> UserFrozen:
        """The same with other parameters in the place of some (old -> new)."""
        return UserFrozen(
            frozenset(new.get(p, p) for p in self.by_hand),
            frozenset(new.get(p, p) for p in self.by_adapters),
        )

    def among(self, parameters: Collection[nn.Parameter]) -> UserFrozen:
        """Those of them that are among some parameters."""
        return UserFrozen(
            self.by_hand.intersection(parameters), self.by_adapters.intersection(parameters)
        )

    def after_surgery(
        self, old: ModelSnapshot, now: ModelSnapshot, trained: Collection[nn.Parameter]
    ) -> UserFrozen:
        """What the user has frozen after surgery.

        Args:
            old: the model before, converted parameters in the place of those that they come from.
            now: the model as it is.
            trained: parameters of the model before that their groups let train.
        """
        mine = self.among(now.names)
        if old.adapted and not now.adapted:
            mine = UserFrozen(mine.by_hand)
        known: Collection[nn.Parameter] = now.names
        if old.adapted or not now.adapted:  # else adapters came: they freeze in frozen groups too
            known = [p for p in now.names if p not in old.names or (p in trained and p not in self)]
        return mine.looked_at(known, adapted=now.adapted)


def _still(parameters: Iterable[nn.Parameter]) -> frozenset[nn.Parameter]:
    return frozenset(p for p in parameters if not p.requires_grad)


# -- gradual unfreezing --------------------------------------------------------------------------


def first_to_train(epoch: int, start: int, every: int = 1) -> int:
    """The lowest layer group that trains in an epoch of gradual unfreezing.

    Groups train from the head down, one more after each `every` epochs, until all do. Source:
    Howard and Ruder 2018, «Universal Language Model Fine-tuning for Text Classification».

    Args:
        epoch: counted from 0.
        start: index, from 0, of the lowest group that trains in epoch 0.
        every: epochs between one group and the next.

    Raises:
        GroupingError: an epoch that is negative or not whole, or `every` below 1.
    """
    for name, value, least in (("epoch", epoch, 0), ("every", every, 1)):
        if not isinstance(value, int) or value < least:
            raise GroupingError(
                f"{name}={value!r} must be a whole number of epochs, {least} or more; to unfreeze "
                f"a group each second epoch: gradual_unfreeze(epoch, every=2)"
            )
    return max(0, start - epoch // every)
