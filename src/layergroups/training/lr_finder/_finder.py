"""The learning-rate finder: for all layer groups together, and for each alone.

Source: Smith 2017, «Cyclical Learning Rates for Training Neural Networks»: train while the rate
rises in equal ratios, and see where the loss falls and where it rises again. In addition each group
has a sweep in which the others are frozen: layers of different depth tolerate different rates.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from torch import Tensor

from layergroups._checks import number, whole_number
from layergroups._formatting import rate
from layergroups._forward import count_items, labelled
from layergroups._interrupts import uninterrupted
from layergroups._torch import tree_leaves
from layergroups.data import shards_of, starting_at
from layergroups.errors import TrainingError
from layergroups.reports import RateCurve
from layergroups.training.distributed import SINGLE_PROCESS
from layergroups.training.hardware import keep_freed_memory, to_device
from layergroups.training.loop import (
    FitContext,
    NotFiniteError,
    Snapshot,
    check_trainable,
    train_step,
)
from layergroups.training.lr_finder._found_rates import FoundRates, NoSuggestionError, SuggestFunc
from layergroups.training.state import LearnerState

_LEAST_STEPS: Final = 20
_LEAST_POINTS: Final = 4
_LAST: Final = 5  # steps that the suggestions do not look at
_DIVERGED: Final = 4.0  # times the lowest loss
_BETA: Final = 0.98


@dataclass(frozen=True)
class Plan:
    """The arguments of `lr_find`, checked; `suggest` has the suggestions by name."""

    start_lr: float
    end_lr: float
    num_it: int
    stop_div: bool
    suggest: Mapping[str, SuggestFunc]

    def __post_init__(self) -> None:
        number("start_lr", self.start_lr, 0, math.inf, 1e-7, open_ends=True)
        number("end_lr", self.end_lr, 0, math.inf, 10, open_ends=True)
        whole_number("num_it", self.num_it, _LEAST_STEPS, 100)
        if self.start_lr >= self.end_lr:
            raise TrainingError(
                f"start_lr={self.start_lr:g} must be below end_lr={self.end_lr:g}. The usual sweep "
                "is learn.lr_find(start_lr=1e-7, end_lr=10, num_it=100)."
            )


def find_rates(
    learner: LearnerState,
    plan: Plan,
    by_group: bool | Sequence[str | int] = True,
    *,
    memory: int = 1 << 30,
) -> FoundRates:
    """Sweep all groups together, then each alone; afterwards everything is as before.

    `memory` is the maximum of bytes of batches to keep.
    """
    if learner.processes.is_distributed:
        raise TrainingError(
            f"lr_find runs in one process, not in {learner.processes.world}. Run it in a separate "
            "script, without torchrun, and pass the rates to the fit: "
            "learn.fit_one_cycle(3, lr={...})."
        )
    groups = learner.layer_groups
    check_trainable(groups)
    active = [group for group in groups if not group.frozen and group.lr > 0]
    training = [g.name for g in active if any(p.requires_grad for p in g.parameters())]
    chosen = _chosen(learner, by_group, training)
    highest = max(groups[name].lr for name in training)
    relation = {name: groups[name].lr / highest for name in training}
    learner.placed_model()
    snapshot = Snapshot(learner, weights=True)
    try:
        with keep_freed_memory():
            snapshot.begin()
            finder = _Finder(snapshot, plan, memory)
            together = finder.sweep("all", highest)
            _check_enough(together, plan)
            if len(training) == 1:
                alone = {name: replace(together, name=name) for name in chosen}
            else:
                alone = {name: finder.sweep_alone(name) for name in chosen}
    finally:
        with uninterrupted():
            snapshot.restore()
    inactive = tuple(name for name in groups.names if name not in training)
    return FoundRates(together, alone, relation, inactive, tuple(plan.suggest))


def _chosen(
    learner: LearnerState, by_group: bool | Sequence[str | int], training: Sequence[str]
) -> list[str]:
    """Names of the groups to try alone, in their order."""
    if isinstance(by_group, bool):
        return list(training) if by_group else []
    if isinstance(by_group, str) or not isinstance(by_group, Sequence):
        raise TrainingError(
            f"by_group={by_group!r} must be True, False, or a list of layer groups, such as "
            f"by_group={[learner.groups.names[-1]]}."
        )
    names = [learner.groups[which].name for which in by_group]
    frozen = [name for name in names if name not in training]
    if frozen:
        raise TrainingError(
            f"by_group names {', '.join(frozen)}, frozen or at rate 0. Unfreeze first: "
            f"learn.unfreeze({', '.join(map(repr, frozen))})."
        )
    return [name for name in training if name in names]


class _Finder:
    """Sweeps one after another, each from the same state over the same batches."""

    def __init__(self, snapshot: Snapshot, plan: Plan, memory: int) -> None:
        self.snapshot = snapshot
        self.learner = snapshot.learner
        self.plan = plan
        needed = plan.num_it * self.learner.accumulate
        self.batches = RepeatedBatches(self.learner, memory, needed)

    def sweep_alone(self, name: str) -> RateCurve:
        self.snapshot.rewind()
        groups = self.learner.groups
        groups.freeze(*(other for other in groups.names if other != name), norm="freeze")
        return self.sweep(name, groups[name].lr)

    def sweep(self, name: str, base: float) -> RateCurve:
        """Train what is not frozen while the rates rise; `base` is the highest of the groups."""
        learner, plan = self.learner, self.plan
        learner.begin_epoch(learner.data.train)
        rising = _Rising(plan.start_lr / base, plan.end_lr / base)
        fit = FitContext(learner, 1, rising, "lr_find")
        fit.steps = fit.epoch_steps = plan.num_it - 1  # so that the last step has the last rate
        batches, losses = iter(self.batches), Losses(plan.num_it // 10)
        with learner.reporter.bar(f"rates of {name}", plan.num_it) as bar:
            while len(losses) < plan.num_it and not losses.end(stop_div=plan.stop_div):
                losses.add(_step(fit, batches))
                bar.advance(losses.raw[-1])
        return _curve(name, losses, plan)


@dataclass(frozen=True)
class _Rising:
    """A schedule: the multiplier rises in equal ratios from `first` to `last`."""

    first: float
    last: float

    def multiplier(self, t: float) -> float:
        return self.first * math.pow(self.last / self.first, t)

    def momentum(self, t: float) -> float | None:
        return None  # the optimizer's own


def _step(fit: FitContext, batches: Iterator[Any]) -> float:
    losses, before = [], fit.step
    try:
        while fit.step == before:
            batch = next(batches)
            (fit.share,) = shards_of([batch], SINGLE_PROCESS)
            fit.inputs, fit.targets = labelled(to_device(batch, fit.accelerator.device))
            train_step(fit)
            losses.append(float(fit.loss.detach()))
    except NotFiniteError as error:
        return error.value
    return sum(losses) / len(losses)


class RepeatedBatches:
    """Repeats the training batches of the next epoch, at most `needed` of them.

    They stay in memory as far as they fit into `memory` bytes; the others are read in each round.
    """

    def __init__(self, learner: LearnerState, memory: int, needed: int) -> None:
        self._learner = learner
        self._kept: list[Any] = []
        self._read, self._is_full = 0, False
        for batch in self._begin():
            memory -= sum(leaf.nbytes for leaf in tree_leaves(batch) if isinstance(leaf, Tensor))
            self._is_full = memory < 0
            if self._is_full or len(self._kept) == needed:
                break
            self._read += 1
            if count_items(batch):
                self._kept.append(batch)
        if not self._kept and not self._is_full:
            raise TrainingError(
                "There are no training batches for lr_find. Assign data with training items: "
                "learn.dls = ImageDataLoaders.from_folder(...)."
            )

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from self._kept
            if self._is_full:
                yield from filter(count_items, starting_at(self._begin(), self._read))

    def _begin(self) -> Any:
        train = self._learner.data.train
        self._learner.begin_epoch(train, seeded=False)
        return train


class Losses:
    """The losses of a sweep: `raw`, of which only the last may be not finite, and `smooth`.

    Smoothed is the exponential average over about 50 steps, corrected for its start, as in fastai.
    The first `skip` steps do not count as divergence: the average of a few batches varies.
    """

    def __init__(self, skip: int = 0) -> None:
        self.skip = skip
        self.raw: list[float] = []
        self.smooth: list[float] = []
        self._average = 0.0

    def __len__(self) -> int:
        return len(self.raw)

    def add(self, loss: float) -> None:
        self.raw.append(loss)
        if math.isfinite(loss):
            self._average = _BETA * self._average + (1 - _BETA) * loss
            self.smooth.append(self._average / (1 - _BETA ** len(self.raw)))

    def end(self, *, stop_div: bool) -> str:
        """Why the sweep should end; empty if it should not."""
        if len(self.smooth) < len(self.raw):
            return f"loss {self.raw[-1]}"
        seen = self.smooth[self.skip :]
        if stop_div and seen and seen[-1] > _DIVERGED * min(seen):
            return "diverged"
        return ""


def _curve(name: str, losses: Losses, plan: Plan) -> RateCurve:
    if not losses.smooth:
        raise TrainingError(
            f"The loss of the first batch is {losses.raw[0]}, before any weight was updated, so no "
            "rate would help. Usual causes: inputs that are not finite or not normalised, weights "
            'that became NaN in an earlier fit, or fp16 (use mixed_precision="bf16" or "no").'
        )
    rising, n = _Rising(plan.start_lr, plan.end_lr), len(losses.smooth)
    lrs = [rising.multiplier(i / (plan.num_it - 1)) for i in range(n)]
    seen = slice(losses.skip, n - _LAST)
    found, missing = {}, {}
    for kind, suggest in plan.suggest.items() if len(lrs[seen]) >= _LEAST_POINTS else ():
        try:
            found[kind] = float(suggest(lrs[seen], losses.smooth[seen]))
        except NoSuggestionError as reason:
            missing[kind] = str(reason)
    early = losses.end(stop_div=plan.stop_div)
    end = f"{early} at {rate(lrs[-1])}" if early else "at the last rate"
    smooth, raw = tuple(losses.smooth), tuple(losses.raw)
    return RateCurve(name, tuple(lrs), smooth, raw, found, end, losses.skip, missing)


def _check_enough(curve: RateCurve, plan: Plan) -> None:
    if curve.suggestions:
        return
    if curve.missing:
        raise TrainingError(
            f"There is no suggestion: {'; '.join(curve.missing.values())}. Ask for a different "
            'one: learn.lr_find(suggest_funcs="valley").'
        )
    raise TrainingError(
        f"The sweep ended after {len(curve.raw)} of {plan.num_it} steps, {curve.end}: too soon "
        f"for a suggestion. Begin lower: learn.lr_find(start_lr={plan.start_lr / 1e3:.0e})."
    )
