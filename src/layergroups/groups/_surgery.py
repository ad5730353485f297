"""Surgery on a model: a snapshot, what changed since, the groups of all places after it.

A snapshot holds what a model was made of; `ChangeDetector` tells cheaply whether it still is.
Two snapshots give the groups after a change (`assign_groups`) and the change as data (`describe`).
Nothing here touches the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
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
    is_sharded,
    own_modules,
    own_parameters,
)
from layergroups.errors import GroupingError
from layergroups.groups._partition import ModuleTree

# -- has the model changed? ----------------------------------------------------------------------


@dataclass(frozen=True)
class TensorMeta:
    """What of a tensor may change while its parameter stays the same object.

    Attributes:
        dtype: of its numbers.
        device: where they are.
        shape: None for a lazy parameter that has none yet.
    """

    dtype: torch.dtype
    device: torch.device
    shape: tuple[int, ...] | None


def meta_of(parameter: nn.Parameter) -> TensorMeta:
    """The type, device and shape of a parameter as it is now."""
    shape = None if is_lazy(parameter) else tuple(parameter.shape)
    return TensorMeta(parameter.dtype, parameter.device, shape)


_META = attrgetter("dtype", "device", "shape")


class ChangeDetector:
    """Tells whether a model is still made of the same objects; it costs some microseconds.

    Compared are the identities of all modules and parameters in their places, read from the modules
    themselves, so a change by `setattr`, `del` or through `_modules` counts too;
    and the type, device and shape of every parameter, for `model.half()`, `model.to(device)` and
    `p.data = ...` leave the parameter itself in its place.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        # all are held, so that no identity is used twice
        self._modules = list(model.modules())
        self._children = all_children(self._modules)
        self._parameters = all_parameters(self._modules)
        self._names = self._keys()
        known = [p for p in self._parameters if isinstance(p, nn.Parameter)]
        self._known = [p for p in known if not is_lazy(p)]
        self._lazy = [p for p in known if is_lazy(p)]
        self._metas = list(map(_META, self._known))

    def __reduce__(self) -> tuple[type[ChangeDetector], tuple[nn.Module]]:
        """A copy watches the copied model."""
        return ChangeDetector, (self._model,)

    def changed(self, *, names: bool = True) -> bool:
        """Whether a parameter or module came, went or was exchanged, or a tensor's meta changed.

        Args:
            names: also compare names; a different name alone matters to no step of an optimizer.
        """
        return (
            self.modules_changed()
            or not _same(all_parameters(self._modules), self._parameters)
            or (names and self._keys() != self._names)
            or list(map(_META, self._known)) != self._metas
            or not all(map(is_lazy, self._lazy))
        )

    def modules_changed(self) -> bool:
        """Whether a module came, went or was exchanged."""
        return not _same(all_children(self._modules), self._children)

    def _keys(self) -> list[list[str]]:
        return [[*own_parameters(m), *own_modules(m)] for m in self._modules]


def _same(now: Sequence[object], before: Sequence[object]) -> bool:
    return len(now) == len(before) and all(map(is_, now, before))


# -- the model as it was -------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelSnapshot:
    """A model as it was; holds its parameters, so that no identity is used twice.

    Attributes:
        names: all names of each parameter; the first is the one that torch lists it by.
        owners: by name, the module that holds it.
        metas: type, device and shape of each parameter.
        leaves: paths of the modules without children.
        adapted: whether it has adapter layers.
    """

    names: Mapping[nn.Parameter, tuple[str, ...]]
    owners: Mapping[str, nn.Module]
    metas: Mapping[nn.Parameter, TensorMeta]
    leaves: tuple[str, ...]
    adapted: bool

    def first(self, parameter: nn.Parameter) -> str:
        """The name by which torch lists a parameter."""
        return self.names[parameter][0]

    def with_converted(self, converted: Mapping[nn.Parameter, nn.Parameter]) -> ModelSnapshot:
        """The same with converted parameters (new -> old) in the place of the old ones."""
        if not converted:
            return self
        new = {old: parameter for parameter, old in converted.items()}
        return replace(
            self,
            names={new.get(p, p): names for p, names in self.names.items()},
            metas={new.get(p, p): meta for p, meta in self.metas.items()},
        )


def take_snapshot(model: nn.Module) -> ModelSnapshot:
    """Look at a model as it is now."""
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
    """Whether a model has the layers of an adapter library, such as those of LoRA in peft."""
    return any(
        (base.__module__.partition(".")[0], base.__name__) in _ADAPTER_LAYERS
        for kind in {type(module) for module in model.modules()}
        for base in kind.__mro__
    )


def conversions(old: ModelSnapshot, new: ModelSnapshot) -> dict[nn.Parameter, nn.Parameter]:
    """New parameters that are old ones with a different type or device -> the old ones.

    `model.to(...)` keeps the parameters, or makes others where torch cannot do so or is set not to
    (`torch.__future__.set_overwrite_module_params_on_conversion`). Such a one is in the same
    module at the same name, and has the same values.
    """
    at = {names[0]: p for p, names in old.names.items()}
    converted: dict[nn.Parameter, nn.Parameter] = {}
    for parameter, names in new.names.items():
        before = at.get(names[0])
        if parameter in old.names or before is None or before in new.names:
            continue
        same_place = old.owners[names[0]] is new.owners[names[0]]
        if same_place and _is_conversion(before, parameter):
            converted[parameter] = before
    return converted


def _is_conversion(old: nn.Parameter, new: nn.Parameter) -> bool:
    was, now = meta_of(old), meta_of(new)
    if was.shape is None or was.shape != now.shape or was == now:
        return False
    if old.is_meta or new.is_meta:
        return True
    # torch leaves no link between the two, so values must tell; a NaN counts as equal to itself
    return torch.allclose(old.detach().to(new), new.detach(), rtol=0, atol=0, equal_nan=True)


# -- what changed --------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Tie:
    """One parameter at several places.

    Attributes:
        names: all its names; the first is the one that the groups use.
        group: the group it is counted in, the first that runs it.
        others: groups of its other places.
        frozen: whether it is frozen, as its group is.
        conflict: True where a group of its other places is not as its own is.
    """

    names: tuple[str, ...]
    group: str
    others: tuple[str, ...] = ()
    frozen: bool = False
    conflict: bool = False


@dataclass(frozen=True, kw_only=True)
class Change:
    """What surgery did to a model, and what followed from it.

    Attributes:
        added: for each new parameter its name and the group that it joined.
        removed: names that the parameters which are gone had.
        renamed: for each surviving parameter that moved its old and new name.
        layers: whether layers without parameters came or went.
        tied: parameters at more places than before.
        untied: names of parameters at fewer places than before.
        cast: name, old and new dtype where the dtype changed.
        moved: name, old and new device where the device changed.
        reshaped: name, old and new shape; the optimizer's state of these starts again.
        fixed: names of parameters found with `requires_grad=False` that groups did not freeze, as
            peft does with all that is not an adapter; they stay frozen by the user.
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
        """All fields as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [*self._came_and_went(), *self._became(), *self._user_frozen()]
        return f"the model changed: {'; '.join(parts) or 'layers without parameters'}"

    def _came_and_went(self) -> Iterator[str]:
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

    def _became(self) -> Iterator[str]:
        yield from (_describe_tie(tie) for tie in self.tied)
        if self.untied:
            yield f"{first_few(self.untied, 3)} no longer tied"
        for what, between in ((self.cast, ""), (self.moved, "on ")):
            for (old, new), n in Counter((old, new) for _, old, new in what).items():
                verb, was = ("is", "was") if n == 1 else ("are", "were")
                yield f"{count(n, 'parameter')} {verb} {between}{new} now, {was} {between}{old}"
        for name, old_shape, new_shape in self.reshaped[:3]:
            yield f"{name} has shape {new_shape} now, had {old_shape}: its optimizer state restarts"
        if len(self.reshaped) > 3:
            yield f"{len(self.reshaped) - 3} more with a different shape: their state restarts too"

    def _user_frozen(self) -> Iterator[str]:
        if self.fixed:
            n = count(len(self.fixed), "parameter")
            yield f"{n} found with requires_grad=False, left frozen ({first_few(self.fixed, 2)})"
        if self.released:
            n = count(len(self.released), "parameter")
            yield f"{n} no longer frozen by adapters or by hand ({first_few(self.released, 2)})"


def _describe_tie(tie: Tie) -> str:
    text = f"{' and '.join(tie.names)} are tied now: one parameter, in group {tie.group!r}"
    if not tie.conflict:
        return text
    others = " and ".join(map(repr, tie.others))
    return text + (
        f" that is frozen, though {others} is not"
        if tie.frozen
        else f" that trains, though {others} is frozen"
    )


# -- groups after surgery ---------------------------------------------------------------------


def assign_groups(
    model: nn.Module, old: ModelSnapshot, now: ModelSnapshot, group_of: Mapping[str, int]
) -> dict[str, int]:
    """The group of each parameter and each leaf module after surgery.

    | parameter | group |
    | --- | --- |
    | survives, tied as before | the one that it had |
    | new | that of the place where it is, see `ModuleTree.locate` |
    | tied or untied since | the first of the groups of its places |

    Args:
        model: as it is now.
        old: the model before.
        now: the model as it is.
        group_of: the groups before, by name of the parameter and path of the leaf module.
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
    places = _Places(old, group_of, known, model)
    after: dict[str, int] = {}
    for parameter, names in now.names.items():
        first = names[0]
        after[first] = stay[first] if first in stay else min(places.groups(parameter, names))
    return after | _groups_of_layers(model, now, group_of, after)


def _groups_of_layers(
    model: nn.Module, now: ModelSnapshot, before: Mapping[str, int], after: Mapping[str, int]
) -> dict[str, int]:
    """The groups of the leaf modules: those of their own parameters, else of where they are."""
    own: dict[str, int] = {}
    for names in now.names.values():
        if len(names) == 1:
            path = parent(names[0])
            own[path] = min(after[names[0]], own.get(path, after[names[0]]))
    tree, groups = ModuleTree(before), {**before, **own}
    return {
        path: groups[path] if path in groups else tree.locate(path, model) for path in now.leaves
    }


def _ties_differ(before: Sequence[str], names: Sequence[str]) -> bool:
    return len(before) != len(names) or (len(names) > 1 and set(before) != set(names))


class _Places:
    """The groups of the places at which a parameter is now that is new, or was tied or untied."""

    def __init__(
        self, old: ModelSnapshot, group_of: Mapping[str, int], known: ModuleTree, model: nn.Module
    ) -> None:
        self._names, self._group_of, self._known, self._model = old.names, group_of, known, model
        self._at = {name: names for names in old.names.values() for name in names}

    def groups(self, parameter: nn.Parameter, names: Sequence[str]) -> list[int]:
        """One group for each name."""
        return [self._group(parameter, name) for name in names]

    def _group(self, parameter: nn.Parameter, name: str) -> int:
        before = self._names.get(parameter)
        if before is None:  # a new parameter
            return self._known.locate(name, self._model)
        there = self._at.get(name)
        if there is None:  # a survivor at a place that is new
            if len(before) == 1:
                return self._group_of[before[0]]
            return self._known.locate(name, self._model)
        # at a place of a tied weight its layer tells more than the weight, which another group held
        layer = self._group_of.get(parent(name))
        return layer if len(there) > 1 and layer is not None else self._group_of[there[0]]


def describe(
    old: ModelSnapshot,
    now: ModelSnapshot,
    group_of: Mapping[str, int],
    groups: Sequence[str],
    frozen: Sequence[bool],
) -> Change:
    """What came, went, moved, was tied or converted; what the user froze is added by the caller."""
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
        cast=tuple((n, _bare(a.dtype), _bare(b.dtype)) for n, a, b in metas if a.dtype != b.dtype),
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


def _bare(dtype: object) -> str:
    return str(dtype).removeprefix("torch.")


def names_of(parameters: Collection[nn.Parameter], now: ModelSnapshot) -> tuple[str, ...]:
    """The names of some parameters, in the order of the model."""
    return tuple(names[0] for p, names in now.names.items() if p in parameters)


def is_sharding(old: ModelSnapshot, now: ModelSnapshot) -> bool:
    """Whether all that happened is that FSDP2 exchanged parameters under the same names."""
    new = [p for p in now.names if p not in old.names]
    same = list(now.names.values()) == list(old.names.values()) and now.leaves == old.leaves
    return same and bool(new) and all(map(is_sharded, new))


def is_news(change: Change, model: nn.Module, optimizers: Iterable[Optimizer]) -> bool:
    """A move to a different device is none while no optimizer has state of what moved."""
    if change != Change(moved=change.moved):
        return True
    moved = [model.get_parameter(name) for name, *_ in change.moved]
    return any(p in optimizer.state for optimizer in optimizers for p in moved)


# -- a loop of one's own under torch's DistributedDataParallel -----------------------------------


def refuse_stale_wrapper(model: nn.Module) -> None:
    """Let a DistributedDataParallel refuse to train other parameters than it was made for.

    It exchanges the gradients of those parameters that required one when it was made. One that is
    unfrozen or put in later would be trained by each process for itself, and the copies would drift
    apart in silence; one that is frozen later would be waited for.

    Args:
        model: as it was given to `LayerGroups`, with the parameters still as they were when it was
            wrapped; anything but such a wrapper is left as it is.
    """
    if isinstance(model, DistributedDataParallel):
        exchanged = tuple(p for p in model.parameters() if p.requires_grad)
        model.register_forward_pre_hook(partial(_refuse_stale, exchanged))


def _refuse_stale(exchanged: tuple[nn.Parameter, ...], wrapper: nn.Module, _: Any) -> None:
    assert isinstance(wrapper, DistributedDataParallel)
    if not (wrapper.training and torch.is_grad_enabled()):
        return
    known = {id(p) for p in exchanged}
    named = list(wrapper.module.named_parameters())
    trains = {id(p): name for name, p in named if p.requires_grad}
    new = [name for i, name in trains.items() if i not in known]
    idle = [] if wrapper.find_unused_parameters else known - trains.keys()
    if new or idle:
        what = f"{first_few(new, 3)} would be trained by each process for itself" if new else (
            f"{len(idle)} that do not train any more would be waited for"
        )  # fmt: skip
        raise GroupingError(
            f"this DistributedDataParallel was made when other parameters trained: {what}. Make it "
            "again after each change, DistributedDataParallel(groups.model), or do without it: "
            "layergroups.training.average_gradients(groups) after backward"
        )
