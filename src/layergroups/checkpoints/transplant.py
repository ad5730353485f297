"""transplant: carry weights, and optimizer state, between models that match in part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from layergroups.anatomy import Anatomy, read_anatomy, unwrap
from layergroups.checkpoints.carrying import Plan, carry, carry_memory, check_kinds, plan
from layergroups.checkpoints.class_rows import ClassPlan, Side, class_plan
from layergroups.errors import TransplantError
from layergroups.groups.partition import some

Optimizers = bool | tuple[Optimizer, Optimizer]
Names = Sequence[str]


@dataclass(frozen=True)
class Graft:
    """What became of one tensor.

    Attributes:
        name: its name in the target; in `Transplant.left` that in the source.
        reason: why it was carried, or why not.
        source: the names that it was filled from.
        memory: what became of the optimizer's state: "carried", why not, or "" where none was
            asked for.
    """

    name: str
    reason: str
    source: tuple[str, ...] = ()
    memory: str = ""


@dataclass(frozen=True)
class Transplant:
    """What a transplant carried and what not, tensor by tensor; `print` shows a short table.

    Attributes:
        carried: tensors of the target that are wholly filled from the source.
        partly: those of which some rows are filled, by the names of classes.
        left: tensors of the source that found no place.
        not_filled: tensors of the target that kept their own values.
    """

    carried: tuple[Graft, ...]
    partly: tuple[Graft, ...]
    left: tuple[Graft, ...]
    not_filled: tuple[Graft, ...]

    @property
    def memories(self) -> int:
        """For how many parameters the optimizer's state was carried."""
        return sum(g.memory == "carried" for g in (*self.carried, *self.partly))

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        kinds = {
            "carried": self.carried, "in part": self.partly, "left": self.left,
            "not filled": self.not_filled,
        }  # fmt: skip
        first = f"transplant: {', '.join(f'{len(found)} {kind}' for kind, found in kinds.items())}"
        if any(g.memory for g in (*self.carried, *self.partly)):
            first += f"; optimizer state of {self.memories}"
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
    """Carry what fits from one model to another, and say what was carried, what was not, and why.

    Layers are matched by name, then by modules that stand at another path (the body of a whole
    network in a `Sequential` of body and head). A layer goes as a whole, with the statistics of a
    batch norm; where a shape differs it stays. The last layers go row by row where the names of the
    classes are known on both sides: learners tell them, for modules give `classes=`. The target
    keeps its parameters as objects, so its groups, freezing, rates and optimizer stay in step.

    Args:
        source: a learner or a module; it does not change.
        target: a learner or a module; it gets the weights.
        optimizer: True carries also what the learners' optimizers remember of each parameter; for
            modules give (old_optimizer, new_optimizer). Rates and betas of the target stay.
            A classifier with rows of new classes starts without memory, for a row without moments
            and with many counted steps would take steps that are too long.
        classes: names of the classes of source and target, in the order of their outputs.
        example_input: for a dry run of modules, where `classes` is given and the modules do not
            tell what they take.

    Returns:
        What became of every tensor of both models.

    Raises:
        TransplantError: nothing fits, the optimizers are of two kinds or the first has no state,
            or `classes` does not fit; nothing was changed then.
        AnatomyError: `classes` is given and a module cannot be run.
    """
    old, new = _model(source, "first"), _model(target, "second")
    if old is new:
        raise TransplantError(
            "transplant: source and target are one model. Give the old one and the new one: "
            "transplant(old_learn, new_learn)."
        )
    made = plan(old, new, _classes(source, target, classes, example_input))
    if not made.moves:
        raise TransplantError(_nothing(old, new, made))
    optimizers = _optimizers(source, target, optimizer)
    carry(old, new, made)
    memory = carry_memory(old, new, made, *optimizers) if optimizers else {}
    return _told(made, memory)


def _model(side: Any, which: str) -> nn.Module:
    model = side if isinstance(side, nn.Module) else getattr(side, "model", None)
    if not isinstance(model, nn.Module):
        raise TransplantError(
            f"transplant: the {which} argument is a {type(side).__name__}, not a learner or a "
            "module: transplant(old_learn, new_learn), or transplant(old_model, new_model)."
        )
    return unwrap(model)


def _classes(source: Any, target: Any, given: Any, example_input: Any) -> ClassPlan:
    """The plan for the rows of classes, where their names are known on both sides."""
    if given is None:
        names = [tuple(map(str, getattr(_data(side), "vocab", ()))) for side in (source, target)]
    elif (
        isinstance(given, Sequence)
        and len(given) == 2
        and not any(isinstance(names, str) for names in given)
    ):
        names = [tuple(map(str, listed)) for listed in given]
    else:
        raise TransplantError(
            f"classes={given!r}: give the names of the classes of both models in the order of "
            'their outputs: classes=(["cat", "dog"], ["dog", "fox", "cat"]).'
        )
    if not all(names):
        return ClassPlan()
    sides = [
        Side(_model(side, ""), _anatomy(side, example_input), listed)
        for side, listed in zip((source, target), names, strict=True)
    ]
    return class_plan(*sides, strict=given is not None)


def _data(side: Any) -> Any:
    return None if isinstance(side, nn.Module) else getattr(side, "dls", None)


def _anatomy(side: Any, example_input: Any) -> Anatomy:
    groups = None if isinstance(side, nn.Module) else getattr(side, "layer_groups", None)
    if groups is not None and example_input is None:
        known: Anatomy = groups.anatomy
        return known
    return read_anatomy(_model(side, ""), example_input)


def _optimizers(source: Any, target: Any, given: Any) -> tuple[Optimizer, Optimizer] | None:
    """The two optimizers, of one kind, the first with a memory; None if none is asked for."""
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
            "transplant: the state of an optimizer is asked for, but the source has none (it never "
            "took a step), or there is no optimizer for the target. Leave optimizer= out, or for "
            "modules give both: optimizer=(old_optimizer, new_optimizer)."
        )
    check_kinds(old, new)
    return old, new


def _nothing(old: nn.Module, new: nn.Module, made: Plan) -> str:
    names = [", ".join(list(listed)[:3]) for listed in (made.left, made.not_filled)]
    return (
        f"transplant: no tensor of {type(old).__name__} ({names[0]}, …) fits one of "
        f"{type(new).__name__} ({names[1]}, …) by name and shape. Where a part moved, give the "
        "parts: transplant(old.features, new.body). Where the classes have names, give them: "
        "classes=(old_names, new_names)."
    )


def _told(made: Plan, memory: dict[str, str]) -> Transplant:
    grafts = [
        (move.whole, Graft(move.target, move.reason, move.sources, memory.get(move.target, "")))
        for move in made.moves
    ]
    return Transplant(
        carried=tuple(graft for whole, graft in grafts if whole),
        partly=tuple(graft for whole, graft in grafts if not whole),
        left=tuple(Graft(name, why) for name, why in made.left.items()),
        not_filled=tuple(Graft(name, why) for name, why in made.not_filled.items()),
    )


def _rows(kind: str, grafts: Sequence[Graft], most: int = 4) -> list[str]:
    """A line for each reason: how many, why, and the first names."""
    reasons: dict[str, list[str]] = {}
    for graft in grafts:
        told = graft.memory not in ("", "carried")
        why = f"{graft.reason}; optimizer: {graft.memory}" if told else graft.reason
        reasons.setdefault(why, []).append(graft.name)
    if len(reasons) > most:
        first = list(reasons)[: most - 1]
        others = [name for why, names in reasons.items() if why not in first for name in names]
        reasons = {why: reasons[why] for why in first} | {"for other reasons": others}
    return [f"  {kind:10s} {len(n):5d}  {why}: {some(n, 2)}" for why, n in reasons.items()]
