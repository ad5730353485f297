"""The result of a rule as data: the parameters and layers of each group, and the reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from layergroups._formatting import first_few
from layergroups._paths import ancestors, is_within, join, leaves, module_at, parent
from layergroups._torch import own_modules, own_parameters
from layergroups.anatomy import Anatomy
from layergroups.errors import GroupingError


class ModuleTree:
    """For every path in a module tree the groups of all parameters and layers below it.

    Most parameters and layers get their group from the dry run. Those that did not run, or that
    surgery added, get it from their path: from the nearest module with contents of one group only,
    otherwise from the sibling registered before, else from the one after.
    """

    def __init__(self, group_of: Mapping[str, int]) -> None:
        self.below: dict[str, set[int]] = {}
        for path, group in group_of.items():
            for above in (path, *ancestors(path)):
                self.below.setdefault(above, set()).add(group)

    def groups(self, path: str) -> set[int]:
        """The groups at or below a path; empty where nothing is known."""
        return self.below.get(path, set())

    def locate(self, path: str, model: nn.Module) -> int:
        """The group that a new parameter or layer at `path` joins."""
        child = path
        for above in ancestors(path):
            known = self.groups(above)
            if len(known) == 1:
                return next(iter(known))
            if known:
                return self._beside(child, above, model)
            child = above
        return 0

    def _beside(self, child: str, above: str, model: nn.Module) -> int:
        if self.groups(child):
            return max(self.groups(child))
        try:
            module = module_at(model, above)
        except AttributeError:
            return max(self.groups(above))
        siblings = [join(above, n) for n in (*own_parameters(module), *own_modules(module))]
        at = siblings.index(child) if child in siblings else len(siblings)
        before = [self.groups(s) for s in reversed(siblings[:at]) if self.groups(s)]
        after = [self.groups(s) for s in siblings[at + 1 :] if self.groups(s)]
        if before:
            return max(before[0])
        return min(after[0]) if after else max(self.groups(above))


@dataclass(frozen=True)
class Part:
    """One group of a rule, with the reason why it begins where it does."""

    name: str
    reason: str


@dataclass(frozen=True)
class Partition:
    """Every parameter and every layer of a model, each in exactly one part.

    Attributes:
        rule: such as "auto" or "split at layer3, fc".
        parts: nearest the input first; the last is the head if the model has one.
        group_of: name of each parameter and path of each leaf module -> index of its part.
        by_hand: whether the rule consists of paths, patterns or a function.
    """

    rule: str
    parts: tuple[Part, ...]
    group_of: Mapping[str, int]
    by_hand: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Of the parts."""
        return tuple(part.name for part in self.parts)


@dataclass(frozen=True)
class Start:
    """The first parameter and layer of a part, by index in the order of execution."""

    parameter: int
    layer: int
    name: str
    reason: str


def parameter_order(anatomy: Anatomy) -> list[str]:
    """Names of the used parameters in the order of first use."""
    return [name for block in anatomy.blocks for name in block.parameters]


def start_at_block(anatomy: Anatomy, block: int, name: str, reason: str) -> Start:
    parameter = sum(len(b.parameters) for b in anatomy.blocks[:block])
    layer = sum(index < block for index in anatomy.layers.values())
    return Start(parameter, layer, name, reason)


def start_at_path(anatomy: Anatomy, path: str, name: str, reason: str) -> Start:
    """A part that begins with the first layer or parameter at or below a module path."""
    names, layers = parameter_order(anatomy), list(anatomy.layers)
    parameter = next((i for i, n in enumerate(names) if is_within(n, path)), None)
    layer = next((i for i, p in enumerate(layers) if is_within(p, path)), None)
    if parameter is None and layer is None:
        raise GroupingError(f"nothing at {path!r} runs when the model runs")
    if layer is None:
        assert parameter is not None
        owner = parent(names[parameter])
        layer = next((i for i, p in enumerate(layers) if is_within(p, owner)), len(layers))
    if parameter is None:
        after = layers[layer:]
        parameter = next((i for i, n in enumerate(names) if parent(n) in after), len(names))
    return Start(parameter, layer, name, reason)


def consecutive(
    model: nn.Module, anatomy: Anatomy, rule: str, first: Part, starts: Sequence[Start]
) -> Partition:
    """Parts one after another in the order of execution.

    A first part without parameters (a body of poolings alone) is merged into the next.
    """
    names, layers = parameter_order(anatomy), list(anatomy.layers)
    if starts and starts[0].parameter == 0:
        first, starts = Part(starts[0].name, starts[0].reason), starts[1:]
    group_of = {n: sum(s.parameter <= i for s in starts) for i, n in enumerate(names)}
    group_of |= {path: sum(s.layer <= i for s in starts) for i, path in enumerate(layers)}
    parts = (first, *(Part(s.name, s.reason) for s in starts))
    return complete(model, rule, parts, group_of)


def by_block(
    model: nn.Module, anatomy: Anatomy, rule: str, parts: Sequence[Part], part_of: Mapping[int, int]
) -> Partition:
    """Whole blocks to parts, by index; a part without parameters is merged into the next."""
    filled = {part_of.get(b.index, 0) for b in anatomy.blocks if b.parameters} or {0}
    kept = sorted(filled)
    at = {i: sum(k < i for k in kept) for i in range(len(parts))}
    at = {i: min(new, len(kept) - 1) for i, new in at.items()}
    group_of = {name: at[part_of.get(b.index, 0)] for b in anatomy.blocks for name in b.parameters}
    group_of |= {path: at[part_of.get(i, 0)] for path, i in anatomy.layers.items()}
    return complete(model, rule, tuple(parts[i] for i in kept), group_of)


def complete(
    model: nn.Module, rule: str, parts: tuple[Part, ...], group_of: Mapping[str, int]
) -> Partition:
    """Add parameters and layers that did not run in the dry run, and check the exact cover."""
    tree = ModuleTree(group_of)
    whole = dict(group_of)
    for path in [*(n for n, _ in model.named_parameters()), *leaves(model)]:
        if path not in whole:
            whole[path] = tree.locate(path, model)
    _check_cover(model, parts, whole)
    return Partition(rule, parts, whole)


def _check_cover(model: nn.Module, parts: Sequence[Part], group_of: Mapping[str, int]) -> None:
    names = [n for n, _ in model.named_parameters()]
    left = [n for n in names if n not in group_of]
    if left:
        raise GroupingError(f"{len(left)} parameters are in no layer group: {first_few(left)}")
    if len({p.name for p in parts}) < len(parts):
        raise GroupingError(f"two layer groups have the same name: {[p.name for p in parts]}")
    filled = {group_of[n] for n in names}
    empty = [p.name for i, p in enumerate(parts) if i not in filled]
    if empty and names:
        raise GroupingError(
            f"the layer groups {empty} would have no parameters; split at other paths, or into "
            f"fewer groups"
        )
