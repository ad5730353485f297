"""Layer groups: a living view on a model, for any training loop."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Iterator, Mapping
from typing import Any, overload

import torch
from torch import nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from layergroups.anatomy import Anatomy, Block, read_anatomy, unwrap
from layergroups.errors import AnatomyError, GroupingError
from layergroups.groups.explain import Explanation, explain
from layergroups.groups.freezing import ModeKeeper, frozen_modules, is_norm
from layergroups.groups.html import groups_html
from layergroups.groups.layer_group import LayerGroup
from layergroups.groups.optimizer import check_attachable, parameter_groups, reconcile
from layergroups.groups.partition import Part, some
from layergroups.groups.places import Places, leaf_paths
from layergroups.groups.rates import Rate, spread_rates
from layergroups.groups.rules import Split, divide
from layergroups.groups.surgery import Change, Watch, is_spread
from layergroups.groups.table import group_table
from layergroups.groups.wrapped import guard

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
        self._optimizers: list[weakref.ref[Optimizer]] = []
        self._keeper = ModeKeeper()
        self._norms_train = False
        self._rates = (1e-3,) * len(self._parts)
        self._frozen = [False] * len(self._parts)
        self._fixed = self._find_fixed()
        self._remember()
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
        if isinstance(which, str):
            if which not in self.names:
                raise GroupingError(f"no layer group is called {which!r}; there are {self.names}")
            return self.names.index(which)
        if not -len(self) <= which < len(self):
            raise IndexError(f"layer group {which} of {len(self)}: {', '.join(self.names)}")
        return which % len(self)

    # -- freezing --------------------------------------------------------------------------------

    def freeze(self, *which: str | int, norm: str = "freeze") -> None:
        """Freeze all groups but the last, or the groups named.

        Args:
            which: names or indices of the groups to freeze; none for all but the last.
            norm: "freeze", or "train" to let the norm layers of frozen groups train all the same.

        Raises:
            GroupingError: the model has one group only, so that nothing would be frozen.
        """
        if which:
            self._set_frozen({self._index(w): True for w in which}, norm)
        elif len(self) == 1:
            raise GroupingError(
                f"freeze() freezes all groups but the last, and there is one: {self.names[0]!r}. "
                f"Divide the model, split=2, or freeze it by name, freeze({self.names[0]!r})"
            )
        else:
            self.freeze_to(-1, norm=norm)

    def freeze_to(self, n: int, *, norm: str = "freeze") -> None:
        """Freeze the groups before group n: `freeze_to(-2)` lets the last two train.

        Raises:
            GroupingError: there is no group n.
        """
        if not -len(self) <= n < len(self):
            raise GroupingError(
                f"freeze_to({n}) with {len(self)} groups ({', '.join(self.names)}); give "
                f"{-len(self)} to {len(self) - 1}"
            )
        first = n % len(self)
        self._set_frozen({i: i < first for i in range(len(self))}, norm)

    def unfreeze(self, *which: str | int) -> None:
        """Let all groups train, or the groups named."""
        chosen = [self._index(w) for w in which] if which else range(len(self))
        self._set_frozen(dict.fromkeys(chosen, False))

    def _set_frozen(self, flags: Mapping[int, bool], norm: str | None = None) -> None:
        if norm not in (None, "freeze", "train"):
            raise GroupingError(f"norm={norm!r}; give norm='freeze' or norm='train'")
        self.sync()
        for i, flag in flags.items():
            self._frozen[i] = flag
        if norm is not None:
            self._norms_train = norm == "train"
        self._apply_freezing()

    def _resting(self) -> set[int]:
        """Groups in which nothing may move: frozen ones, and those with a rate of 0."""
        return {i for i in range(len(self)) if self._frozen[i] or self._rates[i] == 0}

    def _apply_freezing(self) -> None:
        resting = self._resting()
        for i in range(len(self)):
            for name, parameter in self._members(i):
                moves = i not in resting or (self._norms_train and self._in_norm(name))
                trains = moves and id(parameter) not in self._fixed
                parameter.requires_grad_(trains and parameter.is_floating_point())
                if not parameter.requires_grad:
                    parameter.grad = None
        paths = frozen_modules(self.model, Places(self._homes), resting)
        self._keeper.hold(self.model, paths, norms_train=self._norms_train)

    def _in_norm(self, name: str) -> bool:
        return is_norm(self.model.get_submodule(name.rpartition(".")[0]))

    # -- rates and optimizers --------------------------------------------------------------------

    def set_rates(self, lr: Rate) -> None:
        """Set the base learning rate of each group; see `layergroups.groups.rates.spread_rates`."""
        before = self._resting()
        self._rates = spread_rates(lr, self.names, self._rates)
        if self._resting() != before:
            self._apply_freezing()

    def param_groups(
        self, lr: Rate | None = None, weight_decay: float = 0.01
    ) -> list[dict[str, Any]]:
        """Parameter groups for any torch optimizer, of all groups, frozen ones too.

        Norms, biases, tokens and position embeddings get no weight decay.
        """
        self.sync()
        if lr is not None:
            self.set_rates(lr)
        return parameter_groups(self._all_members(), self._rates, weight_decay)

    def attach(self, optimizer: Optimizer) -> None:
        """Keep an optimizer made from `param_groups` in step with the model from now on."""
        check_attachable(optimizer)
        self._optimizers = [r for r in self._optimizers if r() not in (None, optimizer)]
        self._optimizers.append(weakref.ref(optimizer))

    # -- surgery ---------------------------------------------------------------------------------

    def sync(self) -> Change | None:
        """Bring everything in step with the model; returns what had changed, or None.

        Surviving parameters keep group and optimizer state, new ones join the group of the place
        where they stand with its rate and freezing, dead ones are dropped. One line tells of it.
        """
        if not self._watch.changed():
            return None
        if self._only_spread():
            self.adopt()
            return None
        change = self._follow()
        log.warning("%s", change)
        return change

    def _only_spread(self) -> bool:
        """Whether all that happened is that FSDP2 exchanged parameters under the same names."""
        new = [(n, p) for n, p in self.model.named_parameters() if id(p) not in self._names_by_id]
        names = [n for n, _ in self.model.named_parameters()]
        same = names == list(self._names_by_id.values()) and leaf_paths(self.model) == self._leaves
        return same and bool(new) and all(is_spread(p) for _, p in new)

    def adopt(self) -> None:
        """Take over parameters that were exchanged under the same names, as FSDP2 does.

        Groups, rates and freezing stay; attached optimizers get the new ones, without any state.
        """
        fixed = {name for i, name in self._names_by_id.items() if i in self._fixed}
        self._remember()
        self._fixed = {i for i, name in self._names_by_id.items() if name in fixed}
        self._apply_freezing()
        for reference in self._optimizers:
            optimizer = reference()
            if optimizer is not None:
                reconcile(optimizer, self._all_members())

    def _follow(self) -> Change:
        old_homes, old_names, old_layers = self._homes, self._names_by_id, self._leaves
        places = Places(old_homes)
        survivors = {
            name: old_homes[old_names[id(p)]]
            for name, p in self.model.named_parameters()
            if id(p) in old_names
        }
        known = Places({**old_homes, **survivors})
        homes: dict[str, int] = {}
        for name, _ in self.model.named_parameters():
            homes[name] = survivors.get(name, known.locate(name, self.model))
        for path in leaf_paths(self.model):
            own = {g for n, g in homes.items() if n.rpartition(".")[0] == path}
            fallback = places.locate(path, self.model) if path not in old_homes else old_homes[path]
            homes[path] = min(own) if own else fallback
        self._homes = homes
        kept = self._held
        self._remember()
        del kept
        self._look_again()
        self._apply_freezing()
        for reference in self._optimizers:
            optimizer = reference()
            if optimizer is not None:
                reconcile(optimizer, self._all_members())
        return self._describe(old_names, old_layers)

    def _describe(self, old: Mapping[int, str], old_layers: list[str]) -> Change:
        new = self._names_by_id
        return Change(
            added=tuple((n, self.names[self._homes[n]]) for i, n in new.items() if i not in old),
            removed=tuple(n for i, n in old.items() if i not in new),
            renamed=tuple((old[i], n) for i, n in new.items() if i in old and old[i] != n),
            layers=old_layers != self._leaves,
        )

    def _look_again(self) -> None:
        if any(map(is_spread, self.model.parameters())):
            return  # such a model cannot run on fake tensors
        try:
            self._anatomy = read_anatomy(self.model, self._example, head=self._head)
        except AnatomyError as error:
            log.warning("the changed model cannot be run on the example input: %s", error)

    def _remember(self) -> None:
        self._watch = Watch(self.model)
        named = dict(self.model.named_parameters())
        self._held = tuple(named.values())
        self._names_by_id = {id(p): name for name, p in named.items()}
        self._leaves = leaf_paths(self.model)

    def _find_fixed(self) -> set[int]:
        """Parameters that the model's author fixed, such as sine position embeddings.

        A model that comes mostly frozen was frozen by hand: there nothing counts as fixed.
        """
        named = list(self.model.named_parameters())
        fixed = [(n, p) for n, p in named if not p.requires_grad]
        if len(fixed) * 2 > len(named):
            log.warning(
                "the model came frozen; its layer groups now say what trains: none is frozen"
            )
            for _, p in fixed:
                p.requires_grad_(p.is_floating_point())
            return set()
        if fixed:
            log.warning("fixed by the model's author, never trained: %s", some(n for n, _ in fixed))
        return {id(p) for _, p in fixed}

    def _report_unused(self) -> None:
        if self._anatomy.unused:
            log.warning(
                "%d parameters are not used when the model runs, so they will not train: %s",
                len(self._anatomy.unused), some(self._anatomy.unused),
            )  # fmt: skip

    # -- members ---------------------------------------------------------------------------------

    def _members(self, index: int) -> Iterator[tuple[str, nn.Parameter]]:
        return (
            (name, p) for name, p in self.model.named_parameters() if self._homes[name] == index
        )

    def _all_members(self) -> list[tuple[str, list[tuple[str, nn.Parameter]]]]:
        members: list[tuple[str, list[tuple[str, nn.Parameter]]]] = [(n, []) for n in self.names]
        for name, p in self.model.named_parameters():
            members[self._homes[name]][1].append((name, p))
        return members

    def _layers_of(self, index: int) -> list[str]:
        self.sync()
        ran = [p for p in self._anatomy.layers if self._homes.get(p) == index]
        seen = set(self._anatomy.layers)
        return ran + [p for p in self._leaves if p not in seen and self._homes[p] == index]

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

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over the frozen flags and rates of groups that were saved.

        Raises:
            GroupingError: the saved groups have other names than these.
        """
        if list(state["names"]) != list(self.names):
            raise GroupingError(
                f"the saved layer groups are {list(state['names'])}, these are {list(self.names)}"
            )
        self._rates = tuple(float(r) for r in state["rates"])
        self._set_frozen(dict(enumerate(state["frozen"])), state.get("norm", "freeze"))
