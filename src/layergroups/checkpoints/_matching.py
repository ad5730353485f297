"""Match the layers of two models by name or by moved module, and class rows by class name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor, nn

from layergroups._formatting import first_few
from layergroups._paths import is_within, join, parent
from layergroups._torch import is_persistent, own_buffers, own_tensors
from layergroups.anatomy import Anatomy
from layergroups.errors import TransplantError
from layergroups.models import ConcatLinear, classifier_layers, is_linear, outputs_of

Layers = Mapping[str, "Layer"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A module with direct tensors.

    Attributes:
        path: of the module.
        tensors: its direct parameters and saved buffers, by local name.
        whole: True for a module without children: its tensors go together or not at all.
    """

    path: str
    tensors: Mapping[str, Tensor]
    whole: bool

    def name(self, tensor: str) -> str:
        """The full name of one of its tensors."""
        return f"{self.path}.{tensor}" if self.path else tensor

    def fits(self, other: Layer) -> bool:
        """Whether tensors can be copied to `other`: all that both have, if both are whole."""
        same = [other.tensors[n].shape == t.shape for n, t in self.tensors.items() if n in other]
        return bool(same) and (all(same) if self.whole and other.whole else any(same))

    def __contains__(self, tensor: str) -> bool:
        return tensor in self.tensors


@dataclass(frozen=True)
class Match:
    """A layer of the source, the matching layer of the target, and the reason."""

    source: str
    target: str
    reason: str


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """Every module with direct tensors, by path; a shared module under all its paths."""
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        tensors = {n: t for n, t in own_tensors(module).items() if is_persistent(module, n)}
        if tensors:
            found[path] = Layer(path, tensors, not any(module.children()))
    return found


def match_layers(source: Layers, target: Layers) -> list[Match]:
    """Pairs of matching layers; each layer is in at most one pair.

    Moved modules are found by votes: each two layers of the same name and shapes vote for the pair
    of paths above them. The pair with the most votes comes first, then layers of the same full
    name. A further pair needs the votes of at least two layers, and of most layers below the old
    path. Last come layers that are one level deeper on one side, as in a wrapper or a grown head.
    """
    left, free = dict(source), dict(target)
    matches: list[Match] = []
    places = _places(left, free)
    if places != ("", "") and places is not None:
        matches += _take(left, free, *places)
    matches += _take(left, free, "", "")
    while (places := _places(left, free)) is not None:
        matches += _take(left, free, *places)
    for path, goal in _wrapped(left, free):
        matches.append(Match(path, goal, f"wrapped: now at .{goal.rpartition('.')[2]}"))
        del left[path], free[goal]
    for goal, path in _wrapped(free, left):
        matches.append(Match(path, goal, f"unwrapped: was at .{path.rpartition('.')[2]}"))
        del left[path], free[goal]
    return matches


def _take(left: dict[str, Layer], free: dict[str, Layer], old: str, new: str) -> list[Match]:
    reason = "same name" if old == new else _moved(old, new)
    taken = []
    for path in [p for p in left if is_within(p, old)]:
        goal = join(new, path[len(old) :].removeprefix("."))
        if goal in free and left[path].fits(free[goal]):
            taken.append(Match(path, goal, reason))
            del left[path], free[goal]
    return taken


def _wrapped(outer: Layers, inner: Layers) -> list[tuple[str, str]]:
    """Each layer with the first layer of the same shapes directly below its path."""
    pairs: dict[str, str] = {}
    for path, layer in inner.items():
        above = parent(path)
        if path and above in outer and _shapes(outer[above]) == _shapes(layer):
            pairs.setdefault(above, path)
    return list(pairs.items())


def _moved(old: str, new: str) -> str:
    return f"moved: {old or 'the root'} → {new or 'the root'}"


def _places(left: Layers, free: Layers) -> tuple[str, str] | None:
    """The two paths with the most votes; None if the votes show no moved module."""
    votes = Counter(_votes(left, free))
    ranked = sorted(votes, key=lambda v: (-votes[v], v[0] != v[1], len(v[0]) + len(v[1]), v))
    for old, new in ranked:
        below = sum(is_within(path, old) for path in left)
        if votes[old, new] >= 2 and votes[old, new] * 2 > below:
            return old, new
    return None


def _votes(left: Layers, free: Layers) -> Iterator[tuple[str, str]]:
    alike: dict[object, list[Layer]] = {}
    for layer in free.values():
        alike.setdefault(_kind(layer), []).append(layer)
    for layer in left.values():
        for other in alike.get(_kind(layer), ()):
            yield _above(layer.path, other.path)


def _kind(layer: Layer) -> object:
    return layer.path.rpartition(".")[2], _shapes(layer)


def _shapes(layer: Layer) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, tuple(t.shape)) for name, t in layer.tensors.items()))


def _above(path: str, other: str) -> tuple[str, str]:
    """Two paths without their longest common ending."""
    ours, theirs = path.split("."), other.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return ".".join(ours), ".".join(theirs)


Slot = tuple[str, int]
Slots = list[Slot]


class Side(NamedTuple):
    """A model, its anatomy, and the names of its classes in order."""

    model: nn.Module
    anatomy: Anatomy
    classes: Sequence[str]


@dataclass(frozen=True)
class Row:
    """A row of a tensor of the target, and the row of the source to copy there."""

    target: int
    source: str
    row: int


@dataclass(frozen=True)
class Move:
    """A tensor of the target, by name, and the tensors of the source that fill it."""

    target: str
    sources: tuple[str, ...]
    reason: str
    rows: tuple[Row, ...] = ()  # empty for a whole tensor
    complete: bool = True  # False if rows of new classes are not filled


@dataclass(frozen=True)
class ClassPlan:
    """The moves by class name, and the reason for each layer of both models that they settle."""

    moves: tuple[Move, ...] = ()
    source: dict[str, str] = field(default_factory=dict)
    target: dict[str, str] = field(default_factory=dict)


def class_plan(source: Side, target: Side, *, strict: bool) -> ClassPlan:
    """Plan which class rows to copy."""
    old, new = _checked_layers(source, strict), _checked_layers(target, strict)
    if not old or not new:
        return ClassPlan()
    if len(old) != len(new):
        why = f"{len(old)} layers depend on the classes in the source, {len(new)} in the target"
        settled = _settled(source.model, old, why), _settled(target.model, new, why)
        return ClassPlan((), *settled)
    return _planned(source, target, list(zip(old, new, strict=True)))


def _checked_layers(side: Side, strict: bool) -> list[str]:
    if len(set(side.classes)) < len(side.classes):
        raise TransplantError(f"classes={list(side.classes)} has duplicates; name each class once.")
    found = _class_layers(side.model, side.anatomy, len(side.classes))
    if strict and not found:
        raise TransplantError(
            f"classes= has {len(side.classes)} names, but no last layer of "
            f"{type(side.model).__name__} has as many outputs. Pass the names of all classes in "
            "the order of the outputs: classes=(old_names, new_names)."
        )
    return found


def _settled(model: nn.Module, paths: Sequence[str], why: str) -> dict[str, str]:
    return {
        inner: why
        for path in paths
        for inner, _ in model.named_modules(remove_duplicate=False)
        if is_within(inner, path)
    }


def _planned(source: Side, target: Side, pairs: Sequence[tuple[str, str]]) -> ClassPlan:
    shared = {c: i for i, c in enumerate(source.classes) if c in target.classes}
    reason = _reason(source.classes, target.classes)
    moves: list[Move] = []
    settled: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for old, new in pairs:
        ours, theirs = _slots(source.model, old), _slots(target.model, new)
        why = _why_not(source.model, target.model, ours, theirs) if shared else reason
        settled[0].update(_settled(source.model, [old], why or reason))
        settled[1].update(_settled(target.model, [new], why or reason))
        if why:
            continue
        for kind in [kind for kind in theirs if kind in ours]:
            wanted = {
                theirs[kind][i]: ours[kind][shared[c]]
                for i, c in enumerate(target.classes)
                if c in shared
            }
            moves += _by_tensor(source.model, target.model, wanted, reason)
        moves += _counts(source.model, old, target.model, new)
    return ClassPlan(tuple(moves), *settled)


def _counts(old: nn.Module, path: str, new: nn.Module, goal: str) -> list[Move]:
    """Scalars such as `num_batches_tracked` are copied unchanged."""
    ours, theirs = (own_buffers(m.get_submodule(p)) for m, p in ((old, path), (new, goal)))
    return [
        Move(join(goal, name), (join(path, name),), "part of a layer that is matched by class")
        for name, count in ours.items()
        if count is not None and count.ndim == 0 and theirs.get(name) is not None
    ]


def _reason(old: Sequence[str], new: Sequence[str]) -> str:
    if list(old) == list(new):
        return "same classes"
    both = [c for c in new if c in old]
    if not both:
        return f"no common class: {first_few(old)} in the source, {first_few(new)} in the target"
    fresh, gone = [c for c in new if c not in old], [c for c in old if c not in new]
    return (
        f"classes by name: {first_few(both)}"
        + (f"; new: {first_few(fresh)}" if fresh else "")
        + (f"; removed: {first_few(gone)}" if gone else "")
    )


def _by_tensor(
    old: nn.Module, new: nn.Module, wanted: Mapping[Slot, Slot], reason: str
) -> Iterator[Move]:
    """The wanted rows of each tensor of the target; all rows in order are one whole tensor."""
    by_tensor: dict[str, list[Row]] = {}
    for (tensor, at), (name, row) in wanted.items():
        by_tensor.setdefault(tensor, []).append(Row(at, name, row))
    for tensor, rows in by_tensor.items():
        names = tuple(dict.fromkeys(row.source for row in rows))
        complete = len(rows) == len(_tensor(new, tensor))
        in_order = complete and len(names) == 1 and all(row.target == row.row for row in rows)
        if in_order and len(_tensor(old, names[0])) == len(rows):
            yield Move(tensor, names, reason)
        else:
            yield Move(tensor, names, reason, tuple(rows), complete)


def _why_not(
    old: nn.Module, new: nn.Module, ours: dict[str, Slots], theirs: dict[str, Slots]
) -> str:
    if not ours or not theirs:
        return "its weight has no row for each class"
    for kind in [k for k in theirs if k in ours]:
        there = tuple(_tensor(old, ours[kind][0][0]).shape[1:])
        here = tuple(_tensor(new, theirs[kind][0][0]).shape[1:])
        if here != there:
            return f"a class row has shape {there} in the source, {here} in the target"
    return ""


def _slots(model: nn.Module, path: str) -> dict[str, Slots]:
    """For each kind of tensor of a layer ("weight", "bias") the tensor and row of each class."""
    layer = model.get_submodule(path)
    parts = [(join(path, n), p) for n, p in layer.named_children()]
    if not isinstance(layer, ConcatLinear):
        parts = [(path, layer)]
    slots: dict[str, Slots] = {}
    for place, part in parts:
        n = outputs_of(part) if is_linear(part) else _width(part)
        for kind, tensor in own_tensors(part).items():
            if tensor.ndim and len(tensor) == n:
                slots.setdefault(kind, []).extend((join(place, kind), row) for row in range(n))
    if is_linear(parts[0][1]) and "weight" not in slots:
        return {}
    complete = max((len(found) for found in slots.values()), default=0)
    return {kind: found for kind, found in slots.items() if len(found) == complete}


def _class_layers(model: nn.Module, anatomy: Anatomy, n: int) -> list[str]:
    """The layers with a row for each class: classifiers, and norms of their outputs."""
    paths = list(classifier_layers(model, anatomy, n_out=n))
    modules = dict(model.named_modules(remove_duplicate=False))
    ran = [path for path in anatomy.layers if path in modules]
    ends = [i for i, path in enumerate(ran) if any(is_within(path, p) for p in paths)]
    after = ran[ends[-1] + 1 :] if ends else []
    return paths + [path for path in after if _width(modules[path]) == n]


def _width(module: nn.Module) -> int:
    return max((len(t) for t in own_tensors(module).values() if t.ndim == 1), default=0)


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, kind = name.rpartition(".")
    return own_tensors(model.get_submodule(path))[kind]
