"""Transplant weights, and optimizer state, between models that match in part.

Layers match by name or as part of a module that moved; the rows of classifiers by class name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups._formatting import first_few
from layergroups._paths import is_within, join, parent
from layergroups._torch import is_persistent, own_buffers, own_tensors
from layergroups.anatomy import Anatomy, read_anatomy, unwrap
from layergroups.checkpoints._state_dicts import PLAIN, placed
from layergroups.data import data_source
from layergroups.errors import TransplantError
from layergroups.groups import place_steps
from layergroups.models import ConcatLinear, classifier_layers, is_linear, outputs_of

Optimizers = bool | tuple[Optimizer, Optimizer]
Names = Sequence[str]
Tensors = Mapping[str, Tensor]
Slot = tuple[str, int]  # a tensor, and a row of it


@dataclass(frozen=True)
class TensorReport:
    """The result for one tensor."""

    name: str  # its name in the target; in `Transplant.left` that in the source
    reason: str  # why it was carried, or why not
    source: tuple[str, ...] = ()  # names of the tensors that it was filled from
    # "carried", why its optimizer state was not, or "" if that was not requested
    optimizer: str = ""


@dataclass(frozen=True)
class Transplant:
    """The result of a transplant, tensor by tensor; `print` shows a short table."""

    # tensors of the target that are completely filled from the source
    carried: tuple[TensorReport, ...]
    partly: tuple[TensorReport, ...]  # tensors of which some rows are filled, by class name
    left: tuple[TensorReport, ...]  # tensors of the source without a match
    not_filled: tuple[TensorReport, ...]  # unchanged tensors of the target

    @property
    def n_states(self) -> int:
        """Number of parameters whose optimizer state was carried."""
        return sum(g.optimizer == "carried" for g in (*self.carried, *self.partly))

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        kinds = {
            "carried": self.carried, "in part": self.partly, "left": self.left,
            "not filled": self.not_filled,
        }  # fmt: skip
        first = f"transplant: {', '.join(f'{len(found)} {kind}' for kind, found in kinds.items())}"
        if any(g.optimizer for g in (*self.carried, *self.partly)):
            first += f"; optimizer state of {self.n_states}"
        rows = [row for kind, found in kinds.items() for row in _rows(kind, found)]
        return "\n".join([first, *rows])


def transplant(
    source: Any,
    target: Any,
    *,
    optimizer: Optimizers = False,
    classes: tuple[Names, Names] | None = None,
    example_input: Any = None,
) -> Transplant:
    """Copy what fits from one model to another, and report what was copied, what not, and why.

    Layers are matched by name, then by modules at a different path (the body of a whole network in
    a `Sequential` of body and head). A layer is copied as a whole, including batch norm statistics,
    or not at all if a shape differs. The last layers are copied row by row if the class names of
    both sides are known: learners know them, for modules pass `classes=`. Values are copied in
    place, so the target's groups, freezing, rates and optimizer stay valid.

    Args:
        source: a learner or a module; it does not change.
        target: a learner or a module, which receives the weights.
        optimizer: True also copies the state of the learners' optimizers; for modules pass
            (old_optimizer, new_optimizer). Rates and betas of the target do not change.
            A classifier with rows of new classes has no state: rows without moments but with a
            high step count would take too long steps.
        classes: names of the classes of source and target, in the order of their outputs.
        example_input: for a dry run of modules, if `classes` is given.

    Returns:
        The result for every tensor of both models.

    Raises:
        TransplantError: nothing fits, the optimizers are of different kinds or the first has no
            state, or `classes` does not fit; nothing was changed then.
        AnatomyError: `classes` is given and a module cannot be run.
    """
    old, new = _model(source, "first"), _model(target, "second")
    if old is new:
        raise TransplantError(
            "transplant: source and target are the same model: transplant(old_learn, new_learn)."
        )
    by_class = _by_class(source, target, classes, example_input)
    layers = _layers_of(old), _layers_of(new)
    ours, theirs = map(_tensors_of, layers)
    wanted = [*by_class.moves, *_matching_moves(*layers, by_class)]
    moves, refused = _once_each(wanted, ours, theirs)
    hint = "" if by_class.target else "; rows go by name with classes="
    used = {id(ours[name]) for move in moves for name in move.sources}
    filled = {id(theirs[move.target]) for move in moves}
    left = _rest(ours, theirs, used, refused, by_class.source, "target", hint)
    not_filled = _rest(theirs, ours, filled, {}, by_class.target, "source", hint)
    if not moves:
        raise TransplantError(
            f"transplant: no tensor of {type(old).__name__} ({_first_names(left)}) fits one of "
            f"{type(new).__name__} ({_first_names(not_filled)}) by name and shape. If a part "
            "moved, pass the parts: transplant(old.features, new.body). If the classes have names: "
            "classes=(old_names, new_names)."
        )
    optimizers = _optimizers(source, target, optimizer)
    _carry(moves, ours, theirs)
    states = _carry_optimizer_state(moves, ours, theirs, *optimizers) if optimizers else {}
    done = [TensorReport(m.target, m.reason, m.sources, states.get(m.target, "")) for m in moves]
    pairs = list(zip(done, moves, strict=True))
    carried = tuple(report for report, move in pairs if move.complete)
    partly = tuple(report for report, move in pairs if not move.complete)
    return Transplant(carried, partly, left, not_filled)


def _first_names(reports: Sequence[TensorReport]) -> str:
    return first_few((report.name for report in reports), 3)


def _model(side: Any, which: str) -> nn.Module:
    model = side if isinstance(side, nn.Module) else getattr(side, "model", None)
    if not isinstance(model, nn.Module):
        raise TransplantError(
            f"transplant: the {which} argument is a {type(side).__name__}, not a learner or a "
            "module: transplant(old_learn, new_learn), or transplant(old_model, new_model)."
        )
    return unwrap(model)


# Layers by name, and in moved modules


class _Layer(NamedTuple):
    """The direct parameters and saved buffers of a module, by local name."""

    path: str
    tensors: Tensors
    whole: bool  # without children: its tensors go together or not at all

    def fits(self, other: _Layer) -> bool:
        """Whether tensors can be copied to `other`: all that both have, if both are whole."""
        theirs = other.tensors
        same = [theirs[n].shape == t.shape for n, t in self.tensors.items() if n in theirs]
        return bool(same) and (all(same) if self.whole and other.whole else any(same))

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple(sorted((name, tuple(t.shape)) for name, t in self.tensors.items()))


_Layers = Mapping[str, _Layer]


class _Move(NamedTuple):
    """A tensor of the target, by name, and the tensors of the source that fill it."""

    target: str
    sources: tuple[str, ...]
    reason: str
    rows: tuple[tuple[int, Slot], ...] = ()  # of the target and the source; empty for all
    complete: bool = True  # False if rows of new classes are not filled


def _layers_of(model: nn.Module) -> dict[str, _Layer]:
    """Every module with direct tensors, by path; a shared module under all its paths."""
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        tensors = {n: t for n, t in own_tensors(module).items() if is_persistent(module, n)}
        if tensors:
            found[path] = _Layer(path, tensors, not any(module.children()))
    return found


def _tensors_of(layers: _Layers) -> dict[str, Tensor]:
    return {join(path, n): t for path, layer in layers.items() for n, t in layer.tensors.items()}


def _matching_moves(ours: _Layers, theirs: _Layers, by_class: _ByClass) -> Iterator[_Move]:
    """Moves of matching layers; each layer is in at most one pair.

    Moved modules are found by votes: each two layers of the same name and shapes vote for the pair
    of paths above them. The pair with the most votes comes first, then layers of the same full
    name. A further pair needs the votes of at least two layers, and of most layers below the old
    path. Last come layers that are one level deeper on one side, as in a wrapper or a grown head.
    """
    left = {path: layer for path, layer in ours.items() if path not in by_class.source}
    free = {path: layer for path, layer in theirs.items() if path not in by_class.target}
    places = _places(left, free)
    if places is not None and places != ("", ""):
        yield from _take(left, free, *places)
    yield from _take(left, free, "", "")
    while (places := _places(left, free)) is not None:
        yield from _take(left, free, *places)
    for path, goal in _wrapped(left, free):
        reason = f"wrapped: now at .{goal.rpartition('.')[2]}"
        yield from _whole_moves(left.pop(path), free.pop(goal), reason)
    for goal, path in _wrapped(free, left):
        reason = f"unwrapped: was at .{path.rpartition('.')[2]}"
        yield from _whole_moves(left.pop(path), free.pop(goal), reason)


def _take(left: dict[str, _Layer], free: dict[str, _Layer], old: str, new: str) -> list[_Move]:
    moved = f"moved: {old or 'the root'} → {new or 'the root'}"
    taken = []
    for path in [p for p in left if is_within(p, old)]:
        goal = join(new, path[len(old) :].removeprefix("."))
        if goal in free and left[path].fits(free[goal]):
            reason = "same name" if old == new else moved
            taken += _whole_moves(left.pop(path), free.pop(goal), reason)
    return taken


def _whole_moves(source: _Layer, target: _Layer, reason: str) -> list[_Move]:
    return [
        _Move(join(target.path, name), (join(source.path, name),), reason)
        for name, tensor in source.tensors.items()
        if name in target.tensors and target.tensors[name].shape == tensor.shape
    ]


def _wrapped(outer: _Layers, inner: _Layers) -> list[tuple[str, str]]:
    """Each layer with the first layer of the same shapes directly below its path."""
    pairs: dict[str, str] = {}
    for path, layer in inner.items():
        above = parent(path)
        if path and above in outer and outer[above].shapes == layer.shapes:
            pairs.setdefault(above, path)
    return list(pairs.items())


def _places(left: _Layers, free: _Layers) -> tuple[str, str] | None:
    """The two paths with the most votes; None if the votes show no moved module."""
    alike: dict[object, list[_Layer]] = {}
    for layer in free.values():
        alike.setdefault((layer.path.rpartition(".")[2], layer.shapes), []).append(layer)
    votes = Counter(
        _above(layer.path, other.path)
        for layer in left.values()
        for other in alike.get((layer.path.rpartition(".")[2], layer.shapes), ())
    )
    ranked = sorted(votes, key=lambda v: (-votes[v], v[0] != v[1], len(v[0]) + len(v[1]), v))
    for old, new in ranked:
        below = sum(is_within(path, old) for path in left)
        if votes[old, new] >= 2 and votes[old, new] * 2 > below:
            return old, new
    return None


def _above(path: str, other: str) -> tuple[str, str]:
    """Two paths without their longest common ending."""
    ours, theirs = path.split("."), other.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return ".".join(ours), ".".join(theirs)


def _once_each(
    wanted: Iterable[_Move], ours: Tensors, theirs: Tensors
) -> tuple[list[_Move], dict[str, str]]:
    """Fill each tensor of the target once, tied ones by their first name; refuse the rest."""
    kept: dict[int, _Move] = {}
    refused: dict[str, str] = {}
    for move in wanted:
        first = kept.setdefault(id(theirs[move.target]), move)
        if {id(ours[n]) for n in move.sources} != {id(ours[n]) for n in first.sources}:
            tied = f"the target ties it to {first.target}, which has {', '.join(first.sources)}"
            refused.update(dict.fromkeys(move.sources, tied))
    return list(kept.values()), refused


def _rest(
    own: Tensors, other: Tensors, used: set[int], refused: Mapping[str, str],
    settled: Mapping[str, str], which: str, hint: str,
) -> tuple[TensorReport, ...]:  # fmt: skip
    """The tensors of one side that no move uses, with the reasons; `which` is the other side."""
    firsts = {id(t): name for name, t in reversed(list(own.items()))}
    return tuple(
        TensorReport(
            name,
            refused.get(name) or settled.get(parent(name)) or _why(t, other, name, which, hint),
        )
        for name, t in own.items()
        if id(t) not in used and firsts[id(t)] == name
    )


def _why(tensor: Tensor, other: Tensors, name: str, which: str, hint: str) -> str:
    if name not in other:
        return f"no layer of the {which} fits"
    here, there = tuple(tensor.shape), tuple(other[name].shape)
    if here == there:
        return f"its layer differs from that of the {which}"
    return f"shape {here}, in the {which} {there}{hint if here[1:] == there[1:] != () else ''}"


# Rows of classifiers, by class name


class _Side(NamedTuple):
    model: nn.Module
    anatomy: Anatomy
    classes: Names


@dataclass(frozen=True)
class _ByClass:
    """The moves by class name, and the reason for each layer of both models that they settle."""

    moves: list[_Move] = field(default_factory=list)
    source: dict[str, str] = field(default_factory=dict)
    target: dict[str, str] = field(default_factory=dict)

    def settle(self, sides: tuple[_Side, _Side], old: Names, new: Names, why: str) -> None:
        """Note the reason for the modules at these paths, and all below them."""
        both = ((self.source, sides[0], old), (self.target, sides[1], new))
        for settled, side, paths in both:
            for inner, _ in side.model.named_modules(remove_duplicate=False):
                if any(is_within(inner, path) for path in paths):
                    settled[inner] = why


def _by_class(source: Any, target: Any, given: Any, example_input: Any) -> _ByClass:
    if given is None:
        sides = (source, target)
        known = [None if isinstance(s, nn.Module) else getattr(s, "dls", None) for s in sides]
        names = [() if dls is None else data_source(dls).vocab for dls in known]
    elif (
        isinstance(given, Sequence)
        and len(given) == 2
        and not any(isinstance(names, str) for names in given)
    ):
        names = [tuple(map(str, listed)) for listed in given]
    else:
        raise TransplantError(
            f"classes={given!r} must be the class names of both models in the order of their "
            'outputs: classes=(["cat", "dog"], ["dog", "fox", "cat"]).'
        )
    if not all(names):
        return _ByClass()
    old, new = (
        _Side(_model(side, ""), _anatomy(side, example_input), listed)
        for side, listed in zip((source, target), names, strict=True)
    )
    plan, found = _ByClass(), [_class_layers(side, given is not None) for side in (old, new)]
    if all(found) and len(found[0]) != len(found[1]):
        n, m = map(len, found)
        why = f"{n} layers depend on the classes in the source, {m} in the target"
        plan.settle((old, new), found[0], found[1], why)
    elif all(found):
        for pair in zip(*found, strict=True):
            _add_rows(plan, old, new, *pair)
    return plan


def _anatomy(side: Any, example_input: Any) -> Anatomy:
    groups = None if isinstance(side, nn.Module) else getattr(side, "layer_groups", None)
    if groups is not None and example_input is None:
        known: Anatomy = groups.anatomy
        return known
    return read_anatomy(_model(side, ""), example_input)


def _class_layers(side: _Side, strict: bool) -> list[str]:
    model, anatomy, n = side.model, side.anatomy, len(side.classes)
    if len(set(side.classes)) < n:
        raise TransplantError(f"classes={list(side.classes)} has duplicates; name each class once.")
    paths = list(classifier_layers(model, anatomy, n_out=n))
    modules = dict(model.named_modules(remove_duplicate=False))
    ran = [path for path in anatomy.layers if path in modules]
    ends = [i for i, path in enumerate(ran) if any(is_within(path, p) for p in paths)]
    found = paths + [p for p in (ran[ends[-1] + 1 :] if ends else []) if _width(modules[p]) == n]
    if strict and not found:
        raise TransplantError(
            f"classes= has {n} names, but no last layer of {type(model).__name__} has as many "
            "outputs. Pass the names of all classes in the order of the outputs: "
            "classes=(old_names, new_names)."
        )
    return found


def _add_rows(plan: _ByClass, source: _Side, target: _Side, old: str, new: str) -> None:
    shared = {c: i for i, c in enumerate(source.classes) if c in target.classes}
    reason = _reason(source.classes, target.classes)
    ours, theirs = _slots(source.model, old), _slots(target.model, new)
    why = _why_not(source.model, target.model, ours, theirs) if shared else reason
    plan.settle((source, target), [old], [new], why or reason)
    if why:
        return
    for kind in [kind for kind in theirs if kind in ours]:
        rows: dict[str, list[tuple[int, Slot]]] = {}
        for i, c in enumerate(target.classes):
            if c in shared:
                tensor, at = theirs[kind][i]
                rows.setdefault(tensor, []).append((at, ours[kind][shared[c]]))
        plan.moves.extend(
            _row_move(source.model, target.model, tensor, found, reason)
            for tensor, found in rows.items()
        )
    counts, others = (
        own_buffers(side.model.get_submodule(path)) for side, path in ((source, old), (target, new))
    )
    plan.moves.extend(  # scalars such as num_batches_tracked are copied unchanged
        _Move(join(new, name), (join(old, name),), "part of a layer that is matched by class")
        for name, count in counts.items()
        if count is not None and count.ndim == 0 and others.get(name) is not None
    )


def _row_move(
    old: nn.Module, new: nn.Module, tensor: str, rows: list[tuple[int, Slot]], reason: str
) -> _Move:
    """All rows in order are one whole tensor."""
    names = tuple(dict.fromkeys(name for _, (name, _) in rows))
    complete = len(rows) == len(_tensor(new, tensor))
    in_order = complete and len(names) == 1 and all(at == row for at, (_, row) in rows)
    if in_order and len(_tensor(old, names[0])) == len(rows):
        return _Move(tensor, names, reason)
    return _Move(tensor, names, reason, tuple(rows), complete)


def _reason(old: Names, new: Names) -> str:
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


_Slots = Mapping[str, Sequence[Slot]]


def _why_not(old: nn.Module, new: nn.Module, ours: _Slots, theirs: _Slots) -> str:
    if not ours or not theirs:
        return "its weight has no row for each class"
    for kind in [k for k in theirs if k in ours]:
        there = tuple(_tensor(old, ours[kind][0][0]).shape[1:])
        here = tuple(_tensor(new, theirs[kind][0][0]).shape[1:])
        if here != there:
            return f"a class row has shape {there} in the source, {here} in the target"
    return ""


def _slots(model: nn.Module, path: str) -> _Slots:
    """For each kind of tensor of a layer ("weight", "bias") the tensor and row of each class."""
    layer = model.get_submodule(path)
    parts = [(join(path, n), p) for n, p in layer.named_children()]
    if not isinstance(layer, ConcatLinear):
        parts = [(path, layer)]
    slots: dict[str, list[Slot]] = {}
    for place, part in parts:
        n = outputs_of(part) if is_linear(part) else _width(part)
        for kind, tensor in own_tensors(part).items():
            if tensor.ndim and len(tensor) == n:
                slots.setdefault(kind, []).extend((join(place, kind), row) for row in range(n))
    if is_linear(parts[0][1]) and "weight" not in slots:
        return {}
    complete = max((len(found) for found in slots.values()), default=0)
    return {kind: found for kind, found in slots.items() if len(found) == complete}


def _width(module: nn.Module) -> int:
    return max((len(t) for t in own_tensors(module).values() if t.ndim == 1), default=0)


def _tensor(model: nn.Module, name: str) -> Tensor:
    path, _, kind = name.rpartition(".")
    return own_tensors(model.get_submodule(path))[kind]


# Copying


def _carry(moves: Iterable[_Move], ours: Tensors, theirs: Tensors) -> None:
    with torch.no_grad():
        for move in moves:
            goal = theirs[move.target]
            if move.rows:
                goal.copy_(_with_rows(goal, move, ours))
            elif goal is not ours[move.sources[0]]:
                goal.copy_(ours[move.sources[0]])


def _with_rows(goal: Tensor, move: _Move, sources: Tensors) -> Tensor:
    filled = goal.detach().clone()
    for name in move.sources:
        pairs = [(at, row) for at, (source, row) in move.rows if source == name]
        at, rows = (list(column) for column in zip(*pairs, strict=True))
        filled[at] = sources[name].detach()[rows].to(goal.device, goal.dtype)
    return filled


def _optimizers(source: Any, target: Any, given: Any) -> tuple[Optimizer, Optimizer] | None:
    if given is False:
        return None
    if given is True:
        old = getattr(source, "opt", None)
        make = getattr(target, "made_optimizer", None)
        new = make() if make is not None and old is not None else getattr(target, "opt", None)
    else:
        old, new = given if isinstance(given, tuple) and len(given) == 2 else (None, None)
    if not isinstance(old, Optimizer) or not isinstance(new, Optimizer) or not old.state:
        raise TransplantError(
            "transplant: the source has no optimizer state (it never took a step), or the target "
            "has no optimizer. Leave optimizer= out, or for modules pass both: "
            "optimizer=(old_optimizer, new_optimizer)."
        )
    ours, theirs = type(old).__name__, type(new).__name__
    if ours != theirs:
        raise TransplantError(
            f"transplant: {theirs} cannot use the state of {ours}. Create the new learner with "
            f"opt_func={ours.lower()!r}, or leave optimizer= out to copy only the weights."
        )
    return old, new


def _carry_optimizer_state(
    moves: Iterable[_Move], ours: Tensors, theirs: Tensors, source: Optimizer, target: Optimizer
) -> dict[str, str]:
    """Copy the optimizer state of each moved parameter; "carried" for each, or why not."""
    outcome: dict[str, str] = {}
    owned = {id(p) for group in target.param_groups for p in group["params"]}
    for move in moves:
        goal = theirs[move.target]
        if not isinstance(goal, nn.Parameter):
            continue
        states = {name: source.state.get(ours[name], {}) for name in move.sources}
        why = "the new optimizer does not have this parameter"
        if id(goal) in owned:
            why = _why_no_state(move, states, ours)
        outcome[move.target] = why or "carried"
        if not why:
            target.state[goal] = _carried_state(goal, move, states, ours)
    place_steps(target)
    return outcome


def _why_no_state(move: _Move, states: Mapping[str, Mapping[str, Any]], ours: Tensors) -> str:
    if not all(states.values()):
        return "the old optimizer has no state for it"
    if not move.complete:
        return "rows of new classes have no state, so none is carried"
    values = [value for state in states.values() for value in state.values()]
    if not all(isinstance(value, (Tensor, *PLAIN)) for value in values):
        return "its state has values other than tensors and numbers"
    shared = [_shared(state, ours[name].shape) for name, state in states.items()]
    if move.rows and any(one is None or one != shared[0] for one in shared):
        return "its rows do not share a state"
    return ""


def _shared(state: Mapping[str, Any], shape: torch.Size) -> dict[str, Any] | None:
    """The state that all rows share, such as the step count; None if the moments have no rows."""
    once = {k: v for k, v in state.items() if not isinstance(v, Tensor) or v.shape != shape}
    if any(isinstance(value, Tensor) and value.ndim for value in once.values()):
        return None
    return {k: v.item() if isinstance(v, Tensor) else v for k, v in once.items()}


def _carried_state(
    goal: nn.Parameter, move: _Move, states: Mapping[str, Mapping[str, Any]], ours: Tensors
) -> dict[str, Any]:
    """The state of a parameter: moments row by row if its rows were moved, the rest unchanged."""
    first = states[move.sources[0]]
    made: dict[str, Any] = {}
    for key, value in first.items():
        if not isinstance(value, Tensor):
            made[key] = value
        elif move.rows and value.shape == ours[move.sources[0]].shape:
            blank = torch.empty_like(goal, dtype=value.dtype, requires_grad=False)
            made[key] = _with_rows(blank, move, {name: s[key] for name, s in states.items()})
        else:
            made[key] = placed(value, goal)
    return made


def _rows(kind: str, reports: Sequence[TensorReport], most: int = 4) -> list[str]:
    """A line for each reason: number of tensors, reason, first names."""
    reasons: dict[str, list[str]] = {}
    for report in reports:
        left = report.optimizer not in ("", "carried")
        why = f"{report.reason}; optimizer: {report.optimizer}" if left else report.reason
        reasons.setdefault(why, []).append(report.name)
    if len(reasons) > most:
        first = list(reasons)[: most - 1]
        others = [name for why, names in reasons.items() if why not in first for name in names]
        reasons = {why: reasons[why] for why in first} | {"for other reasons": others}
    return [f"  {kind:10s} {len(n):5d}  {why}: {first_few(n, 2)}" for why, n in reasons.items()]
