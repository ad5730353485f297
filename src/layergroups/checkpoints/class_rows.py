"""Rows of classifiers by the names of their classes, for models whose classes differ in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from layergroups.anatomy import Anatomy
from layergroups.errors import TransplantError
from layergroups.models.head_surgery import classifier_layers
from layergroups.models.side_by_side import SideBySide, outputs_of, parts_of, whole_path

Slot = tuple[str, int]
Slots = list[Slot]


class Side(NamedTuple):
    """A model, what a dry run of it shows, and the names of its classes in order."""

    model: nn.Module
    anatomy: Anatomy
    classes: Sequence[str]


@dataclass(frozen=True)
class Row:
    """One row of a tensor of the target, and the row of the source that goes there."""

    target: int
    source: str
    row: int


@dataclass(frozen=True)
class RowMove:
    """Rows for one tensor of the target.

    Attributes:
        target: name of the tensor.
        rows: what goes there; fewer than it has, where some classes are new.
        reason: which classes were found by name.
        whole: whether every row is filled.
    """

    target: str
    rows: tuple[Row, ...]
    reason: str
    whole: bool


@dataclass(frozen=True)
class ClassPlan:
    """What goes by class name, and which layers are settled by it.

    Attributes:
        moves: rows for tensors of the target.
        scalars: counts of such layers, that go as they are: names in source and target.
        source: for each layer of the source that depends on the classes, why it went or stayed.
        target: likewise of the target.
    """

    moves: tuple[RowMove, ...] = ()
    scalars: tuple[tuple[str, str], ...] = ()
    source: dict[str, str] = field(default_factory=dict)
    target: dict[str, str] = field(default_factory=dict)


def class_plan(source: Side, target: Side, *, strict: bool) -> ClassPlan:
    """Which rows go where.

    Args:
        source: where rows come from.
        target: where they go.
        strict: raise where no layer has as many outputs as there are names.

    Raises:
        TransplantError: names stand twice, or, if strict, fit no layer.
    """
    old, new = _checked_layers(source, strict), _checked_layers(target, strict)
    if not old or not new:
        return ClassPlan()
    if len(old) != len(new):
        why = f"{len(old)} layers depend on the classes in the source, {len(new)} in the target"
        settled = _settled(source.model, old, why), _settled(target.model, new, why)
        return ClassPlan((), (), *settled)
    return _planned(source, target, list(zip(old, new, strict=True)))


def _checked_layers(side: Side, strict: bool) -> list[str]:
    if len(set(side.classes)) < len(side.classes):
        raise TransplantError(f"classes {list(side.classes)} name a class twice; give each once.")
    found = _class_layers(side.model, side.anatomy, len(side.classes))
    if strict and not found:
        raise TransplantError(
            f"classes= gives {len(side.classes)} names, but no last layer of "
            f"{type(side.model).__name__} has {len(side.classes)} outputs. Give the names of all "
            "classes in the order of the outputs: classes=(old_names, new_names)."
        )
    return found


def _settled(model: nn.Module, paths: Sequence[str], why: str) -> dict[str, str]:
    """All layers at and below the paths, with the reason."""
    return {
        inner: why
        for path in paths
        for inner, _ in model.named_modules(remove_duplicate=False)
        if inner == path or inner.startswith(f"{path}.")
    }


def _planned(source: Side, target: Side, pairs: Sequence[tuple[str, str]]) -> ClassPlan:
    shared = {c: i for i, c in enumerate(source.classes) if c in target.classes}
    reason = _reason(source.classes, target.classes)
    moves: list[RowMove] = []
    scalars: list[tuple[str, str]] = []
    settled: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for old, new in pairs:
        ours, theirs = _slots(source.model, old), _slots(target.model, new)
        why = _why_not(source.model, target.model, ours, theirs) if shared else reason
        settled[0].update(_settled(source.model, [old], why or reason))
        settled[1].update(_settled(target.model, [new], why or reason))
        for kind in [k for k in theirs if k in ours and not why]:
            wanted = {
                theirs[kind][i]: ours[kind][shared[c]]
                for i, c in enumerate(target.classes)
                if c in shared
            }
            moves += _by_tensor(target.model, wanted, reason)
        scalars += [] if why else _scalars(source.model, old, target.model, new)
    return ClassPlan(tuple(moves), tuple(scalars), *settled)


def _scalars(old: nn.Module, path: str, new: nn.Module, goal: str) -> list[tuple[str, str]]:
    ours, theirs = (m.get_submodule(p)._buffers for m, p in ((old, path), (new, goal)))
    return [
        (join(path, name), join(goal, name))
        for name, count in ours.items()
        if count is not None and count.ndim == 0 and theirs.get(name) is not None
    ]


def _reason(old: Sequence[str], new: Sequence[str]) -> str:
    if list(old) == list(new):
        return "same classes"
    both = [c for c in new if c in old]
    if not both:
        return f"no class in common: {_some(old)} there, {_some(new)} here"
    fresh, gone = [c for c in new if c not in old], [c for c in old if c not in new]
    return (
        f"classes by name: {_some(both)}"
        + (f"; new: {_some(fresh)}" if fresh else "")
        + (f"; no place for: {_some(gone)}" if gone else "")
    )


def _some(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _by_tensor(model: nn.Module, wanted: Mapping[Slot, Slot], reason: str) -> Iterator[RowMove]:
    """The wanted rows, sorted into the tensors of the target that hold their classes."""
    rows: dict[str, list[Row]] = {}
    for (tensor, at), (name, row) in wanted.items():
        rows.setdefault(tensor, []).append(Row(at, name, row))
    for tensor, found in rows.items():
        yield RowMove(tensor, tuple(found), reason, len(found) == len(_tensor(model, tensor)))


def _why_not(
    old: nn.Module, new: nn.Module, ours: dict[str, Slots], theirs: dict[str, Slots]
) -> str:
    """Why no rows can go from one layer to the other; empty if they can."""
    if not ours or not theirs:
        return "its weight has no row for each class"
    for kind in [k for k in theirs if k in ours]:
        there = tuple(_tensor(old, ours[kind][0][0]).shape[1:])
        here = tuple(_tensor(new, theirs[kind][0][0]).shape[1:])
        if here != there:
            return f"a class has numbers {there} in the source, {here} in the target"
    return ""


def _slots(model: nn.Module, path: str) -> dict[str, Slots]:
    """For each kind of tensor of a layer ("weight", "bias") where the row of each class stands."""
    layer = model.get_submodule(path)
    parts = [(join(path, n), p) for n, p in layer.named_children()]
    if not isinstance(layer, SideBySide):
        parts = [(path, layer)]
    slots: dict[str, Slots] = {}
    for place, part in parts:
        own = {**part._parameters, **part._buffers}
        n = outputs_of(part) if _is_map(part) else _width(part)
        for kind, tensor in own.items():
            if tensor is not None and tensor.ndim and len(tensor) == n:
                slots.setdefault(kind, []).extend((join(place, kind), row) for row in range(n))
    if _is_map(parts[0][1]) and "weight" not in slots:
        return {}
    complete = max((len(found) for found in slots.values()), default=0)
    return {kind: found for kind, found in slots.items() if len(found) == complete}


def _class_layers(model: nn.Module, anatomy: Anatomy, n: int) -> list[str]:
    """The layers that have a row for each class: classifiers, and norms of their outputs."""
    ran = [path for path in anatomy.layers if _exists(model, path)]
    known = all(_exists(model, c.path) for c in anatomy.classifiers)
    found = classifier_layers(model, anatomy) if known else {}
    paths = [path for path, layer in found.items() if _n(layer) == n] or _last_map(model, ran, n)
    ends = [i for i, path in enumerate(ran) if any(_within(path, p) for p in paths)]
    after = ran[ends[-1] + 1 :] if ends else []
    return paths + [path for path in after if _width(model.get_submodule(path)) == n]


def _last_map(model: nn.Module, ran: Sequence[str], n: int) -> list[str]:
    """The last linear layer that ran, if it has n outputs: a norm may come after it."""
    for path in reversed(ran):
        if _is_map(model.get_submodule(path)):
            whole = whole_path(model, path)
            return [whole] if _n(model.get_submodule(whole)) == n else []
    return []


def _is_map(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim >= 2


def _n(layer: nn.Module) -> int:
    return sum(outputs_of(part) for part in parts_of(layer))


def _width(module: nn.Module) -> int:
    """Numbers in the vectors of a norm or a scale; 0 where it has none."""
    own = [t for t in (*module._parameters.values(), *module._buffers.values()) if t is not None]
    return max((len(t) for t in own if t.ndim == 1), default=0)


def _within(path: str, above: str) -> bool:
    return path == above or path.startswith(f"{above}.")


def join(place: str, name: str) -> str:
    """The full name of what stands at a place; the root has no name."""
    return f"{place}.{name}" if place else name


def _exists(model: nn.Module, path: str) -> bool:
    try:
        model.get_submodule(path)
    except AttributeError:
        return False
    return True


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, kind = name.rpartition(".")
    module = model.get_submodule(path)
    found = module._parameters.get(kind)
    return found if found is not None else module._buffers[kind]  # type: ignore[return-value] # exists
