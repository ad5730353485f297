"""Layer groups: a view of a model that follows its changes, for any training loop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer

from layergroups._formatting import Printable, count, first_few
from layergroups._paths import module_at, parent
from layergroups._torch import ddp_wrappers, is_sharded, tree_map_only, unwrap, watch_ddp
from layergroups.anatomy import Anatomy, Block, differentiable, read_anatomy
from layergroups.errors import AnatomyError, GroupIndexError, GroupingError
from layergroups.groups import _freezing, _optimizer, _surgery
from layergroups.groups._explain import Explanation, explain
from layergroups.groups._freezing import UserFrozen, is_norm
from layergroups.groups._group_table import GroupRow, GroupTable
from layergroups.groups._partition import ModuleTree, Part
from layergroups.groups._rates import Rate, spread_rates
from layergroups.groups._rules import Split, divide
from layergroups.groups._saved_groups import taken_over
from layergroups.groups._surgery import Change, ModelSnapshot, names_of, take_snapshot

log = logging.getLogger("layergroups")


@dataclass(frozen=True)
class LayerGroup:
    """Consecutive blocks that are trained as a unit; group 0 is nearest the input."""

    groups: LayerGroups
    index: int

    @property
    def name(self) -> str:
        """Its name, such as "early" or "head"."""
        return self.groups.names[self.index]

    @property
    def reason(self) -> str:
        """Why it begins where it does."""
        return self.groups.reasons[self.index]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Its blocks, in the order of execution."""
        return self.groups._blocks()[self.index]

    @property
    def layers(self) -> list[nn.Module]:
        """Its leaf modules, in the order of execution."""
        model = self.groups.model
        return [module_at(model, path) for path in self.groups._layers()[self.index]]

    @property
    def frozen(self) -> bool:
        """Whether it is frozen."""
        return self.groups.frozen[self.index]

    @property
    def lr(self) -> float:
        """Its base learning rate, which a schedule multiplies."""
        return self.groups.rates[self.index]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Its parameters with their names in the model."""
        return iter(self.groups._members()[self.index][1])

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its parameters."""
        return (p for _, p in self.named_parameters())

    def freeze(self) -> Freezing:
        """Freeze this group; with `with`, until the end of the block."""
        return self.groups._set_frozen({self.index: True})

    def unfreeze(self) -> Freezing:
        """Let this group train, as `LayerGroups.unfreeze`."""
        return self.groups._set_frozen({self.index: False}, free="unfreeze")

    def __repr__(self) -> str:
        return repr(self.groups.rows()[self.index])


@dataclass(frozen=True)
class Freezing:
    """The state of freezing before a call; as a context manager it restores that state.

        with groups.freeze_to(-1):
            train_the_head()

    The call itself freezes, with or without `with`. At the end of the block frozen flags, `norm`
    and `requires_grad` are restored, modules and parameters added in between follow their group,
    and the optimizer is unchanged.
    """

    groups: LayerGroups
    frozen: tuple[bool, ...]
    norms_train: bool
    by_user: UserFrozen
    freed: frozenset[nn.Parameter]

    def __enter__(self) -> LayerGroups:
        return self.groups

    def __exit__(self, *_: object) -> None:
        self.groups._restore(self)

    def __repr__(self) -> str:
        frozen = ", ".join(group.name for group in self.groups if group.frozen) or "none"
        trains = ", ".join(group.name for group in self.groups if not group.frozen) or "none"
        return f"Freezing(frozen: {frozen}; trains: {trains})"


class LayerGroups(Printable):
    """The division of a model into layer groups, a view of it.

    After any change of the model's modules `sync()`, which every access calls too, updates groups,
    freezing and attached optimizers.

    The constructor does not change the model. Parameters with `requires_grad=False` stay frozen by
    the user until `unfreeze`; those of a frozen group that the user sets to `requires_grad_(True)`
    train until the group is frozen again, and the group does not count as frozen. Groups that other
    layer groups of the model, or of the model it is a copy of, had frozen completely are frozen
    here too; hooks of those other layer groups stay until the first call that freezes or unfreezes.

    Args:
        model: any module.
        split: a rule, see `layergroups.groups.divide`.
        example_input: a tensor (N, ...), a tuple of arguments or a dict of keyword arguments for a
            dry run; by default one is made from the model's own description.
        head: path of the head, if it is known; several for several heads.
        network: class of the network whose parts the model is made of, for the table and for
            `split="classic"`.

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
        head: str | Sequence[str] | None = None,
        network: str | None = None,
    ) -> None:
        watch_ddp()
        if isinstance(model, DistributedDataParallel):
            _surgery.in_step(model)
        self.model = unwrap(model)
        self._example = tree_map_only(torch.Tensor, _off_device, example_input)
        self._head = head
        self._anatomy = read_anatomy(self.model, self._example, head=head)
        self.network = network or type(self.model).__name__
        self.partition = divide(self.model, self._anatomy, split, network=self.network)
        self._rates = (1e-3,) * len(self)
        self._decays: _optimizer.Decays = _optimizer.decays
        self._changes: list[Change] = []
        self._is_synced = False
        self._remember(take_snapshot(self.model))
        self._anatomy_is_old = False
        self._by_user, self._norms_train = UserFrozen(), False
        self._watched: list[nn.Parameter] = []  # of frozen groups; none should require a gradient
        self._freed: frozenset[nn.Parameter] = frozenset()
        self._frozen = self._find_frozen()
        self._report_unused()

    # -- the view --------------------------------------------------------------------------------

    @property
    def anatomy(self) -> Anatomy:
        """The result of a dry run of the model; after surgery the next access runs it again."""
        self.sync()
        if self._anatomy_is_old:
            self._anatomy_is_old = False
            self._anatomy = _read_again(self.model, self._example, self._head) or self._anatomy
        return self._anatomy

    @property
    def rule(self) -> str:
        """The rule, such as "auto" or "split at layer3, fc"."""
        return self.partition.rule

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups, nearest the input first."""
        return self.partition.names

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each group begins where it does."""
        return tuple(part.reason for part in self.partition.parts)

    @property
    def frozen(self) -> tuple[bool, ...]:
        """Which groups are frozen, so that nothing in them trains (but norms, if they should)."""
        freed = self._freed_groups()
        return tuple(flag and i not in freed for i, flag in enumerate(self._frozen))

    @property
    def rates(self) -> tuple[float, ...]:
        """The base learning rate of each group."""
        return self._rates

    @property
    def changes(self) -> tuple[Change, ...]:
        """All changes of the model that were found since the groups were made."""
        return tuple(self._changes)

    def explain(self) -> Explanation:
        """Why each group begins where it does, and the alternatives; `print` shows a table."""
        return explain(self.anatomy, self.partition, self.model, self.network)

    def rows(self) -> list[GroupRow]:
        """The rows of the table, one for each group."""
        blocks, layers, frozen = self._blocks(), self._layers(), self.frozen
        return [
            GroupRow(
                index=i,
                name=name,
                blocks=tuple(block.name for block in blocks[i]),
                layers=len(layers[i]),
                parameters=sum(p.numel() for _, p in named),
                trainable=sum(p.numel() for _, p in named if p.requires_grad),
                by_user=sum(p.numel() for _, p in named if p in self._by_user),
                freed=sum(p.numel() for _, p in named if p in self._freed),
                frozen=frozen[i],
                rate=self._rates[i],
                reason=self.partition.parts[i].reason,
            )
            for i, (name, named) in enumerate(self._members())
        ]

    def __len__(self) -> int:
        return len(self.partition.parts)

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

    def __rich__(self) -> GroupTable:
        return GroupTable(self.rows(), f"Layer groups of {self.network} (rule: {self.rule})")

    _columns = 160
    _fits_terminal = True

    def __repr__(self) -> str:
        return f"LayerGroups({', '.join(map(repr, self.rows()))})"

    def _index(self, which: int | str) -> int:
        names, n = self.names, len(self)
        if isinstance(which, str):
            if which not in names:
                raise GroupingError(f"no layer group is called {which!r}; there are {names}")
            return names.index(which)
        if not isinstance(which, int):
            raise GroupingError(f"a layer group is chosen by name or index, not by {which!r}")
        if not -n <= which < n:
            raise GroupIndexError(
                f"no layer group {which} with {n} groups ({', '.join(names)}); give {-n} to "
                f"{n - 1}, or a name"
            )
        return which % n

    # -- freezing --------------------------------------------------------------------------------

    def freeze(self, *which: str | int, norm: str = "freeze") -> Freezing:
        """Freeze all groups but the last, or the groups named.

        Args:
            which: names or indices of the groups to freeze; none for all but the last.
            norm: "freeze", or "train" to train the norm layers of frozen groups.

        Returns:
            A context manager that restores the state before; see `Freezing`.

        Raises:
            GroupingError: the model has only one group, so nothing would be frozen.
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
        """Let all groups train, or the groups named; as `freeze`.

        Parameters in them that the user froze by hand train too, which is logged; those that an
        adapter library froze do not.
        """
        chosen = [self._index(w) for w in which] if which else range(len(self))
        return self._set_frozen(dict.fromkeys(chosen, False), free="unfreeze")

    def gradual_unfreeze(
        self, epoch: float, *, every: float = 1, start: int | str = -1, norm: str = "freeze"
    ) -> Freezing:
        """Gradual unfreezing: call it at the start of each epoch, or step.

        Args:
            epoch: counted from 0, with parts of epochs; or steps.
            every: epochs (or steps) after which the next group, from the head down, trains too.
            start: the lowest group that trains in epoch 0.
            norm: as in `freeze`.
        """
        first = _freezing.first_to_train(epoch, self._index(start), every)
        flags = {i: i < first for i in range(len(self))}
        return self._set_frozen(flags, norm, free="gradual_unfreeze")

    thaw = gradual_unfreeze

    def _set_frozen(
        self, flags: Mapping[int, bool], norm: str | None = None, free: str = ""
    ) -> Freezing:
        if norm not in (None, "freeze", "train"):
            raise GroupingError(f"norm={norm!r}; give norm='freeze' or norm='train'")
        self.sync()
        self._update_by_user(p for p, may in self._trainable(self._off()) if may)
        state = tuple(self._frozen), self._norms_train, self._by_user, self._freed
        before = Freezing(self, *state)
        for i, flag in flags.items():
            self._frozen[i] = flag
            if flag:
                self._freed = self._freed.difference(p for _, p in self._members()[i][1])
        if norm is not None:
            self._norms_train = norm == "train"
        if free:
            self._free({i for i, flag in flags.items() if not flag}, free)
        self._apply_freezing()
        if self._anatomy.reentrant and self._frozen[0] and not all(self._frozen):
            log.warning(
                "the model uses reentrant checkpointing, which stops the gradient of layers "
                "after frozen ones: give checkpoint(..., use_reentrant=False)"
            )
        return before

    def _restore(self, before: Freezing) -> None:
        self.sync()
        self._frozen, self._norms_train = list(before.frozen), before.norms_train
        names = self._snapshot.names
        self._by_user = {p: held for p, held in before.by_user.items() if p in names}
        self._freed = before.freed
        self._apply_freezing()

    @property
    def inactive(self) -> tuple[int, ...]:
        """Indices of the groups that do not train: frozen, or with a rate of 0."""
        freed = self._freed_groups()
        return tuple(i for i in self._off() if i not in freed)

    def _off(self) -> tuple[int, ...]:
        """The same, whether or not the user lets some of their parameters train."""
        return tuple(i for i in range(len(self)) if self._frozen[i] or self._rates[i] == 0)

    @property
    def norms_train(self) -> bool:
        """Whether the norm layers of frozen groups train."""
        return self._norms_train

    def inactive_modules(self, which: Collection[int]) -> list[nn.Module]:
        """Modules in which nothing changes if these groups are inactive, outer ones first."""
        self.sync()
        return self._frozen_modules(which)

    def _frozen_modules(self, which: Collection[int]) -> list[nn.Module]:
        modules = _freezing.frozen_modules(self.model, ModuleTree(self.partition.group_of), which)
        if not self._freed:
            return modules
        freed: set[nn.Module] = set()
        around: dict[str, set[nn.Parameter]] = {}
        for path, module in self.model.named_modules():
            own = {*module.parameters()}
            around[path] = own or around.get(parent(path), own)
            if own & self._freed or (not own and around[path] <= self._freed):
                freed.add(module)
        return [module for module in modules if module not in freed]

    def _apply_freezing(self) -> None:
        active = self._active(self._snapshot, self._off())
        self._watched = [p for p in self._snapshot.names if p not in active and differentiable(p)]
        self._freed = self._freed.intersection(self._watched)
        turned_off, changed = [], False
        for parameter, may_train in self._trainable(self._off()):
            changed |= parameter.requires_grad != may_train
            parameter.requires_grad = may_train
            if not may_train:
                parameter.grad = None
                if parameter not in self._by_user:
                    turned_off.append(parameter)
        frozen = self._frozen_modules(self._off())
        _freezing.keep_in_eval(
            self.model, frozen, turned_off,
            norms_train=self._norms_train, written=self._anatomy.written,
        )  # fmt: skip
        _freezing.call_before_forward(self.model, self._before_forward)
        for wrapper in ddp_wrappers(self.model) if changed else ():
            _surgery.in_step(wrapper).follow(wrapper)  # now: a compiled one runs no hook

    def _trainable(self, inactive: Collection[int]) -> Iterator[tuple[nn.Parameter, bool]]:
        """Every parameter, and whether it may train while these groups are inactive."""
        active = self._active(self._snapshot, inactive)
        for p in self._snapshot.names:
            may = (p in active and p not in self._by_user) or p in self._freed
            yield p, may and differentiable(p)

    def _active(self, snapshot: ModelSnapshot, inactive: Collection[int]) -> set[nn.Parameter]:
        """The parameters outside inactive groups, and those of norms that train in them."""
        return {
            p for p, (name, *_) in snapshot.names.items()
            if self.partition.group_of[name] not in inactive
            or (self._norms_train and is_norm(snapshot.owners[name]))
        }  # fmt: skip

    # -- frozen, or let train, by the user -------------------------------------------------------

    def _freed_groups(self) -> set[int]:
        self._follow_freed()
        names = self._snapshot.names
        return {self.partition.group_of[names[p][0]] for p in self._freed if p in names}

    def _follow_freed(self) -> None:
        """Follow `requires_grad_(True)` or `(False)` on parameters of frozen groups."""
        freed = frozenset(p for p in self._watched if p.requires_grad)
        if freed != self._freed:
            self._report_freed(freed - self._freed)
            self._freed = freed
            self._apply_freezing()

    def _report_freed(self, new: Collection[nn.Parameter]) -> None:
        if new:
            log.warning(
                "%s of frozen groups train, because requires_grad was set to True: %s; "
                "groups.freeze() or freeze_to() freezes them again",
                count(len(new), "parameter"), self._some(new),
            )  # fmt: skip

    def _find_frozen(self) -> list[bool]:
        """The groups that other layer groups froze; logs them and what the user froze."""
        off = {p for p in self._snapshot.names if differentiable(p) and not p.requires_grad}
        by_others = off.intersection(_freezing.frozen_by_groups(self.model))
        owner = self._snapshot.owners
        flags, inside = [], set[nn.Parameter]()
        for _, named in self._members():
            fixed = (p in off or not differentiable(p) or is_norm(owner[n]) for n, p in named)
            flags.append(any(p in by_others for _, p in named) and all(fixed))
            inside.update(p for _, p in named if flags[-1])
        self._norms_train = any(p.requires_grad for p in inside)
        self._update_by_user(off - (by_others & inside))
        if inside:
            frozen = [name for name, flag in zip(self.names, flags, strict=True) if flag]
            log.warning(
                "%s: frozen by other layer groups of this model, and frozen here too; "
                "groups.unfreeze() lets all train", ", ".join(frozen),
            )  # fmt: skip
        if self._by_user and self._snapshot.adapted:
            n = count(len(self._by_user), "other parameter")
            log.warning("the model has adapters: %s stay frozen while it has them", n)
        elif self._by_user:
            log.warning(
                "%s with requires_grad=False stay frozen: %s; groups.unfreeze() lets them train",
                count(len(self._by_user), "parameter"), self._some(self._by_user),
            )  # fmt: skip
        return flags

    def _update_by_user(self, trainable: Iterable[nn.Parameter]) -> None:
        adapted = self._snapshot.adapted
        self._by_user = _freezing.still_frozen(self._by_user, trainable, adapted=adapted)

    def _free(self, indices: Collection[int], call: str) -> None:
        members = {
            p for i, (_, named) in enumerate(self._members()) if i in indices for _, p in named
        }
        by_adapters = [p for p, held in self._by_user.items() if held and p in members]
        if by_hand := [p for p, held in self._by_user.items() if not held and p in members]:
            log.warning(
                "%s() frees %s that had requires_grad=False: %s", call,
                count(len(by_hand), "parameter"), self._some(by_hand),
            )  # fmt: skip
        if by_adapters:
            n = count(len(by_adapters), "parameter")
            log.warning(
                "%s() leaves %s frozen: adapters hold them (%s); requires_grad_(True) on a "
                "parameter lets it train", call, n, self._some(by_adapters),
            )  # fmt: skip
        freed = {*by_hand}
        self._by_user = {p: held for p, held in self._by_user.items() if p not in freed}

    def _some(self, parameters: Collection[nn.Parameter]) -> str:
        return first_few(names_of(parameters, self._snapshot), 3)

    # -- rates and optimizers --------------------------------------------------------------------

    def set_rates(self, lr: Rate) -> None:
        """Set the base learning rate of each group, here and in attached optimizers at once.

        A scheduler of torch continues from the new rates with its current multiplier.

        Args:
            lr: a number, a slice, a list, a dict or a `decay`; see `spread_rates`.
        """
        self.sync()
        self._change_rates(spread_rates(lr, self.names, self._rates))

    def _change_rates(self, rates: tuple[float, ...]) -> None:
        before, off = self._rates, self._off()
        self._rates = rates
        for optimizer in _optimizer.bound_to(self._before_step):
            _optimizer.change_rates(optimizer, before, rates)
        if self._off() != off:
            self._apply_freezing()

    def param_groups(
        self,
        lr: Rate | None = None,
        weight_decay: float = 0.01,
        *,
        decays: Callable[[str, nn.Parameter], bool] | None = None,
    ) -> list[dict[str, Any]]:
        """Parameter groups for any torch optimizer, of all groups, also frozen ones.

        Args:
            lr: the rate of each group, as in `set_rates`; None: the rates that they have.
            weight_decay: of the parameters that have one.
            decays: whether a parameter has weight decay, from its name and itself, now and after
                surgery; by default norms, biases, tokens and position embeddings have none.
        """
        if lr is not None:
            self.set_rates(lr)
        self._decays = decays or _optimizer.decays
        return _optimizer.parameter_groups(self._members(), self._rates, weight_decay, self._decays)

    def optimizer(
        self,
        kind: Callable[..., Optimizer] = AdamW,
        lr: Rate | None = None,
        weight_decay: float = 0.01,
        **options: Any,
    ) -> Optimizer:
        """An optimizer of all groups, attached: `groups.optimizer(torch.optim.SGD, momentum=0.9)`.

        Args:
            kind: a class, or what takes parameter groups.
            lr: as in `set_rates`.
            weight_decay: as in `param_groups`.
            **options: other arguments of `kind`.
        """
        optimizer = kind(self.param_groups(lr, weight_decay), **options)
        self.attach(optimizer)
        return optimizer

    def attach(self, optimizer: Optimizer) -> None:
        """Update an optimizer made from `param_groups` after each change of the model.

        The groups check for changes before the model runs in training mode and before each step of
        the optimizer, so a plain loop needs no other call. A parameter first found at a step (added
        to an existing module, or in a compiled model) joins the optimizer at that step and trains
        from the next one, because a gradient scaler has not unscaled its gradient. Several
        optimizers may be attached; each follows the groups that it was attached to last.

        The optimizer takes the rates of the groups, times the current multiplier of a scheduler
        (the peak rates of a `OneCycleLR` stay), and gets missing parameter groups of the layer
        groups it has. Parameter groups made by the user are not changed.

        Raises:
            GroupingError: the optimizer was not made from `param_groups` of these groups, or lacks
                one and has a scheduler already.
        """
        optimizer = _optimizer.unwrapped(optimizer)
        _optimizer.check_attachable(optimizer, self.names)
        _optimizer.share_state(optimizer)
        members = self._members()
        _optimizer.add_missing_groups(optimizer, members, self._rates, self._decays)
        _optimizer.reconcile(optimizer, members, self._decays)
        _optimizer.change_rates(optimizer, self._rates, self._rates)
        _optimizer.bind(optimizer, self._before_step)
        _freezing.call_before_forward(self.model, self._before_forward)

    def is_attached(self, optimizer: Optimizer) -> bool:
        """Whether an optimizer is attached to these groups."""
        return _optimizer.unwrapped(optimizer) in _optimizer.bound_to(self._before_step)

    def _before_step(self, optimizer: Optimizer, *_: object) -> None:
        if self._is_synced:
            self._is_synced = False
            return
        change = self.sync(names=False)
        for name, _group in change.added if change is not None else ():
            # a GradScaler has not unscaled it or checked it for infinities
            self.model.get_parameter(name).grad = None

    def _before_forward(self, _: nn.Module) -> None:
        # only modules: torch.func.functional_call replaces parameters during a run
        if self._detector.modules_changed():
            self.sync(names=False)
        self._follow_freed()

    # -- surgery ---------------------------------------------------------------------------------

    def sync(self, *, names: bool = True) -> Change | None:
        """Update groups, freezing and optimizers after changes of the model.

        Surviving parameters retain group and optimizer state, new ones join the group of their
        path with its rate and freezing, removed ones leave the optimizer. Moments follow a
        parameter to a different type or device. The change is logged and added to `changes`.

        Args:
            names: False ignores, for speed, new names of the same parameters and modules, which
                matter to no optimizer step.

        Returns:
            The change, or None if the model is the same.
        """
        self._is_synced = False
        if not self._detector.changed(names=names):
            self._follow_freed()
            return None
        now = take_snapshot(self.model)
        if _surgery.is_sharding(self._snapshot, now):
            rebind_parameters(self)
            return None
        change = self._follow(now)
        self._changes.append(change)
        warn = _surgery.needs_warning(change, self.model, _optimizer.bound_to(self._before_step))
        log.log(logging.WARNING if warn else logging.INFO, "%s", change)
        return change

    def _follow(self, now: ModelSnapshot) -> Change:
        converted = _surgery.conversions(self._snapshot, now)
        old = self._snapshot.with_converted(converted)
        new = {source: p for p, source in converted.items()}
        before = {new.get(p, p): held for p, held in self._by_user.items()}
        freed = frozenset(new.get(p, p) for p in self._watched if p.requires_grad)
        active = self._active(old, self._off())
        by_user = _freezing.frozen_after_surgery(before, old, now, active)
        group_of = _surgery.assign_groups(self.model, old, now, self.partition.group_of)
        self.partition, self._by_user = replace(self.partition, group_of=group_of), by_user
        self._remember(now)
        self._report_freed(freed.intersection(now.names) - {new.get(p, p) for p in self._freed})
        self._freed = freed
        change = _surgery.describe(old, now, group_of, self.names, self._frozen)
        self._anatomy_is_old |= old.names != now.names or change.layers
        self._apply_freezing()
        for optimizer in _optimizer.bound_to(self._before_step):
            _optimizer.follow(optimizer, self._members(), self._decays, old, now, converted)
        return replace(
            change,
            fixed=names_of(by_user.keys() - before, now),
            released=names_of(before.keys() - by_user, now),
        )

    def _remember(self, snapshot: ModelSnapshot) -> None:
        self._detector = _surgery.ChangeDetector(self.model)
        self._snapshot = snapshot
        self._member_lists: list[tuple[str, list[tuple[str, nn.Parameter]]]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """A copy is a view of the copied model, without attached optimizers."""
        self.sync()
        return self.__dict__

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _freezing.call_before_forward(self.model, self._before_forward)

    def _report_unused(self) -> None:
        if self._anatomy.unused:
            log.warning(
                "%d parameters are not used when the model runs on the example input: %s",
                len(self._anatomy.unused), first_few(self._anatomy.unused),
            )  # fmt: skip
        if idle := self._anatomy.no_path_to_output:
            log.warning(
                "%d parameters get no gradient and will not train: no output depends on them, or "
                "no_grad, detach, NumPy or reentrant checkpointing stops the gradient: %s",
                len(idle), first_few(idle),
            )  # fmt: skip
        if self._anatomy.classifiers and not self._anatomy.has_head:
            log.warning("no head: %s", self._anatomy.head_reason)

    # -- members ---------------------------------------------------------------------------------

    def _members(self) -> list[tuple[str, list[tuple[str, nn.Parameter]]]]:
        """For each group its name and its named parameters, in the order of registration."""
        self.sync()
        if self._member_lists is None:
            self._member_lists = [(name, []) for name in self.names]
            for p, (name, *_) in self._snapshot.names.items():
                self._member_lists[self.partition.group_of[name]][1].append((name, p))
        return self._member_lists

    def _layers(self) -> list[list[str]]:
        """For each group the paths of its leaf modules: those that ran in order, then others."""
        ran = self.anatomy.layers
        group_of = self.partition.group_of
        layers: list[list[str]] = [[] for _ in self.names]
        for path in (*ran, *(p for p in self._snapshot.leaves if p not in ran)):
            if path in group_of:
                layers[group_of[path]].append(path)
        return layers

    def _blocks(self) -> list[tuple[Block, ...]]:
        """For each group the blocks whose first parameter is in it."""
        blocks: list[list[Block]] = [[] for _ in self.names]
        for block in self.anatomy.blocks:
            if block.parameters and block.parameters[0] in self.partition.group_of:
                blocks[self.partition.group_of[block.parameters[0]]].append(block)
        return [tuple(inside) for inside in blocks]

    # -- saving ----------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Rule, groups with their members, frozen flags and rates, as JSON-ready values."""
        self.sync()
        return {
            "rule": self.rule,
            "names": list(self.names),
            "reasons": list(self.reasons),
            "members": {name: [n for n, _ in named] for name, named in self._members()},
            "frozen": list(self._frozen),
            "freed": list(names_of(self._freed, self._snapshot)),
            "norm": "train" if self._norms_train else "freeze",
            "rates": list(self._rates),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, strict: bool = True) -> None:
        """Restore frozen flags and rates of saved groups, by their names.

        Groups of the same members get the saved rule and reasons too.

        Args:
            state: from `state_dict`.
            strict: False accepts other groups; each group here that was not saved takes after the
                saved group of most of its parameters.

        Raises:
            GroupingError: `strict` is True and the names differ, or `state` is not such a state.
        """
        here = self.state_dict()
        rates, flags = taken_over(state, self.names, self._rates, here["members"], strict=strict)
        if all(here[key] == state.get(key) for key in ("names", "members")):
            reasons = map(str, state.get("reasons") or self.reasons)
            parts = tuple(map(Part, self.names, reasons))
            rule = str(state.get("rule", self.rule))
            self.partition = replace(self.partition, rule=rule, parts=parts)
        self._change_rates(rates)
        self._set_frozen(flags, state.get("norm", "freeze"))
        if freed := {*state.get("freed", ())}:
            self._freed = frozenset(
                p for p, names in self._snapshot.names.items() if names[0] in freed
            )
            self._apply_freezing()


def _off_device(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach() if tensor.is_meta else tensor.detach().cpu()


def _read_again(model: nn.Module, example: Any, head: Any) -> Anatomy | None:
    """None if the changed model cannot be read, so the old anatomy stays."""
    if any(map(is_sharded, model.parameters())):  # FSDP2 cannot run on fake tensors
        return None
    try:
        return read_anatomy(model, example, head=head)
    except AnatomyError as error:
        try:  # its input may be different now, such as images with other channels
            return read_anatomy(model, head=head)
        except AnatomyError:
            log.warning("the changed model cannot be run on the example input: %s", error)
            return None


# -- for the training loop of this package -------------------------------------------------------


def mark_synced(groups: LayerGroups) -> None:
    """Skip the check at the next step, for a loop that calls `sync()` before each step."""
    groups._is_synced = True


def rebind_parameters(groups: LayerGroups) -> None:
    """Use parameters that were replaced under the same names, as by FSDP2.

    Attached optimizers get the new parameters without any state.
    """
    old = groups._snapshot
    groups._remember(take_snapshot(groups.model))
    at = {name: p for p, (name, *_) in groups._snapshot.names.items()}
    new = {p: at[n] for p, (n, *_) in old.names.items()}
    groups._by_user = {new[p]: held for p, held in groups._by_user.items()}
    groups._freed = frozenset(new[p] for p in groups._freed)
    groups._apply_freezing()
    for optimizer in _optimizer.bound_to(groups._before_step):
        _optimizer.reconcile(optimizer, groups._members(), groups._decays)


@contextmanager
def as_if_inactive(groups: LayerGroups, which: Collection[int]) -> Iterator[list[nn.Module]]:
    """Set `requires_grad` as if these groups were inactive and no others, until the block ends.

    Modes, hooks and parameters that the user froze do not change. Yields the modules in which
    nothing would change, outer ones first.
    """
    differ = {*which} ^ {*groups._off()}
    among = {p for index in differ for p in groups[index].parameters()}
    before = [(p, p.requires_grad) for p in among]
    watched, groups._watched = groups._watched, list(groups._freed)
    try:
        for p, may in groups._trainable(which):
            if p in among:
                p.requires_grad = may
        yield groups.inactive_modules(which)
    finally:
        for p, required in before:
            p.requires_grad = required
        groups._watched = watched
