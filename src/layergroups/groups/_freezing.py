"""Frozen means frozen: no weight, buffer, running statistic or dropout mask of a group moves.

`requires_grad` stops the weights; statistics and masks follow the mode of a module, so frozen
modules are put in eval mode, and forward pre-hooks keep them there when somebody calls
`model.train()`. The hooks stand on every frozen module that may look at its mode, so it does not
matter who calls it: the model, a loop over a `ModuleList`, or a person.

Three limits. A layer or parameter that several groups run belongs to the first of them, and is
frozen or trains with it. A container that holds layers of frozen groups and of others trains: what
it does by itself (functional dropout in its own `forward`, a buffer of its own) is not frozen.
And what draws without looking at its mode, as `nn.FractionalMaxPool2d` does, draws when frozen too.

Parameters that stay fixed whatever the groups say, because somebody else has fixed them.

A model's author fixes sine position embeddings; peft fixes all that is not an adapter. Both say so
by `requires_grad=False`, and to thaw such a parameter together with its group would undo what
was meant. A parameter is free again when a hand sets `requires_grad_(True)` on it, or when the
adapters for whose sake it was fixed are gone.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING

import torch
from torch import nn

from layergroups._formatting import first_few
from layergroups.errors import GroupingError
from layergroups.groups._partition import ModuleTree
from layergroups.groups._surgery import ModelSnapshot, has_adapters

if TYPE_CHECKING:
    from layergroups.groups._layer_groups import LayerGroups


NORMS = (
    nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm, nn.RMSNorm,
)  # fmt: skip


_READING_FILES = ("batchnorm", "dropout", "instancenorm", "rnn", "transformer")


_READING_TYPES = (nn.RReLU, nn.MultiheadAttention)


def is_norm(module: nn.Module) -> bool:
    """Whether a module normalises activations: torch's own norms, and what calls itself one."""
    name = type(module).__name__
    if "Spectral" in name or "WeightNorm" in name:
        return False
    return isinstance(module, NORMS) or name.endswith(("Norm", "Norm2d"))


def frozen_modules(
    model: nn.Module, places: ModuleTree, frozen: Collection[int]
) -> list[nn.Module]:
    """Modules all of whose parameters and layers are in frozen groups, outer ones first.

    A module that stands in several places counts where it is registered first.
    """
    groups = {module: places.groups(path) for path, module in model.named_modules()}
    for module in reversed(list(groups)):
        if not groups[module]:  # another name for modules registered before
            groups[module] = set().union(*(groups[child] for child in module.children()))
    return [module for module, known in groups.items() if known and known <= set(frozen)]


@dataclass(frozen=True, eq=False)
class StayInEval:
    """A forward pre-hook that puts modules which should not train back in eval mode.

    Attributes:
        modules: the module that it stands on and those inside it.
        parameters: what freezing turned off, so that other layer groups of the same model, or of a
            copy, can tell it from what the model's author fixed.
    """

    modules: tuple[nn.Module, ...]
    parameters: tuple[nn.Parameter, ...] = ()

    def __call__(self, *_: object) -> None:
        """Put them in eval mode."""
        for module in self.modules:
            if module.training:
                module.training = False


def keep_in_eval(
    model: nn.Module,
    modules: Iterable[nn.Module],
    turned_off: Iterable[nn.Parameter],
    *,
    norms_train: bool,
) -> None:
    """Keep these modules in eval mode, and no others any more.

    Args:
        model: all of it; hooks of other layer groups, or of the model that it is a copy of, go.
        modules: frozen ones, outer ones first.
        turned_off: parameters that would train if nothing were frozen.
        norms_train: leave norm layers in the mode that they have.
    """
    frozen = dict.fromkeys(modules)
    held = {m for m in frozen if not (norms_train and is_norm(m)) and not _harmless(m)}
    before = release(model)
    for module in before - held:
        module.training = model.training
    if before != held:
        torch.compiler.reset()  # compiled graphs do not see that hooks come or go
    left = {id(p): p for p in turned_off}
    for module in model.modules():
        known = module.parameters(recurse=module in frozen)
        own = tuple(p for p in known if left.pop(id(p), None) is not None)
        below = tuple(m for m in module.modules() if m in held) if _looks(module, held) else ()
        if own or below:
            # first of all hooks: that of the older spectral_norm looks at the mode
            module.register_forward_pre_hook(StayInEval(below, own), prepend=True)
    StayInEval(tuple(held))()


def release(model: nn.Module) -> set[nn.Module]:
    """Take away all hooks that keep modules in eval mode; returns those modules, modes as is."""
    held: set[nn.Module] = set()
    for module in model.modules():
        for key, hook in list(module._forward_pre_hooks.items()):
            if isinstance(hook, StayInEval):
                held.update(hook.modules)
                del module._forward_pre_hooks[key]
    return held


def turned_off(model: nn.Module) -> list[nn.Parameter]:
    """Parameters that do not train because layer groups froze them, and for no other reason."""
    hooks = [hook for m in model.modules() for hook in m._forward_pre_hooks.values()]
    return [p for h in hooks if isinstance(h, StayInEval) for p in h.parameters]


def thaw_what_others_froze(model: nn.Module) -> bool:
    """Free what other layer groups of this model, or of its original, froze; says if they did."""
    theirs = turned_off(model)
    for p in theirs:
        p.requires_grad_(p.is_floating_point() or p.is_complex())
    if theirs:
        keep_in_eval(model, (), (), norms_train=False)
    return bool(theirs)


def _looks(module: nn.Module, held: Collection[nn.Module]) -> bool:
    """Whether a held module may look at its mode: all do, but for those of torch that never do."""
    if module not in held:
        return False
    _, _, file = type(module).__module__.rpartition("torch.nn.modules.")
    hooked = bool(module._forward_hooks or module._forward_pre_hooks) or "forward" in vars(module)
    known = type(module).__module__.startswith("torch.nn.modules.")
    return not known or hooked or file in _READING_FILES or isinstance(module, _READING_TYPES)


def _harmless(module: nn.Module) -> bool:
    """A recurrent layer without dropout has nothing that moves, and cuDNN wants it in train."""
    return isinstance(module, nn.RNNBase) and not module.dropout


@dataclass(frozen=True)
class Freezing:
    """What was frozen before a change of it; as a context manager it puts that back at the end.

        with groups.freeze_to(-1):
            train_the_head()

    The change itself is done at the call, with or without `with`. Frozen flags, the norm choice and
    `requires_grad` go back; modules and parameters that came in between have the standing of their
    group, and the optimizer is not touched.

    Attributes:
        groups: the layer groups.
        frozen: which of them were frozen at the call.
        norms_train: whether norm layers of frozen groups trained.
        by_hand: parameters whose `requires_grad` was otherwise than the groups say, and how.
    """

    groups: LayerGroups
    frozen: tuple[bool, ...]
    norms_train: bool
    by_hand: tuple[tuple[nn.Parameter, bool], ...] = field(default=(), repr=False)

    def __enter__(self) -> LayerGroups:
        return self.groups

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        flags = dict(enumerate(self.frozen))
        self.groups._set_frozen(flags, "train" if self.norms_train else "freeze")
        alive = set(map(id, self.groups.model.parameters()))
        for parameter, trained in self.by_hand:
            if id(parameter) in alive:
                parameter.requires_grad_(trained)

    def __repr__(self) -> str:
        return f"Freezing({_standing(self.groups)})"


@contextmanager
def as_if_resting(groups: LayerGroups, which: Collection[int]) -> Iterator[list[nn.Module]]:
    """For a while, parameters require gradients as if these groups rested and no others.

    Modes, hooks and what a hand has fixed in other groups stay as they are.

    Yields:
        The modules in which nothing would move, outer ones first.
    """
    differ = {*which} ^ {*groups.resting}
    among = {p for index in differ for p in groups[index].parameters()}
    before = [(p, p.requires_grad) for p in among]
    try:
        for p, may in groups._may(which):
            if p in among:
                p.requires_grad = may
        yield groups.resting_modules(which)
    finally:
        for p, trained in before:
            p.requires_grad = trained


def _standing(groups: LayerGroups) -> str:
    pairs = list(zip(groups.names, groups.frozen, strict=True))
    trains = ", ".join(name for name, frozen in pairs if not frozen) or "none"
    rests = ", ".join(name for name, frozen in pairs if frozen) or "none"
    return f"frozen: {rests}; trains: {trains}"


def first_to_train(epoch: int, start: int, every: int = 1) -> int:
    """The lowest layer group that trains in an epoch of gradual unfreezing.

    Groups thaw from the head down, one more after each `every` epochs, until all train. Source:
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
                f"{name}={value!r} must be a whole number of epochs, {least} or more; to thaw a "
                f"group each second epoch: thaw(epoch, every=2)"
            )
    return max(0, start - epoch // every)


log = logging.getLogger("layergroups")


@dataclass(frozen=True)
class AdapterHold:
    """Parameters that were fixed at one surgery.

    Attributes:
        parameters: those that stood before.
        before: names that those of them had which the surgery gave other names, as wrapping does.
        guests: parameters that came with it, and train.
    """

    parameters: frozenset[nn.Parameter]
    before: tuple[tuple[nn.Parameter, str], ...]
    guests: frozenset[nn.Parameter]

    def over(self, now: ModelSnapshot) -> bool:
        """Whether the model is as it was: nothing is wrapped any more, or no guest is left."""
        if self.before:
            return all(now.first(p) == name for p, name in self.before if p in now.names)
        return not any(p in now.names for p in self.guests)

    def succeeded_by(self, new: Mapping[nn.Parameter, nn.Parameter]) -> AdapterHold:
        """The same with heirs (old parameter -> new) in the place of converted parameters."""
        return replace(
            self,
            parameters=frozenset(new.get(p, p) for p in self.parameters),
            before=tuple((new.get(p, p), name) for p, name in self.before),
            guests=frozenset(new.get(p, p) for p in self.guests),
        )


@dataclass(frozen=True)
class UserFrozen:
    """All parameters of a model that stay fixed whatever its groups say.

    Attributes:
        parameters: these.
        holds: for whose sake some of them are fixed, and how long.
    """

    parameters: frozenset[nn.Parameter] = frozenset()
    holds: tuple[AdapterHold, ...] = ()

    def __contains__(self, parameter: object) -> bool:
        return parameter in self.parameters

    def still(self) -> UserFrozen:
        """The same without those that a hand has freed since."""
        return replace(
            self, parameters=frozenset(p for p in self.parameters if not p.requires_grad)
        )

    def exchanged(self, old: ModelSnapshot, now: ModelSnapshot) -> UserFrozen:
        """The same for parameters that stand in their place now, under the same names."""
        names = {old.first(p) for p in self.parameters}
        return replace(self, parameters=frozenset(p for p in now.names if now.first(p) in names))

    def after(
        self,
        old: ModelSnapshot,
        now: ModelSnapshot,
        heirs: Mapping[nn.Parameter, nn.Parameter],
        moved: Collection[nn.Parameter],
    ) -> tuple[UserFrozen, Collection[nn.Parameter], Collection[nn.Parameter]]:
        """What is fixed after surgery.

        Args:
            old: the model before, heirs in the place of what they are conversions of.
            now: the model after.
            heirs: those conversions: new parameter -> old one.
            moved: parameters of the model before that their groups let train.

        Returns:
            All that is fixed, what a hand has fixed since, and what was fixed and is free again.
        """
        new = {parameter: heir for heir, parameter in heirs.items()}
        before = {new.get(p, p) for p in self.parameters} & set(now.names)
        holds = [hold.succeeded_by(new) for hold in self.holds]
        over = [hold for hold in holds if hold.over(now)]
        loose = frozenset[nn.Parameter]().union(*(hold.parameters for hold in over))
        free = {p for p in before if p.requires_grad or p in loose}
        fixed, hold = _fixed_by_hand(old, now, {p for p in moved if p not in before})
        kept = (*(h for h in holds if h not in over), *([] if hold is None else [hold]))
        return UserFrozen(frozenset((before - free) | fixed), kept), fixed, free


def _fixed_by_hand(
    old: ModelSnapshot, now: ModelSnapshot, trained: Collection[nn.Parameter]
) -> tuple[set[nn.Parameter], AdapterHold | None]:
    """Which parameters somebody else has fixed since they were last looked at.

    Survivors of groups that train show it by themselves. Those of frozen groups do not, so they
    count as fixed too where adapters of peft came, or where parameters came that train and no
    survivor does any more.

    Args:
        old: the model before.
        now: the model after.
        trained: the survivors that trained before.

    Returns:
        The parameters, newcomers among them, and the hold on those that survive.
    """
    came = [p for p in now.names if p not in old.names and p.is_floating_point()]
    stood = [p for p in now.names if p in old.names and p.is_floating_point()]
    arrived = {p for p in came if not p.requires_grad}
    guests = frozenset(came) - arrived
    fixed = {p for p in stood if p in trained and not p.requires_grad}
    nothing_trains = bool(stood) and not any(p.requires_grad for p in stood)
    if guests and ((now.adapted and not old.adapted) or (nothing_trains and (fixed or arrived))):
        fixed = {p for p in stood if not p.requires_grad}
    if not fixed:
        return arrived, None
    moved = tuple((p, old.first(p)) for p in fixed if old.first(p) != now.first(p))
    return fixed | arrived, AdapterHold(frozenset(fixed), moved, guests)


def find_fixed(model: nn.Module) -> UserFrozen:
    """Parameters that the model's author fixed, such as sine position embeddings.

    A model that comes mostly frozen was frozen by hand: there nothing counts as fixed. Nor does
    what other layer groups of this model, or of the one that it is a copy of, had frozen. In both
    cases no parameter is frozen afterwards, and one line says so. In a model with adapters of peft
    all other parameters are fixed on purpose, and stay so.
    """
    if thaw_what_others_froze(model):
        log.warning("the model was frozen by other layer groups; now these say what trains: all do")
    named = list(model.named_parameters())
    fixed = [(n, p) for n, p in named if not p.requires_grad]
    if has_adapters(model):
        log.warning("the model has adapters: %d other parameters are fixed and stay so", len(fixed))
    elif len(fixed) * 2 > len(named):
        log.warning("the model came frozen; its layer groups now say what trains: none is frozen")
        for _, p in fixed:
            p.requires_grad_(p.is_floating_point() or p.is_complex())
        return UserFrozen()
    elif fixed:
        log.warning(
            "fixed by the model's author, never trained: %s", first_few(n for n, _ in fixed)
        )
    return UserFrozen(frozenset(p for _, p in fixed))
