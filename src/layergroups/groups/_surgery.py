"""Notices that a model has changed since it was last looked at.

Where every parameter of a model stood when it was last looked at, as data.

What follows from surgery: groups of all places, the model's anatomy, and the change in words.

Touches no model.

What surgery did to a model, as data and in one line.

A loop of one's own under torch's DistributedDataParallel: the wrapper must not go stale.
"""

from __future__ import annotations

import gc
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from layergroups._formatting import first_few
from layergroups.anatomy import Anatomy, read_anatomy
from layergroups.errors import AnatomyError, GroupingError
from layergroups.groups._partition import ModuleTree, leaf_paths

_PARAMETERS, _MODULES = itemgetter("_parameters"), itemgetter("_modules")


_BOTH = itemgetter("_parameters", "_modules")


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


def form_of(parameter: nn.Parameter) -> TensorMeta:
    """The form of a parameter as it is now."""
    shape = None if is_lazy(parameter) else tuple(parameter.shape)
    return TensorMeta(parameter.dtype, parameter.device, shape)


def is_sharded(tensor: object) -> bool:
    """Whether each process holds a part of a tensor only, as FSDP2 has it."""
    return hasattr(tensor, "full_tensor")


class ChangeDetector:
    """Remembers which objects a model is made of; comparing costs microseconds.

    Compared are the identities of all modules and parameters in their places, read from the
    dictionaries of the modules, so a change by `setattr`, `del` or through `_modules` counts too;
    and the type, device and shape of every parameter, for `model.half()`, `model.to(device)` and
    `p.data = ...` leave the parameter itself in its place.

    `gc.get_referents` gives the values of many dictionaries in one call. A dictionary that holds
    something is looked up in its module each time, for torch itself exchanges whole dictionaries.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        inside = [module.__dict__ for module in model.modules()]
        self._with_parameters = [d for d in inside if _PARAMETERS(d)]
        self._with_modules = [d for d in inside if _MODULES(d)]
        self._empty = [d for pair in map(_BOTH, inside) for d in pair if not d]
        self._held = self._objects()  # held, so that no identity is used twice
        self._names = self._keys()
        self._parameters = list(model.parameters())
        self._forms = list(map(form_of, self._parameters))
        self._same_forms = _quick_check(self._parameters)

    def changed(self, *, names: bool = True) -> bool:
        """Whether a parameter or module came, went or was exchanged, or a tensor changed form.

        Args:
            names: also compare names; one that alone is another matters to no step of an optimizer.
        """
        now = self._objects()
        if len(now) != len(self._held) or not all(map(is_, now, self._held)):
            return True
        if names and self._keys() != self._names:
            return True
        return not self._same_forms() and self._other_forms()

    def __reduce__(self) -> tuple[type[ChangeDetector], tuple[nn.Module]]:
        """A copy watches the copied model."""
        return ChangeDetector, (self._model,)

    def _objects(self) -> Sequence[object]:
        return gc.get_referents(
            *map(_PARAMETERS, self._with_parameters),
            *map(_MODULES, self._with_modules),
            *self._empty,
        )

    def _keys(self) -> list[str]:
        own = map(_PARAMETERS, self._with_parameters)
        return list(chain(chain.from_iterable(own), *map(_MODULES, self._with_modules)))

    def _other_forms(self) -> bool:
        """The exact comparison, for the quick one also looks at what may change freely."""
        if list(map(form_of, self._parameters)) != self._forms:
            return True
        self._same_forms = _quick_check(self._parameters)
        return False


def _quick_check(parameters: Sequence[nn.Parameter]) -> Callable[[], bool]:
    """A call that is True only if no parameter has changed its form since now.

    torch compares the forms of many tensors in one call for `torch.compile`; where that does not
    work with these parameters, it is never True, and each is compared by itself.
    """
    try:
        from torch._C._dynamo.guards import TensorGuards

        sizes: list[Any] = [list(p.shape) for p in parameters]
        strides: list[Any] = [[None] * p.ndim for p in parameters]
        guards = TensorGuards(*parameters, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
        if parameters and guards.check(*parameters):
            return partial(guards.check, *parameters)
    except Exception:
        pass
    return lambda: False


@dataclass(frozen=True)
class ModelSnapshot:
    """A model as it was; holds its parameters, so that no identity is used twice.

    Attributes:
        names: all names of each parameter; the first is the one that torch lists it by.
        owners: by name, the module that holds it.
        forms: type, device and shape of each parameter.
        leaves: paths of the modules without children.
        adapted: whether it has adapters of peft.
    """

    names: Mapping[nn.Parameter, tuple[str, ...]]
    owners: Mapping[str, nn.Module]
    forms: Mapping[nn.Parameter, TensorMeta]
    leaves: tuple[str, ...]
    adapted: bool

    def first(self, parameter: nn.Parameter) -> str:
        """The name by which torch lists a parameter."""
        return self.names[parameter][0]

    def succeeded_by(self, heirs: Mapping[nn.Parameter, nn.Parameter]) -> ModelSnapshot:
        """The same with heirs in the place of the parameters that they are conversions of."""
        if not heirs:
            return self
        new = {old: heir for heir, old in heirs.items()}
        return replace(
            self,
            names={new.get(p, p): names for p, names in self.names.items()},
            forms={new.get(p, p): form for p, form in self.forms.items()},
        )


def take_snapshot(model: nn.Module) -> ModelSnapshot:
    """Look at a model as it is now."""
    names: dict[nn.Parameter, tuple[str, ...]] = {}
    owners: dict[str, nn.Module] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for key, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{path}.{key}" if path else key
                names[parameter] = (*names.get(parameter, ()), name)
                owners[name] = module
    forms = {p: form_of(p) for p in names}
    return ModelSnapshot(names, owners, forms, tuple(leaf_paths(model)), has_adapters(model))


def has_adapters(model: nn.Module) -> bool:
    """Whether a model has layers of peft, which holds all other weights fixed on purpose."""
    return any(
        base.__name__ == "BaseTunerLayer" and base.__module__.startswith("peft.")
        for kind in {type(module) for module in model.modules()}
        for base in kind.__mro__
    )


def conversions(old: ModelSnapshot, new: ModelSnapshot) -> dict[nn.Parameter, nn.Parameter]:
    """New parameters that are old ones in another type or on another device -> the old ones.

    `model.to(...)` keeps the parameters, or makes others where torch cannot do so or has been told
    not to (`torch.__future__.set_overwrite_module_params_on_conversion`). Such a one stands in the
    same module at the same name, and has the same values.
    """
    at = {names[0]: p for p, names in old.names.items()}
    heirs: dict[nn.Parameter, nn.Parameter] = {}
    for parameter, names in new.names.items():
        before = at.get(names[0])
        if parameter in old.names or before is None or before in new.names:
            continue
        same_place = old.owners[names[0]] is new.owners[names[0]]
        if same_place and _is_conversion(before, parameter):
            heirs[parameter] = before
    return heirs


def _is_conversion(old: nn.Parameter, new: nn.Parameter) -> bool:
    was, now = form_of(old), form_of(new)
    if was.shape is None or was.shape != now.shape or was == now:
        return False
    if old.is_meta or new.is_meta:
        return True
    return torch.equal(old.detach().to(new), new.detach())


@dataclass(frozen=True, kw_only=True)
class Tie:
    """One parameter that stands at several places.

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
        tied: parameters that stand at more places than before.
        untied: names of parameters that stand at fewer places than before.
        cast: name, old and new dtype of each parameter of another dtype.
        moved: name, old and new device of each parameter on another device.
        reshaped: name, old and new shape; the optimizer's state of these starts afresh.
        fixed: names of parameters that somebody else set to `requires_grad=False`, as peft does
            with all that is not an adapter: they stay fixed whatever the groups say.
        released: names of parameters that were fixed so, and follow their groups again.
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
        parts = [*self._came_and_went(), *self._became(), *self._hands()]
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
        yield from (_tie_in_words(tie) for tie in self.tied)
        if self.untied:
            yield f"{first_few(self.untied, 3)} no longer tied"
        for what, between in ((self.cast, ""), (self.moved, "on ")):
            for (old, new), n in Counter((old, new) for _, old, new in what).items():
                verb = "is" if n == 1 else "are"
                yield f"{_count(n)} {verb} {between}{new} now, {_was(n)} {between}{old}"
        for name, old_shape, new_shape in self.reshaped[:3]:
            yield f"{name} has shape {new_shape} now, had {old_shape}: its optimizer state restarts"
        if len(self.reshaped) > 3:
            yield f"{len(self.reshaped) - 3} more with another shape: their state restarts too"

    def _hands(self) -> Iterator[str]:
        if self.fixed:
            yield (
                f"{_count(len(self.fixed))} found with requires_grad=False, fixed by hand in "
                f"every group ({first_few(self.fixed, 2)})"
            )
        if self.released:
            yield f"{_count(len(self.released))} no longer fixed ({first_few(self.released, 2)})"


def _count(n: int) -> str:
    return f"{n} parameter" if n == 1 else f"{n} parameters"


def _was(n: int) -> str:
    return "was" if n == 1 else "were"


def _tie_in_words(tie: Tie) -> str:
    text = f"{' and '.join(tie.names)} are tied now: one parameter, in group {tie.group!r}"
    if not tie.conflict:
        return text
    others = " and ".join(map(repr, tie.others))
    return text + (
        f" that is frozen, though {others} is not"
        if tie.frozen
        else f" that trains, though {others} is frozen"
    )


log = logging.getLogger("layergroups")


def assign_groups(
    model: nn.Module, old: ModelSnapshot, now: ModelSnapshot, homes: Mapping[str, int]
) -> dict[str, int]:
    """The group of each parameter and each leaf module after surgery.

    Survivors keep their group; newcomers join that of the place where they stand. A parameter that
    was tied or untied is in the first of the groups of its places.

    Args:
        model: as it is now.
        old: where everything stood before.
        now: where everything stands.
        homes: the groups before, by name and path.
    """
    stay = {
        now.first(p): homes[old.first(p)]
        for p, names in now.names.items()
        if p in old.names and not _ties_differ(old.names[p], names)
    }
    tied = {
        name
        for names in (*old.names.values(), *now.names.values()) if len(names) > 1
        for name in names
    }  # fmt: skip
    known = ModuleTree({n: group for n, group in {**homes, **stay}.items() if n not in tied})
    places = _Old(old, homes)
    after: dict[str, int] = {}
    for parameter, (first, *others) in now.names.items():
        found = (places.group(parameter, n, known, model) for n in (first, *others))
        after[first] = stay[first] if first in stay else min(found)
    return after | _homes_of_layers(model, now, homes, after)


def _homes_of_layers(
    model: nn.Module, now: ModelSnapshot, before: Mapping[str, int], after: Mapping[str, int]
) -> dict[str, int]:
    """The groups of the leaf modules: those of their own parameters, else of where they stand."""
    own: dict[str, int] = {}
    for names in now.names.values():
        if len(names) == 1:
            path = names[0].rpartition(".")[0]
            own[path] = min(after[names[0]], own.get(path, after[names[0]]))
    places = ModuleTree(before)
    return {
        path: own[path]
        if path in own
        else before[path]
        if path in before
        else places.locate(path, model)
        for path in now.leaves
    }


def _ties_differ(before: Sequence[str], names: Sequence[str]) -> bool:
    return len(before) != len(names) or (len(names) > 1 and set(before) != set(names))


class _Old:
    """The groups of places as they were before surgery."""

    def __init__(self, old: ModelSnapshot, homes: Mapping[str, int]) -> None:
        self._names, self._homes = old.names, homes
        self._at = {name: names for names in old.names.values() for name in names}

    def group(self, parameter: nn.Parameter, name: str, known: ModuleTree, model: nn.Module) -> int:
        """The group of one of the places at which a parameter stands now."""
        if parameter not in self._names:
            return known.locate(name, model)
        there = self._at.get(name)
        if there is None:
            own = self._names[parameter]
            return self._homes[own[0]] if len(own) == 1 else known.locate(name, model)
        layer = self._homes.get(name.rpartition(".")[0])
        return layer if len(there) > 1 and layer is not None else self._homes[there[0]]


def describe(
    old: ModelSnapshot,
    now: ModelSnapshot,
    homes: Mapping[str, int],
    groups: Sequence[str],
    frozen: Sequence[bool],
) -> Change:
    """What came, went, moved, was tied, and became another; what is fixed is told by others."""
    both = [p for p in now.names if p in old.names]
    forms = [(now.first(p), old.forms[p], now.forms[p]) for p in both]
    ties = [p for p in both if len(now.names[p]) > len(old.names[p])]
    return Change(
        added=tuple(
            (names[0], groups[homes[names[0]]])
            for p, names in now.names.items() if p not in old.names
        ),
        removed=tuple(names[0] for p, names in old.names.items() if p not in now.names),
        renamed=tuple(
            (old.first(p), now.first(p))
            for p in both if not {old.first(p), now.first(p)} & {*old.names[p]} & {*now.names[p]}
        ),
        layers=old.leaves != now.leaves,
        tied=tuple(_tie(now.names[p], homes, groups, frozen) for p in ties),
        untied=tuple(now.first(p) for p in both if len(now.names[p]) < len(old.names[p])),
        cast=tuple((n, _bare(a.dtype), _bare(b.dtype)) for n, a, b in forms if a.dtype != b.dtype),
        moved=tuple((n, str(a.device), str(b.device)) for n, a, b in forms if a.device != b.device),
        reshaped=tuple((n, _shape(a), _shape(b)) for n, a, b in forms if a.shape != b.shape),
    )  # fmt: skip


def _tie(
    names: tuple[str, ...], homes: Mapping[str, int], groups: Sequence[str], frozen: Sequence[bool]
) -> Tie:
    own = homes[names[0]]
    layers = [homes.get(name.rpartition(".")[0], own) for name in names]
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


def _shape(form: TensorMeta) -> tuple[int, ...]:
    return form.shape or ()


def names_of(parameters: Collection[nn.Parameter], now: ModelSnapshot) -> tuple[str, ...]:
    """The names of some parameters, in the order of the model."""
    return tuple(names[0] for p, names in now.names.items() if p in parameters)


def only_spread(old: ModelSnapshot, now: ModelSnapshot) -> bool:
    """Whether all that happened is that FSDP2 exchanged parameters under the same names."""
    new = [p for p in now.names if p not in old.names]
    same = list(now.names.values()) == list(old.names.values()) and now.leaves == old.leaves
    return same and bool(new) and all(map(is_sharded, new))


def is_news(change: Change, model: nn.Module, optimizers: Iterable[Optimizer]) -> bool:
    """A move to another device is none where no optimizer remembers anything of it yet."""
    if change != Change(moved=change.moved):
        return True
    moved = [model.get_parameter(name) for name, *_ in change.moved]
    return any(p in optimizer.state for optimizer in optimizers for p in moved)


def look_again(model: nn.Module, example: Any, head: str | None) -> Anatomy | None:
    """The anatomy of a model after surgery; None where the one before has to serve.

    So it is in a model that FSDP2 has spread, which cannot run on fake tensors, and in one that
    runs neither on the example nor on an input made from what it tells of itself.
    """
    if any(map(is_sharded, model.parameters())):
        return None
    try:
        return read_anatomy(model, example, head=head)
    except AnatomyError as error:
        try:  # it may take other inputs now, such as images of other channels
            return read_anatomy(model, head=head)
        except AnatomyError:
            log.warning("the changed model cannot be run on the example input: %s", error)
            return None


def guard(model: nn.Module) -> None:
    """Let a DistributedDataParallel refuse to train other parameters than it was made for.

    It exchanges the gradients of those parameters that required one when it was made. One that is
    thawed or put in later would be trained by each process for itself, and the copies would drift
    apart without a word; one that is frozen later would be waited for.

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
            "anew after each change, DistributedDataParallel(groups.model), or do without it: "
            "layergroups.training.average_gradients(groups) after backward"
        )
