"""Transplant weights, and optimizer state, between models that match in part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups._formatting import first_few
from layergroups._paths import parent
from layergroups.anatomy import Anatomy, read_anatomy, unwrap
from layergroups.checkpoints._matching import (
    ClassPlan,
    Layer,
    Move,
    Side,
    class_plan,
    layers_of,
    match_layers,
)
from layergroups.checkpoints._state_dicts import PLAIN, placed
from layergroups.data import data_source
from layergroups.errors import TransplantError
from layergroups.groups import place_steps

_NOT_OWNED = "the new optimizer does not have this parameter"


@dataclass(frozen=True)
class Plan:
    """The moves, and the tensors of both models that are not part of one, with the reasons."""

    moves: tuple[Move, ...]
    left: Mapping[str, str]
    not_filled: Mapping[str, str]


def plan(old: nn.Module, new: nn.Module, by_class: ClassPlan) -> Plan:
    """Plan what to copy from one model to another."""
    ours, theirs = layers_of(old), layers_of(new)
    wanted = list(by_class.moves)
    free = {p: layer for p, layer in ours.items() if p not in by_class.source}
    open_ = {p: layer for p, layer in theirs.items() if p not in by_class.target}
    for match in match_layers(free, open_):
        wanted += _whole_moves(ours[match.source], theirs[match.target], match.reason)
    moves, refused = _once_each(wanted, tensors_of(old), tensors_of(new))
    return Plan(moves, *_rest(old, new, moves, refused, by_class))


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers by name; tied tensors under all their names."""
    return {
        layer.name(n): t for layer in layers_of(model).values() for n, t in layer.tensors.items()
    }


def _whole_moves(source: Layer, target: Layer, reason: str) -> list[Move]:
    return [
        Move(target.name(name), (source.name(name),), reason)
        for name, tensor in source.tensors.items()
        if name in target and target.tensors[name].shape == tensor.shape
    ]


def _once_each(
    wanted: Iterable[Move], ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
) -> tuple[tuple[Move, ...], dict[str, str]]:
    """Fill each tensor of the target once, tied ones by their first name; refuse the rest."""
    kept: dict[int, Move] = {}
    refused: dict[str, str] = {}
    for move in wanted:
        first = kept.setdefault(id(theirs[move.target]), move)
        same = {id(ours[n]) for n in move.sources} == {id(ours[n]) for n in first.sources}
        if not same:
            tied = f"the target ties it to {first.target}, which has {', '.join(first.sources)}"
            refused.update(dict.fromkeys(move.sources, tied))
    return tuple(kept.values()), refused


def _rest(
    old: nn.Module,
    new: nn.Module,
    moves: Iterable[Move],
    refused: Mapping[str, str],
    by_class: ClassPlan,
) -> tuple[dict[str, str], dict[str, str]]:
    ours, theirs = tensors_of(old), tensors_of(new)
    used = {id(ours[name]) for move in moves for name in move.sources}
    filled = {id(theirs[move.target]) for move in moves}
    hint = "" if by_class.target else "; rows go by name with classes="
    left = {
        name: refused.get(name)
        or by_class.source.get(parent(name))
        or _why(name, ours, theirs, "target", hint)
        for name in _unless(ours, used)
    }
    kept = {
        name: by_class.target.get(parent(name)) or _why(name, theirs, ours, "source", hint)
        for name in _unless(theirs, filled)
    }
    return left, kept


def _unless(tensors: Mapping[str, Tensor], seen: set[int]) -> list[str]:
    firsts = {id(t): name for name, t in reversed(list(tensors.items()))}
    return [name for name, t in tensors.items() if id(t) not in seen and firsts[id(t)] == name]


def _why(
    name: str, own: Mapping[str, Tensor], other: Mapping[str, Tensor], which: str, hint: str
) -> str:
    """Why a tensor has no match in the other model, which is "source" or "target"."""
    if name not in other:
        return f"no layer of the {which} fits"
    here, there = tuple(own[name].shape), tuple(other[name].shape)
    if here == there:
        return f"its layer differs from that of the {which}"
    return f"shape {here}, in the {which} {there}{hint if here[1:] == there[1:] != () else ''}"


def carry(old: nn.Module, new: nn.Module, made: Plan) -> None:
    """Copy the values into the tensors of the target, in place."""
    ours, theirs = tensors_of(old), tensors_of(new)
    with torch.no_grad():
        for move in made.moves:
            goal = theirs[move.target]
            if move.rows:
                goal.copy_(_with_rows(goal, move, ours))
            elif goal is not ours[move.sources[0]]:
                goal.copy_(ours[move.sources[0]])


def _with_rows(goal: Tensor, move: Move, sources: Mapping[str, Tensor]) -> Tensor:
    filled = goal.detach().clone()
    for name in move.sources:
        rows = [r for r in move.rows if r.source == name]
        taken = sources[name].detach()[[r.row for r in rows]]
        filled[[r.target for r in rows]] = taken.to(goal.device, goal.dtype)
    return filled


def carry_optimizer_state(
    old: nn.Module, new: nn.Module, made: Plan, source: Optimizer, target: Optimizer
) -> dict[str, str]:
    """Copy the optimizer state of each moved parameter; "carried" for each, or why not."""
    ours, theirs = tensors_of(old), tensors_of(new)
    outcome: dict[str, str] = {}
    owned = {id(p) for group in target.param_groups for p in group["params"]}
    for move in made.moves:
        goal = theirs[move.target]
        if not isinstance(goal, nn.Parameter):
            continue
        states = {name: source.state.get(ours[name], {}) for name in move.sources}
        why = _why_no_state(move, states, ours) if id(goal) in owned else _NOT_OWNED
        outcome[move.target] = why or "carried"
        if not why:
            target.state[goal] = _carried_state(goal, move, states, ours)
    place_steps(target)
    return outcome


def _why_no_state(
    move: Move, states: Mapping[str, Mapping[str, Any]], ours: Mapping[str, Tensor]
) -> str:
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
    goal: nn.Parameter,
    move: Move,
    states: Mapping[str, Mapping[str, Any]],
    ours: Mapping[str, Tensor],
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


Optimizers = bool | tuple[Optimizer, Optimizer]
Names = Sequence[str]


@dataclass(frozen=True)
class TensorReport:
    """The result for one tensor.

    Attributes:
        name: its name in the target; in `Transplant.left` that in the source.
        reason: why it was carried, or why not.
        source: names of the tensors that it was filled from.
        optimizer: "carried", why its optimizer state was not, or "" if that was not requested.
    """

    name: str
    reason: str
    source: tuple[str, ...] = ()
    optimizer: str = ""


@dataclass(frozen=True)
class Transplant:
    """The result of a transplant, tensor by tensor; `print` shows a short table.

    Attributes:
        carried: tensors of the target that are completely filled from the source.
        partly: tensors of which some rows are filled, by class name.
        left: tensors of the source without a match.
        not_filled: unchanged tensors of the target.
    """

    carried: tuple[TensorReport, ...]
    partly: tuple[TensorReport, ...]
    left: tuple[TensorReport, ...]
    not_filled: tuple[TensorReport, ...]

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
    made = plan(old, new, _classes(source, target, classes, example_input))
    if not made.moves:
        raise TransplantError(_nothing(old, new, made))
    optimizers = _optimizers(source, target, optimizer)
    carry(old, new, made)
    states = carry_optimizer_state(old, new, made, *optimizers) if optimizers else {}
    return _reported(made, states)


def _model(side: Any, which: str) -> nn.Module:
    model = side if isinstance(side, nn.Module) else getattr(side, "model", None)
    if not isinstance(model, nn.Module):
        raise TransplantError(
            f"transplant: the {which} argument is a {type(side).__name__}, not a learner or a "
            "module: transplant(old_learn, new_learn), or transplant(old_model, new_model)."
        )
    return unwrap(model)


def _classes(source: Any, target: Any, given: Any, example_input: Any) -> ClassPlan:
    if given is None:
        names = [_vocab(side) for side in (source, target)]
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
        return ClassPlan()
    sides = [
        Side(_model(side, ""), _anatomy(side, example_input), listed)
        for side, listed in zip((source, target), names, strict=True)
    ]
    return class_plan(*sides, strict=given is not None)


def _vocab(side: Any) -> tuple[str, ...]:
    dls = None if isinstance(side, nn.Module) else getattr(side, "dls", None)
    return () if dls is None else data_source(dls).vocab


def _anatomy(side: Any, example_input: Any) -> Anatomy:
    groups = None if isinstance(side, nn.Module) else getattr(side, "layer_groups", None)
    if groups is not None and example_input is None:
        known: Anatomy = groups.anatomy
        return known
    return read_anatomy(_model(side, ""), example_input)


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


def _nothing(old: nn.Module, new: nn.Module, made: Plan) -> str:
    names = [", ".join(list(listed)[:3]) for listed in (made.left, made.not_filled)]
    return (
        f"transplant: no tensor of {type(old).__name__} ({names[0]}, …) fits one of "
        f"{type(new).__name__} ({names[1]}, …) by name and shape. If a part moved, pass the parts: "
        "transplant(old.features, new.body). If the classes have names: "
        "classes=(old_names, new_names)."
    )


def _reported(made: Plan, states: dict[str, str]) -> Transplant:
    reports = {
        move.target: TensorReport(
            move.target, move.reason, move.sources, states.get(move.target, "")
        )
        for move in made.moves
    }
    return Transplant(
        carried=tuple(reports[move.target] for move in made.moves if move.complete),
        partly=tuple(reports[move.target] for move in made.moves if not move.complete),
        left=tuple(TensorReport(name, why) for name, why in made.left.items()),
        not_filled=tuple(TensorReport(name, why) for name, why in made.not_filled.items()),
    )


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
