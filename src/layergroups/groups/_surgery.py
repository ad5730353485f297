"""Surgery on a model: two snapshots give the change as data, and the groups after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter, is_
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from layergroups._formatting import count, first_few
from layergroups._paths import leaves, parent
from layergroups._torch import (
    all_children,
    all_parameters,
    average_what_trains,
    forward_pre_hooks,
    is_sharded,
    known_to_ddp,
    own_modules,
    own_parameters,
)
from layergroups.errors import GroupingError
from layergroups.groups._partition import ModuleTree

# -- has the model changed? ----------------------------------------------------------------------


@dataclass(frozen=True)
class TensorMeta:
    """Properties of a parameter that conversion changes; the shape of a lazy one is None."""

    dtype: torch.dtype
    device: torch.device
    shape: tuple[int, ...] | None


def meta_of(parameter: nn.Parameter) -> TensorMeta:
    shape = None if is_lazy(parameter) else tuple(parameter.shape)
    return TensorMeta(parameter.dtype, parameter.device, shape)


_META = attrgetter("dtype", "device", "shape")


class ChangeDetector:
    """Checks whether a model still consists of the same objects, within microseconds.

    Identities are read from the modules themselves, so changes by `setattr`, `del` or through
    `_modules` count too. Type, device and shape are compared because `model.half()`,
    `model.to(device)` and `p.data = ...` retain the parameter object.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # references to all of them, so that Python does not reuse an id
        self._modules = list(model.modules())
        self._children = all_children(self._modules)
        self._parameters = all_parameters(self._modules)
        self._names = self._keys()
        known = [p for p in self._parameters if isinstance(p, nn.Parameter)]
        self._known = [p for p in known if not is_lazy(p)]
        self._lazy = [p for p in known if is_lazy(p)]
        self._metas = list(map(_META, self._known))

    def __reduce__(self) -> tuple[type[ChangeDetector], tuple[nn.Module]]:
        return ChangeDetector, (self._model,)  # a copy checks the copied model

    def changed(self, *, names: bool = True) -> bool:
        """Whether a parameter or module was added, removed, replaced, renamed or converted.

        `names=False` ignores new names of the same objects, which matter to no optimizer step.
        """
        return (
            self.modules_changed()
            or not _same(all_parameters(self._modules), self._parameters)
            or (names and self._keys() != self._names)
            or list(map(_META, self._known)) != self._metas
            or not all(map(is_lazy, self._lazy))
        )

    def modules_changed(self) -> bool:
        """Whether a module was added, removed or replaced."""
        return not _same(all_children(self._modules), self._children)

    def _keys(self) -> list[list[str]]:
        return [[*own_parameters(m), *own_modules(m)] for m in self._modules]


def _same(now: Sequence[object], before: Sequence[object]) -> bool:
    return len(now) == len(before) and all(map(is_, now, before))


# -- snapshots -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelSnapshot:
    # all names of each parameter; the first is the one in `named_parameters()`
    names: Mapping[nn.Parameter, tuple[str, ...]]
    owners: Mapping[str, nn.Module]  # by name of a parameter, the module that it is registered in
    metas: Mapping[nn.Parameter, TensorMeta]  # type, device and shape of each parameter
    leaves: tuple[str, ...]  # paths of the modules without children
    adapted: bool  # whether the model has adapter layers

    def first(self, parameter: nn.Parameter) -> str:
        return self.names[parameter][0]

    def with_converted(self, converted: Mapping[nn.Parameter, nn.Parameter]) -> ModelSnapshot:
        """The same with converted parameters (new -> old) instead of the old ones."""
        new = {old: parameter for parameter, old in converted.items()}
        return replace(
            self,
            names={new.get(p, p): names for p, names in self.names.items()},
            metas={new.get(p, p): meta for p, meta in self.metas.items()},
        )


def take_snapshot(model: nn.Module) -> ModelSnapshot:
    names: dict[nn.Parameter, tuple[str, ...]] = {}
    owners: dict[str, nn.Module] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for key, parameter in own_parameters(module).items():
            if parameter is not None:
                name = f"{path}.{key}" if path else key
                names[parameter] = (*names.get(parameter, ()), name)
                owners[name] = module
    metas = {p: meta_of(p) for p in names}
    return ModelSnapshot(names, owners, metas, tuple(leaves(model)), has_adapters(model))


# (package, base class of its adapter layers); each freezes the other weights on purpose
_ADAPTER_LAYERS = {("peft", "BaseTunerLayer"), ("loralib", "LoRALayer")}


def has_adapters(model: nn.Module) -> bool:
    return any(
        (base.__module__.partition(".")[0], base.__name__) in _ADAPTER_LAYERS
        for kind in {type(module) for module in model.modules()}
        for base in kind.__mro__
    )


def conversions(old: ModelSnapshot, new: ModelSnapshot) -> dict[nn.Parameter, nn.Parameter]:
    """New parameters that are old ones with a different type or device -> the old ones.

    `model.to(...)` makes new parameters where torch cannot convert in place, or is set not to. A
    converted parameter has the same module, name and values.
    """
    at = {names[0]: p for p, names in old.names.items()}
    converted: dict[nn.Parameter, nn.Parameter] = {}
    for parameter, names in new.names.items():
        before = at.get(names[0])
        if parameter in old.names or before is None or before in new.names:
            continue
        same_owner = old.owners[names[0]] is new.owners[names[0]]
        if same_owner and _is_conversion(before, parameter):
            converted[parameter] = before
    return converted


def _is_conversion(old: nn.Parameter, new: nn.Parameter) -> bool:
    was, now = meta_of(old), meta_of(new)
    if was.shape is None or was.shape != now.shape or was == now:
        return False
    if old.is_meta or new.is_meta:
        return True
    # torch has no link between the two, so compare values; a NaN counts as equal to itself
    return torch.allclose(old.detach().to(new), new.detach(), rtol=0, atol=0, equal_nan=True)


# -- changes -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tie:
    """One parameter with several names, of which the first is the one in the groups."""

    names: tuple[str, ...]  # all of them
    group: str  # its group, the first that runs it
    others: tuple[str, ...] = ()  # groups of its other names
    frozen: bool = False  # whether its group is frozen
    # whether one of the other groups is frozen and its own is not, or the reverse
    conflict: bool = False

    def __str__(self) -> str:
        text = f"{' and '.join(self.names)} are tied now: one parameter, in group {self.group!r}"
        others = " and ".join(map(repr, self.others))
        if self.conflict and self.frozen:
            return f"{text} that is frozen, though {others} is not"
        return f"{text} that trains, though {others} is frozen" if self.conflict else text


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of a model by surgery.

    Attributes:
        added: name of each new parameter, and the group that it joined.
        removed: names of removed parameters.
        renamed: old and new name of each surviving parameter with a new path.
        layers: whether layers were added or removed.
        tied: parameters with more names than before.
        untied: names of parameters with fewer names than before.
        cast: name, old and new dtype.
        moved: name, old and new device.
        reshaped: name, old and new shape; the optimizer state of these restarts.
        fixed: names of parameters that the user froze by `requires_grad_(False)`, or peft, which
            freezes all weights but adapters; they stay frozen.
        released: names of parameters that were frozen so, and follow their groups again.
    """

    added: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    layers: bool = False
    tied: tuple[Tie, ...] = ()
    untied: tuple[str, ...] = ()
    cast: tuple[tuple[str, str, str], ...] = ()
    moved: tuple[tuple[str, str, str], ...] = ()
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    fixed: tuple[str, ...] = ()
    released: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        parts = [*self._added_and_removed(), *self._tied_and_converted()]
        return f"the model changed: {'; '.join(parts) or 'layers without parameters'}"

    def _added_and_removed(self) -> Iterator[str]:
        parts = []
        for group in dict.fromkeys(group for _, group in self.added):
            names = [name for name, g in self.added if g == group]
            parts.append(f"{len(names)} new in group {group!r} ({first_few(names, 3)})")
        if self.removed:
            parts.append(f"{len(self.removed)} dropped ({first_few(self.removed, 3)})")
        if self.renamed:
            old, new = self.renamed[0]
            parts.append(f"{len(self.renamed)} moved ({old} → {new})")
        if parts:
            yield f"parameters: {'; '.join(parts)}"

    def _tied_and_converted(self) -> Iterator[str]:
        yield from map(str, self.tied)
        if self.untied:
            yield f"{first_few(self.untied, 3)} no longer tied"
        for converted, on in ((self.cast, ""), (self.moved, "on ")):
            for (old, new), n in Counter((old, new) for _, old, new in converted).items():
                verb, was = ("is", "was") if n == 1 else ("are", "were")
                yield f"{count(n, 'parameter')} {verb} {on}{new} now, {was} {on}{old}"
        for name, old_shape, new_shape in self.reshaped[:3]:
            yield f"{name} has shape {new_shape} now, had {old_shape}: its optimizer state restarts"
        if len(self.reshaped) > 3:
            yield f"{len(self.reshaped) - 3} more with a different shape: their state restarts too"
        if self.fixed:
            some = f"left frozen ({first_few(self.fixed, 2)})"
            yield f"{count(len(self.fixed), 'parameter')} found with requires_grad=False, {some}"
        if self.released:
            some = f"frozen by adapters or by hand ({first_few(self.released, 2)})"
            yield f"{count(len(self.released), 'parameter')} no longer {some}"


# -- groups after surgery ---------------------------------------------------------------------


def assign_groups(
    model: nn.Module, old: ModelSnapshot, now: ModelSnapshot, group_of: Mapping[str, int]
) -> dict[str, int]:
    """The group of each parameter and each leaf module after surgery.

    A surviving parameter stays in its group (`group_of`, by its name or the path of the leaf
    module), a new one joins the group of its path (`ModuleTree.locate`), and one that was tied or
    untied the first of the groups of its paths.
    """
    stay = {
        now.first(p): group_of[old.first(p)]
        for p, names in now.names.items()
        if p in old.names and not _ties_differ(old.names[p], names)
    }
    tied = {
        name
        for names in (*old.names.values(), *now.names.values()) if len(names) > 1
        for name in names
    }  # fmt: skip
    known = ModuleTree({n: group for n, group in {**group_of, **stay}.items() if n not in tied})
    before = {name: names for names in old.names.values() for name in names}

    def group_at(parameter: nn.Parameter, name: str) -> int:
        own, there = old.names.get(parameter), before.get(name)
        if own is None or (there is None and len(own) > 1):  # new, or tied with a new name
            return known.locate(name, model)
        if there is None:
            return group_of[own[0]]
        # the layer of a tied weight is more specific than the weight, which is in the first group
        layer = group_of.get(parent(name))
        return layer if len(there) > 1 and layer is not None else group_of[there[0]]

    after = {
        names[0]: stay[names[0]] if names[0] in stay else min(group_at(p, n) for n in names)
        for p, names in now.names.items()
    }
    return after | _groups_of_layers(model, now, group_of, after)


def _groups_of_layers(
    model: nn.Module, now: ModelSnapshot, before: Mapping[str, int], after: Mapping[str, int]
) -> dict[str, int]:
    """The groups of the leaf modules: those of their own parameters, else of their paths."""
    own: dict[str, int] = {}
    for name in (names[0] for names in now.names.values() if len(names) == 1):
        path = parent(name)
        own[path] = min(after[name], own.get(path, after[name]))
    tree, groups = ModuleTree(before), {**before, **own}
    return {
        path: groups[path] if path in groups else tree.locate(path, model) for path in now.leaves
    }


def _ties_differ(before: Sequence[str], names: Sequence[str]) -> bool:
    return len(before) != len(names) or (len(names) > 1 and set(before) != set(names))


def describe(
    old: ModelSnapshot,
    now: ModelSnapshot,
    group_of: Mapping[str, int],
    groups: Sequence[str],
    frozen: Sequence[bool],
) -> Change:
    """The change between two snapshots, without `fixed` and `released`."""
    both = [p for p in now.names if p in old.names]
    metas = [(now.first(p), old.metas[p], now.metas[p]) for p in both]
    ties = [p for p in both if len(now.names[p]) > len(old.names[p])]
    return Change(
        added=tuple(
            (names[0], groups[group_of[names[0]]])
            for p, names in now.names.items() if p not in old.names
        ),
        removed=tuple(names[0] for p, names in old.names.items() if p not in now.names),
        renamed=tuple(
            (old.first(p), now.first(p))
            for p in both if not {old.first(p), now.first(p)} & {*old.names[p]} & {*now.names[p]}
        ),
        layers=old.leaves != now.leaves,
        tied=tuple(_tie(now.names[p], group_of, groups, frozen) for p in ties),
        untied=tuple(now.first(p) for p in both if len(now.names[p]) < len(old.names[p])),
        cast=tuple(
            (n, str(a.dtype).removeprefix("torch."), str(b.dtype).removeprefix("torch."))
            for n, a, b in metas if a.dtype != b.dtype
        ),
        moved=tuple((n, str(a.device), str(b.device)) for n, a, b in metas if a.device != b.device),
        reshaped=tuple(
            (n, a.shape or (), b.shape or ()) for n, a, b in metas if a.shape != b.shape
        ),
    )  # fmt: skip


def _tie(
    names: tuple[str, ...],
    group_of: Mapping[str, int],
    groups: Sequence[str],
    frozen: Sequence[bool],
) -> Tie:
    own = group_of[names[0]]
    layers = [group_of.get(parent(name), own) for name in names]
    others = [i for i in dict.fromkeys(layers) if i != own]
    against = [i for i in others if frozen[i] != frozen[own]]
    return Tie(
        names=names,
        group=groups[own],
        others=tuple(groups[i] for i in against or others),
        frozen=frozen[own],
        conflict=bool(against),
    )


def names_of(parameters: Iterable[nn.Parameter], now: ModelSnapshot) -> tuple[str, ...]:
    chosen = {*parameters}
    return tuple(names[0] for p, names in now.names.items() if p in chosen)


def is_sharding(old: ModelSnapshot, now: ModelSnapshot) -> bool:
    """Whether FSDP2 replaced parameters under the same names, and nothing else changed."""
    new = [p for p in now.names if p not in old.names]
    same = list(now.names.values()) == list(old.names.values()) and now.leaves == old.leaves
    return same and bool(new) and all(map(is_sharded, new))


def needs_warning(change: Change, model: nn.Module, optimizers: Iterable[Optimizer]) -> bool:
    """Any change does, except a new device before an optimizer has state of the parameters."""
    if change != Change(moved=change.moved):
        return True
    moved = [model.get_parameter(name) for name, *_ in change.moved]
    return any(p in optimizer.state for optimizer in optimizers for p in moved)


# -- torch's DistributedDataParallel -------------------------------------------------------------


class InStep:
    """On a DistributedDataParallel: it averages the gradients of the parameters that train now.

    By itself it averages those that trained at wrapping: each process would train a group that is
    unfrozen later by itself, and it would wait for the gradients of one that is frozen later.
    """

    averaged: Sequence[nn.Parameter] = ()

    def __call__(self, wrapper: nn.Module, *_: object) -> None:
        assert isinstance(wrapper, DistributedDataParallel)
        if torch.compiler.is_compiling() or not (wrapper.training and torch.is_grad_enabled()):
            return
        known = {*known_to_ddp(wrapper)}
        named = wrapper.module.named_parameters()
        if new := [name for name, p in named if p.requires_grad and p not in known]:
            raise GroupingError(
                f"this DistributedDataParallel does not average the gradients of "
                f"{first_few(new, 3)}, which came after it. Make it again after each surgery, "
                "DistributedDataParallel(groups.model), or call "
                "layergroups.training.average_gradients(groups) after backward instead"
            )
        self.follow(wrapper)

    def follow(self, wrapper: DistributedDataParallel) -> None:
        trains = [p for p in wrapper.module.parameters() if p.requires_grad]
        if not _same(trains, self.averaged):
            average_what_trains(wrapper)
            self.averaged = trains


def in_step(wrapper: DistributedDataParallel) -> InStep:
    """What keeps a wrapper in step with the freezing of its model; made at the first call."""
    for hook in forward_pre_hooks(wrapper).values():
        if isinstance(hook, InStep):
            return hook
    wrapper.register_forward_pre_hook(hook := InStep())
    return hook
