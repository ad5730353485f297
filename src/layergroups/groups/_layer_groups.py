"""One layer group: a part of the view that `LayerGroups` is.

Layer groups: a living view on a model, for any training loop.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from layergroups._formatting import first_few
from layergroups.anatomy import Anatomy, Block, read_anatomy, unwrap
from layergroups.errors import GroupIndexError, GroupingError
from layergroups.groups._explain import Explanation, explain
from layergroups.groups._freezing import (
    Freezing,
    find_fixed,
    first_to_train,
    frozen_modules,
    is_norm,
    keep_in_eval,
)
from layergroups.groups._group_table import group_table, groups_html
from layergroups.groups._optimizer import (
    bind,
    bound_to,
    check_attachable,
    follow,
    parameter_groups,
    reconcile,
    unwrapped,
)
from layergroups.groups._partition import ModuleTree, Part
from layergroups.groups._rates import Rate, spread_rates
from layergroups.groups._rules import Split, divide
from layergroups.groups._saved_groups import (
    GroupDifference,
    check_state,
    compare_groups,
    taken_over,
)
from layergroups.groups._surgery import (
    Change,
    ChangeDetector,
    ModelSnapshot,
    assign_groups,
    conversions,
    describe,
    guard,
    is_news,
    look_again,
    names_of,
    only_spread,
    take_snapshot,
)


@dataclass(frozen=True)
class LayerGroup:
    """Consecutive blocks that are trained as a unit; always shows the model as it is now.

    Attributes:
        groups: the layer groups that it is one of.
        index: its place; 0 is nearest the input.
    """

    groups: LayerGroups
    index: int

    @property
    def name(self) -> str:
        """Its name, "early" or "head"."""
        return self.groups.names[self.index]

    @property
    def reason(self) -> str:
        """Why it begins where it does."""
        return self.groups.reasons[self.index]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Its blocks, in the order of execution."""
        return self.groups._blocks_of(self.index)

    @property
    def layers(self) -> list[nn.Module]:
        """Its leaf modules, in the order of execution."""
        model = self.groups.model
        return [model.get_submodule(path) for path in self.groups._layers_of(self.index)]

    @property
    def frozen(self) -> bool:
        """Whether it is frozen."""
        return self.groups.frozen[self.index]

    @property
    def lr(self) -> float:
        """Its base learning rate, which a schedule multiplies."""
        return self.groups.rates[self.index]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names as in the model, and parameters."""
        return self.groups._members(self.index)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its parameters."""
        return (p for _, p in self.named_parameters())

    def freeze(self) -> Freezing:
        """Freeze this group alone; with `with`, until the end of the block."""
        return self.groups._set_frozen({self.index: True})

    def unfreeze(self) -> Freezing:
        """Let this group train; with `with`, until the end of the block."""
        return self.groups._set_frozen({self.index: False})

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.parameters())
        state = "frozen" if self.frozen else f"trains at {self.lr:g}"
        return f"LayerGroup({self.index}, {self.name!r}, {n:,d} parameters, {state})"


def index_of(which: int | str, names: Sequence[str]) -> int:
    """The place, from 0, of the group that a name or an index means; -1 is the last.

    Raises:
        GroupingError: there is no such name, or it is neither.
        GroupIndexError: there is no such index.
    """
    if isinstance(which, str):
        if which not in names:
            raise GroupingError(f"no layer group is called {which!r}; there are {tuple(names)}")
        return names.index(which)
    n = len(names)
    if not isinstance(which, int):
        raise GroupingError(f"a layer group is chosen by name or index, not by {which!r}")
    if not -n <= which < n:
        raise GroupIndexError(
            f"there is no layer group {which} with {n} groups ({', '.join(names)}); give "
            f"{-n} to {n - 1}, or a name"
        )
    return which % n


log = logging.getLogger("layergroups")


class LayerGroups:
    """The division of a model into layer groups.

    The model is the only truth: groups are a view on it, and `sync()` brings groups, freezing and
    attached optimizers in step with it again after any change of its modules. Every access does so
    too.

    Args:
        model: any module.
        split: a rule, see `layergroups.groups.rules.divide`.
        example_input: a tensor (N, ...), a tuple of arguments or a dict of keyword arguments for a
            dry run; where it is left out, one is made from what the model tells of itself.
        head: path of the module that is the head, where that is known.
        network: class of the network that the body was made from, where the model is made of parts
            of it; for the table, and for `split="classic"`.

    Raises:
        AnatomyError: the model cannot be run on the example input.
        GroupingError: the rule does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split = "auto",
        *,
        example_input: Any = None,
        head: str | None = None,
        network: str | None = None,
    ) -> None:
        guard(model)
        self.model = unwrap(model)
        self._example = tree_map_only(torch.Tensor, lambda t: t.detach().cpu(), example_input)
        self._head = head
        self._anatomy = read_anatomy(self.model, self._example, head=head)
        self.network = network or type(self.model).__name__
        partition = divide(self.model, self._anatomy, split, network=self.network)
        self.rule = partition.rule
        self.by_hand = not isinstance(split, str | int)  # paths, patterns or a function
        self._parts: tuple[Part, ...] = partition.parts
        self._homes = dict(partition.homes)
        self._norms_train = False
        self._rates = (1e-3,) * len(self._parts)
        self._frozen = [False] * len(self._parts)
        self._fixed = find_fixed(self.model)
        self._changes: list[Change] = []
        self._looked = False
        self._remember(take_snapshot(self.model))
        self._report_unused()

    # -- looking ---------------------------------------------------------------------------------

    @property
    def anatomy(self) -> Anatomy:
        """What a dry run of the model shows."""
        self.sync()
        return self._anatomy

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups, nearest the input first."""
        return tuple(p.name for p in self._parts)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each group begins where it does."""
        return tuple(p.reason for p in self._parts)

    @property
    def frozen(self) -> tuple[bool, ...]:
        """Which groups are frozen."""
        return tuple(self._frozen)

    @property
    def rates(self) -> tuple[float, ...]:
        """The base learning rate of each group."""
        return self._rates

    @property
    def changes(self) -> tuple[Change, ...]:
        """Every change of the model that was seen since the groups were made."""
        return tuple(self._changes)

    def explain(self) -> Explanation:
        """Why each group begins where it does, and why not elsewhere; `print` shows a table."""
        return explain(self)

    def __len__(self) -> int:
        return len(self._parts)

    @overload
    def __getitem__(self, which: int | str) -> LayerGroup: ...
    @overload
    def __getitem__(self, which: slice) -> list[LayerGroup]: ...
    def __getitem__(self, which: int | str | slice) -> LayerGroup | list[LayerGroup]:
        self.sync()
        if isinstance(which, slice):
            return [LayerGroup(self, i) for i in range(len(self))[which]]
        return LayerGroup(self, self._index(which))

    def __iter__(self) -> Iterator[LayerGroup]:
        self.sync()
        return (LayerGroup(self, i) for i in range(len(self)))

    def __str__(self) -> str:
        return group_table(self)

    def __repr__(self) -> str:
        return f"LayerGroups({', '.join(map(repr, self))})"

    def _repr_html_(self) -> str:
        return groups_html(self)

    def _index(self, which: int | str) -> int:
        return index_of(which, self.names)

    # -- freezing --------------------------------------------------------------------------------

    def freeze(self, *which: str | int, norm: str = "freeze") -> Freezing:
        """Freeze all groups but the last, or the groups named.

        Args:
            which: names or indices of the groups to freeze; none for all but the last.
            norm: "freeze", or "train" to let the norm layers of frozen groups train all the same.

        Returns:
            With `with`, it puts back at the end of the block what was before; see `Freezing`.

        Raises:
            GroupingError: the model has one group only, so that nothing would be frozen.
        """
        if which:
            return self._set_frozen({self._index(w): True for w in which}, norm)
        if len(self) == 1:
            raise GroupingError(
                f"freeze() freezes all groups but the last, and there is one: {self.names[0]!r}. "
                f"Divide the model, split=2, or freeze it by name, freeze({self.names[0]!r})"
            )
        return self.freeze_to(-1, norm=norm)

    def freeze_to(self, n: int | str, *, norm: str = "freeze") -> Freezing:
        """Freeze the groups before group n: `freeze_to(-2)` or `freeze_to("late")`; as `freeze`.

        Raises:
            GroupingError: there is no group n.
        """
        first = self._index(n)
        return self._set_frozen({i: i < first for i in range(len(self))}, norm)

    def unfreeze(self, *which: str | int) -> Freezing:
        """Let all groups train, or the groups named; as `freeze`."""
        chosen = [self._index(w) for w in which] if which else range(len(self))
        return self._set_frozen(dict.fromkeys(chosen, False))

    def thaw(
        self, epoch: int, *, every: int = 1, start: int | str = -1, norm: str = "freeze"
    ) -> Freezing:
        """Gradual unfreezing: call it at the start of each epoch; see `freezing.first_to_train`.

        Args:
            epoch: counted from 0; what follows depends on nothing else.
            every: epochs after which the next group, from the head down, trains too.
            start: the lowest group that trains in epoch 0.
            norm: as in `freeze`.
        """
        return self.freeze_to(first_to_train(epoch, self._index(start), every), norm=norm)

    def _set_frozen(self, flags: Mapping[int, bool], norm: str | None = None) -> Freezing:
        if norm not in (None, "freeze", "train"):
            raise GroupingError(f"norm={norm!r}; give norm='freeze' or norm='train'")
        self.sync()
        others = tuple(
            (p, p.requires_grad) for p, may in self._may(self.resting) if p.requires_grad != may
        )
        before = Freezing(self, self.frozen, self._norms_train, others)
        for i, flag in flags.items():
            self._frozen[i] = flag
        if norm is not None:
            self._norms_train = norm == "train"
        self._apply_freezing()
        return before

    @property
    def resting(self) -> tuple[int, ...]:
        """Indices of the groups in which nothing moves: frozen ones, and those with a rate of 0."""
        return tuple(i for i in range(len(self)) if self._frozen[i] or self._rates[i] == 0)

    @property
    def norms_train(self) -> bool:
        """Whether the norm layers of frozen groups train all the same."""
        return self._norms_train

    def resting_modules(self, which: Collection[int]) -> list[nn.Module]:
        """Modules in which nothing moves if these groups rest and no others, outer ones first."""
        self.sync()
        return frozen_modules(self.model, ModuleTree(self._homes), which)

    def _apply_freezing(self) -> None:
        self._fixed = self._fixed.still()
        turned_off = []
        for parameter, may_train in self._may(self.resting):
            parameter.requires_grad = may_train
            if not may_train:
                parameter.grad = None
                if parameter not in self._fixed:
                    turned_off.append(parameter)
        frozen = frozen_modules(self.model, ModuleTree(self._homes), self.resting)
        keep_in_eval(self.model, frozen, turned_off, norms_train=self._norms_train)

    def _may(self, resting: Collection[int]) -> Iterator[tuple[nn.Parameter, bool]]:
        """Every parameter, and whether it may train if these groups rest."""
        moving = self._moving(self._standing, resting)
        for p in self._standing.names:
            differentiable = p.is_floating_point() or p.is_complex()
            yield p, p in moving and differentiable and p not in self._fixed

    def _moving(self, standing: ModelSnapshot, resting: Collection[int]) -> set[nn.Parameter]:
        """The parameters that are in no resting group, or in a norm of one that trains."""
        return {
            p for p, (name, *_) in standing.names.items()
            if self._homes[name] not in resting
            or (self._norms_train and is_norm(standing.owners[name]))
        }  # fmt: skip

    # -- rates and optimizers --------------------------------------------------------------------

    def set_rates(self, lr: Rate) -> None:
        """Set the base learning rate of each group; see `layergroups.groups.rates.spread_rates`."""
        self.sync()
        before = self.resting
        self._rates = spread_rates(lr, self.names, self._rates)
        if self.resting != before:
            self._apply_freezing()

    def param_groups(
        self, lr: Rate | None = None, weight_decay: float = 0.01
    ) -> list[dict[str, Any]]:
        """Parameter groups for any torch optimizer, of all groups, frozen ones too.

        Norms, biases, tokens and position embeddings get no weight decay.
        """
        if lr is not None:
            self.set_rates(lr)
        return parameter_groups(self._all_members(), self._rates, weight_decay)

    def attach(self, optimizer: Optimizer) -> None:
        """Keep an optimizer made from `param_groups` in step with the model from now on.

        A hook before each of its steps calls `sync()`, so a plain loop needs no other call: what
        joins a group that trains moves in that very step, what joins a frozen one does not. Several
        optimizers may be attached; each follows the groups that it was attached to last.

        Raises:
            GroupingError: the optimizer was not made from `param_groups` of these groups.
        """
        optimizer = unwrapped(optimizer)
        check_attachable(optimizer, self.names)
        self.sync()
        reconcile(optimizer, self._all_members())
        bind(optimizer, self)

    # -- surgery ---------------------------------------------------------------------------------

    def sync(self, *, names: bool = True) -> Change | None:
        """Bring everything in step with the model; returns what had changed, or None.

        Surviving parameters keep group and optimizer state, new ones join the group of the place
        where they stand with its rate and freezing, dead ones are dropped. Moments follow a
        parameter to another type or device. One line tells of it, and `changes` keeps it.

        Args:
            names: False overlooks, for a third of the time, that a parameter or module has another
                name and is the same otherwise; no step depends on that.
        """
        self._looked = False
        if not self._watch.changed(names=names):
            return None
        now = take_snapshot(self.model)
        if only_spread(self._standing, now):
            self.adopt()
            return None
        change = self._follow(now)
        self._changes.append(change)
        news = is_news(change, self.model, bound_to(self))
        log.log(logging.WARNING if news else logging.INFO, "%s", change)
        return change

    def looked(self) -> None:
        """For a loop that calls `sync()` before each step: the next step's hook need not look."""
        self._looked = True

    def adopt(self) -> None:
        """Take over parameters that were exchanged under the same names, as FSDP2 does.

        Groups, rates and freezing stay; attached optimizers get the new ones, without any state.
        """
        old = self._standing
        self._remember(take_snapshot(self.model))
        self._fixed = self._fixed.exchanged(old, self._standing)
        self._apply_freezing()
        for optimizer in bound_to(self):
            reconcile(optimizer, self._all_members())

    def _follow(self, now: ModelSnapshot) -> Change:
        heirs = conversions(self._standing, now)
        old = self._standing.succeeded_by(heirs)
        moved = self._moving(old, self.resting)
        self._fixed, fixed, released = self._fixed.after(old, now, heirs, moved)
        self._homes = assign_groups(self.model, old, now, self._homes)
        self._remember(now)
        change = describe(old, now, self._homes, self.names, self._frozen)
        if old.names != now.names or change.layers:
            seen = look_again(self.model, self._example, self._head)
            self._anatomy = self._anatomy if seen is None else seen
        self._apply_freezing()
        for optimizer in bound_to(self):
            follow(optimizer, self._all_members(), old, now, heirs)
        return replace(change, fixed=names_of(fixed, now), released=names_of(released, now))

    def _remember(self, standing: ModelSnapshot) -> None:
        self._watch = ChangeDetector(self.model)
        self._standing = standing

    def __getstate__(self) -> dict[str, Any]:
        """A copy is a view on the copied model; no optimizer follows it."""
        self.sync()
        return self.__dict__

    def _report_unused(self) -> None:
        if self._anatomy.unused:
            log.warning(
                "%d parameters are not used when the model runs, so they will not train: %s",
                len(self._anatomy.unused), first_few(self._anatomy.unused),
            )  # fmt: skip
        if self._anatomy.dead_ends:
            log.warning(
                "%d parameters lead to no output of the model, so they get no gradient and will "
                "not train: %s", len(self._anatomy.dead_ends), first_few(self._anatomy.dead_ends),
            )  # fmt: skip

    # -- members ---------------------------------------------------------------------------------

    def _home(self, parameter: nn.Parameter) -> int:
        return self._homes[self._standing.first(parameter)]

    def _members(self, index: int) -> Iterator[tuple[str, nn.Parameter]]:
        self.sync()
        return (pair for pair in self.model.named_parameters() if self._home(pair[1]) == index)

    def _all_members(self) -> list[tuple[str, list[tuple[str, nn.Parameter]]]]:
        self.sync()
        members: list[tuple[str, list[tuple[str, nn.Parameter]]]] = [(n, []) for n in self.names]
        for name, p in self.model.named_parameters():
            members[self._home(p)][1].append((name, p))
        return members

    def _layers_of(self, index: int) -> list[str]:
        self.sync()
        ran = [p for p in self._anatomy.layers if self._homes.get(p) == index]
        seen = set(self._anatomy.layers)
        return ran + [p for p in self._standing.leaves if p not in seen and self._homes[p] == index]

    def _blocks_of(self, index: int) -> tuple[Block, ...]:
        self.sync()
        return tuple(
            b for b in self._anatomy.blocks
            if b.parameters and self._homes.get(b.parameters[0]) == index
        )  # fmt: skip

    # -- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Rule, groups with their members, frozen flags and rates, as JSON-ready values."""
        return {
            "rule": self.rule,
            "names": list(self.names),
            "reasons": list(self.reasons),
            "members": {name: [n for n, _ in named] for name, named in self._all_members()},
            "frozen": list(self._frozen),
            "norm": "train" if self._norms_train else "freeze",
            "rates": list(self._rates),
        }

    def recall(self, state: Mapping[str, Any]) -> None:
        """Take over the rule and the reasons of saved groups, if members are the same as here.

        Groups that are made again from their members alone do not know why they were made.

        Args:
            state: what `state_dict` gave.
        """
        here = self.state_dict()
        if any(here[key] != state.get(key) for key in ("names", "members")):
            return
        self.rule = str(state.get("rule", self.rule))
        reasons = state.get("reasons") or self.reasons
        self._parts = tuple(
            Part(name, str(why)) for name, why in zip(self.names, reasons, strict=True)
        )

    def compare(self, state: Mapping[str, Any]) -> GroupDifference | None:
        """What differs between groups that were saved and these; None if nothing does.

        Raises:
            GroupingError: this is nothing that `state_dict` gave.
        """
        check_state(state, "names", "members", "rule")
        return compare_groups(state, self.state_dict())

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Take over the frozen flags and rates of groups that were saved, by their names.

        Args:
            state: what `state_dict` gave.
            strict: False takes over those of groups that are here too, and leaves the others.

        Raises:
            GroupingError: the saved groups have other names than these, and it is strict.
        """
        rates, flags = taken_over(state, self.names, self._rates, strict=strict)
        self._rates = rates
        self._set_frozen(flags, state.get("norm", "freeze"))
