"""What follows from surgery: groups of all places, the model's anatomy, and the change in words.

Touches no model.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from layergroups.anatomy import Anatomy, read_anatomy
from layergroups.errors import AnatomyError
from layergroups.groups.change import Change, Tie
from layergroups.groups.places import Places
from layergroups.groups.standing import Standing
from layergroups.groups.surgery import Form, is_spread

log = logging.getLogger("layergroups")


def homes_after(
    model: nn.Module, old: Standing, now: Standing, homes: Mapping[str, int]
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
    known = Places({n: group for n, group in {**homes, **stay}.items() if n not in tied})
    places = _Old(old, homes)
    after: dict[str, int] = {}
    for parameter, (first, *others) in now.names.items():
        found = (places.group(parameter, n, known, model) for n in (first, *others))
        after[first] = stay[first] if first in stay else min(found)
    return after | _homes_of_layers(model, now, homes, after)


def _homes_of_layers(
    model: nn.Module, now: Standing, before: Mapping[str, int], after: Mapping[str, int]
) -> dict[str, int]:
    """The groups of the leaf modules: those of their own parameters, else of where they stand."""
    own: dict[str, int] = {}
    for names in now.names.values():
        if len(names) == 1:
            path = names[0].rpartition(".")[0]
            own[path] = min(after[names[0]], own.get(path, after[names[0]]))
    places = Places(before)
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

    def __init__(self, old: Standing, homes: Mapping[str, int]) -> None:
        self._names, self._homes = old.names, homes
        self._at = {name: names for names in old.names.values() for name in names}

    def group(self, parameter: nn.Parameter, name: str, known: Places, model: nn.Module) -> int:
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
    old: Standing,
    now: Standing,
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


def _shape(form: Form) -> tuple[int, ...]:
    return form.shape or ()


def names_of(parameters: Collection[nn.Parameter], now: Standing) -> tuple[str, ...]:
    """The names of some parameters, in the order of the model."""
    return tuple(names[0] for p, names in now.names.items() if p in parameters)


def only_spread(old: Standing, now: Standing) -> bool:
    """Whether all that happened is that FSDP2 exchanged parameters under the same names."""
    new = [p for p in now.names if p not in old.names]
    same = list(now.names.values()) == list(old.names.values()) and now.leaves == old.leaves
    return same and bool(new) and all(map(is_spread, new))


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
    if any(map(is_spread, model.parameters())):
        return None
    try:
        return read_anatomy(model, example, head=head)
    except AnatomyError as error:
        try:  # it may take other inputs now, such as images of other channels
            return read_anatomy(model, head=head)
        except AnatomyError:
            log.warning("the changed model cannot be run on the example input: %s", error)
            return None
