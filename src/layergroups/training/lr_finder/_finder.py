"""The learning-rate finder: for all layer groups together, and for each alone.

Source: Smith 2017, «Cyclical Learning Rates for Training Neural Networks»: train while the rate
rises from step to step in equal ratios, and look where the loss falls and where it goes up again.
Beside the sweep of all groups, each group has one of its own while the others rest, since layers
of different depth bear different rates.

Batches for trials: read once, gone through many times; what frozen layers make of them, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from torch import Tensor, nn

from layergroups._forward import call_model, count_items, labelled
from layergroups._torch import tree_leaves
from layergroups.data import shards_of, starting_at
from layergroups.errors import TrainingError
from layergroups.reports import RateCurve
from layergroups.training.distributed import SINGLE_PROCESS
from layergroups.training.feature_cache import (
    FeatureCut,
    NoCutError,
    find_cut,
    foreign_hooks,
    run_frozen_part,
    run_rest,
)
from layergroups.training.hardware import to_device
from layergroups.training.loop import (
    FitContext,
    NotFiniteError,
    check_trainable,
    new_fit_context,
    train_step,
)
from layergroups.training.lr_finder._found_rates import FoundRates, NoSuggestionError, SuggestFunc
from layergroups.training.lr_finder._snapshot import Snapshot, restoring
from layergroups.training.state import evaluating

if TYPE_CHECKING:
    from layergroups.groups import LayerGroups
    from layergroups.training.state import LearnerState


class MemoryBudget:
    """A bound on the bytes that are kept.

    Args:
        limit: in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.left = limit

    def take(self, values: object) -> bool:
        """Whether these tensors may be kept; counts them if so."""
        size = sum(leaf.nbytes for leaf in tree_leaves(values) if isinstance(leaf, Tensor))
        if size > self.left:
            return False
        self.left -= size
        return True


class RepeatedBatches:
    """The training batches of the coming epoch, over and over, always the same ones.

    They are kept as they are read, up to `room`; what does not fit is read again in each round.

    Args:
        learner: whose batches.
        room: for what is kept.
    """

    def __init__(self, learner: LearnerState, room: MemoryBudget) -> None:
        self._learner = learner
        self._room = room
        self._kept: list[Any] = []
        self._open: Any = None
        self._read = 0
        self._whole = self._full = False

    def rounds(self) -> Iterator[tuple[int | None, Any]]:
        """Without end: batches with a number, None for one that may be another in the next round.

        Raises:
            TrainingError: there are no items in them.
        """
        while True:
            number = -1
            for number, batch in enumerate(self.round()):
                yield (number if number < len(self._kept) else None), batch
            if number < 0:
                raise TrainingError(
                    "There are no training batches to try anything on. Give photos: learn.dls = "
                    "ImageDataLoaders.from_folder(...)."
                )

    def round(self) -> Iterator[Any]:
        """Each batch once."""
        number = 0
        while number < len(self._kept) or self._read_on():
            yield self._kept[number]
            number += 1
        if self._full:
            yield from self._rest()

    def first(self, most: int) -> list[Any]:
        """The first batches of a round, at most so many and as many as there is room for."""
        while len(self._kept) < most and self._read_on():
            pass
        return self._kept[:most]

    def close(self) -> None:
        """Let go of what was being read."""
        if hasattr(self._open, "close"):
            self._open.close()

    def _read_on(self) -> bool:
        """Keep one more batch, if there is one and room for it."""
        if self._open is None:
            self._learner.begin_epoch(self._learner.data.train, seeded=False)
            self._open = iter(self._learner.data.train)
        while not (self._whole or self._full):
            batch = next(self._open, None)
            if batch is None:
                self._whole = True
            elif not count_items(batch):
                self._read += 1
            elif self._room.take(batch):
                self._kept.append(batch)
                self._read += 1
                return True
            else:
                self._full = True
                self.close()
        return False

    def _rest(self) -> Iterator[Any]:
        """What is not kept, read again."""
        train = self._learner.data.train
        self._learner.begin_epoch(train, seeded=False)
        rest = starting_at(train, self._read)
        yield from (batch for batch in rest if count_items(batch))


class Shortcut:
    """The way of each batch through the model, on which frozen layers run only once.

    Args:
        learner: frozen as it is to be.
        batch: one of them, to find the way.
        room: for what is kept.
    """

    def __init__(self, learner: LearnerState, batch: Any, room: MemoryBudget) -> None:
        self._model: nn.Module = learner.groups.model
        self._kept: dict[int, list[Tensor]] = {}
        self._room = room
        self.passage = _passage(learner, batch)

    def way(self, number: int | None) -> Callable[..., Any]:
        """From the inputs of a batch to the model's outputs.

        Args:
            number: of the batch, as `rounds` has it.
        """
        passage = self.passage
        if passage is None or number is None:
            return partial(call_model, self._model)

        def forward(inputs: Any) -> Any:
            values = self._kept.get(number)
            if values is None:
                with evaluating(self._model):
                    (values,) = run_frozen_part(self._model, [passage], inputs)
                if self._room.take(values):
                    self._kept[number] = values
            return run_rest(self._model, passage, values)

        return forward

    def forget(self) -> None:
        """Give the room back."""
        for values in self._kept.values():
            self._room.left += sum(value.nbytes for value in values)
        self._kept.clear()


def _passage(learner: LearnerState, batch: Any) -> FeatureCut | None:
    """Where the frozen layers end, if what they give can stand for them."""
    groups = learner.groups
    paths = [] if groups.norms_train else _below(groups)
    if not paths:
        return None
    inputs, _ = labelled(to_device(batch, learner.accelerator.device))
    try:
        with learner.accelerator.autocast():
            cut = find_cut(groups.model, paths, inputs)
    except NoCutError:
        return None
    return None if foreign_hooks(groups.model, cut) else cut


def _below(groups: LayerGroups) -> list[str]:
    """Paths of the modules of resting groups before the first one that trains."""
    rests = [frozen or rate == 0 for frozen, rate in zip(groups.frozen, groups.rates, strict=True)]
    first = rests.index(False) if False in rests else 0
    layers = {layer for group in groups[:first] for layer in group.layers}
    resting = set(groups.inactive_modules(groups.inactive))

    def is_below(module: nn.Module) -> bool:
        return all(m in layers for m in module.modules() if not any(m.children()))

    named = groups.model.named_modules()
    return [path for path, module in named if module in resting and is_below(module)]


_LEAST_STEPS: Final = 20


_LEAST_POINTS: Final = 4


_LAST: Final = 5  # steps that the suggestions do not look at


_DIVERGED: Final = 4.0  # times the lowest loss


_BETA: Final = 0.98


@dataclass(frozen=True)
class Rising:
    """A schedule: the rate rises in equal ratios.

    Attributes:
        first: the first multiplier.
        last: the last multiplier.
    """

    first: float
    last: float

    def multiplier(self, t: float) -> float:
        """`first` at 0, `last` at 1."""
        return self.first * math.pow(self.last / self.first, t)

    def momentum(self, t: float) -> float | None:
        """The optimizer's own."""
        return None


@dataclass(frozen=True)
class Plan:
    """What `lr_find` was asked for, checked.

    Attributes:
        start_lr: the first rate.
        end_lr: the last rate.
        num_it: steps of the optimizer in each sweep.
        stop_div: end a sweep when the smoothed loss is four times its lowest.
        suggest: suggestions by name.
    """

    start_lr: float
    end_lr: float
    num_it: int
    stop_div: bool
    suggest: Mapping[str, SuggestFunc]

    def __post_init__(self) -> None:
        for name, value in (("start_lr", self.start_lr), ("end_lr", self.end_lr)):
            if not isinstance(value, (int, float)) or not 0 < value < math.inf:
                raise TrainingError(f"{name}={value!r} must be a rate above 0. {_USUAL}")
        if self.start_lr >= self.end_lr:
            raise TrainingError(
                f"start_lr={self.start_lr:g} must be below end_lr={self.end_lr:g}. {_USUAL}"
            )
        whole = isinstance(self.num_it, int) and not isinstance(self.num_it, bool)
        if not whole or self.num_it < _LEAST_STEPS:
            raise TrainingError(
                f"num_it={self.num_it!r} must be a whole number of steps, {_LEAST_STEPS} or more: "
                f"fewer make no curve. {_USUAL}"
            )


_USUAL: Final = "The usual sweep is learn.lr_find(start_lr=1e-7, end_lr=10, num_it=100)."


def find_rates(
    learner: LearnerState,
    plan: Plan,
    by_group: bool | Sequence[str | int] = True,
    *,
    memory: int = 1 << 30,
) -> FoundRates:
    """Sweep all groups together, then each alone; afterwards everything is as before.

    Args:
        learner: frozen groups rest in every sweep.
        plan: of each sweep.
        by_group: whether groups are also tried alone, or which.
        memory: bytes of batches and outputs of frozen layers that may be kept.

    Raises:
        TrainingError: nothing trains, or the loss is not finite or diverges from the first steps.
    """
    groups = learner.layer_groups
    check_trainable(groups)
    training = [g.name for g in groups if not g.frozen and g.lr > 0 and _trains(g)]
    chosen = _chosen(learner, by_group, training)
    highest = max(groups[name].lr for name in training)
    relation = {name: groups[name].lr / highest for name in training}
    with restoring(learner) as moment:
        finder = _Finder(moment, plan, memory)
        with closing(finder.batches):
            together = finder.sweep("all", highest)
            _check_enough(together, plan)
            if len(training) == 1:
                alone = {name: replace(together, name=name) for name in chosen}
            else:
                alone = {name: finder.sweep_alone(name) for name in chosen}
    resting = tuple(name for name in groups.names if name not in training)
    return FoundRates(together, alone, relation, resting, tuple(plan.suggest))


def _trains(group: Any) -> bool:
    return any(parameter.requires_grad for parameter in group.parameters())


def _chosen(
    learner: LearnerState, by_group: bool | Sequence[str | int], training: Sequence[str]
) -> list[str]:
    """Names of the groups to try alone, in their order.

    Raises:
        TrainingError: one of them does not train.
        GroupingError: there is no such group.
    """
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
            f"by_group names {', '.join(frozen)}, frozen or at rate 0. Thaw first: "
            f"learn.unfreeze({', '.join(map(repr, frozen))})."
        )
    return [name for name in training if name in names]


class _Finder:
    """Sweeps one after another, each from the same state over the same batches.

    Args:
        moment: the state.
        plan: of each sweep.
        memory: bytes that may be kept.
    """

    def __init__(self, moment: Snapshot, plan: Plan, memory: int) -> None:
        self.moment = moment
        self.learner = moment.learner
        self.plan = plan
        self.room = MemoryBudget(memory)
        self.batches = RepeatedBatches(self.learner, self.room)

    @cached_property
    def example(self) -> Any:
        """The first batch."""
        return next(self.batches.rounds())[1]

    def sweep_alone(self, name: str) -> RateCurve:
        """Train one group while all others rest."""
        self.moment.rewind()
        groups = self.learner.groups
        groups.freeze(*(other for other in groups.names if other != name), norm="freeze")
        return self.sweep(name, groups[name].lr)

    def sweep(self, name: str, base: float) -> RateCurve:
        """Train what is not frozen while the rates rise.

        Args:
            name: of the sweep.
            base: the highest rate of the groups.
        """
        learner, plan = self.learner, self.plan
        learner.begin_epoch(learner.data.train)
        rising = Rising(plan.start_lr / base, plan.end_lr / base)
        run = new_fit_context(learner, 1, rising, "lr_find")
        run.steps = run.epoch_steps = plan.num_it - 1  # so that the last step has the last rate
        shortcut = Shortcut(learner, self.example, self.room)
        steps, losses = Steps(run, self.batches.rounds(), shortcut), Losses(plan.num_it // 10)
        with learner.reporter.bar(f"rates of {name}", plan.num_it) as bar:
            while len(losses) < plan.num_it and not losses.end(stop_div=plan.stop_div):
                losses.add(steps.step())
                bar.advance(losses.raw[-1])
        shortcut.forget()
        return _curve(name, losses, plan)


class Steps:
    """Steps of the optimizer, each by the next batches.

    Args:
        run: a fit in progress.
        rounds: numbered batches without end, as those of `TrialBatches`.
        shortcut: for frozen layers.
    """

    def __init__(
        self, run: FitContext, rounds: Iterator[tuple[int | None, Any]], shortcut: Shortcut
    ) -> None:
        self.run = run
        self._rounds = rounds
        self._shortcut = shortcut

    def step(self) -> float:
        """Take one; the mean loss of its batches, before the weights moved."""
        run, losses, before = self.run, [], self.run.step
        try:
            while run.step == before:
                number, batch = next(self._rounds)
                (run.share,) = shards_of([batch], SINGLE_PROCESS)
                run.inputs, run.targets = labelled(to_device(batch, run.accelerator.device))
                run.forward_override = self._shortcut.way(number)
                train_step(run)
                losses.append(float(run.loss.detach()))
        except NotFiniteError as error:
            return error.value
        return sum(losses) / len(losses)


class Losses:
    """The losses of a sweep, as they come and smoothed.

    Smoothed is the exponential average over about 50 steps, free of the bias of its start, as in
    fastai.

    Args:
        skip: steps at the start that say nothing of divergence: batches differ, and the average of
            a few is not even yet.

    Attributes:
        raw: as they came; one that is not finite is the last.
        smooth: the averages, all finite.
    """

    def __init__(self, skip: int = 0) -> None:
        self.skip = skip
        self.raw: list[float] = []
        self.smooth: list[float] = []
        self._average = 0.0

    def __len__(self) -> int:
        return len(self.raw)

    def add(self, loss: float) -> None:
        """Take in the next one."""
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
    """The sweep as data, with its suggestions.

    Raises:
        TrainingError: not even the first loss was finite.
    """
    if not losses.smooth:
        raise TrainingError(
            f"The loss of the first batch is {losses.raw[0]}, before any weight has moved, so no "
            "rate would help. Usual causes: inputs that are not finite or not normalised, weights "
            'that an earlier fit has spoilt, or fp16 (use mixed_precision="bf16" or "no").'
        )
    rising, n = Rising(plan.start_lr, plan.end_lr), len(losses.smooth)
    lrs = [rising.multiplier(i / (plan.num_it - 1)) for i in range(n)]
    seen = slice(losses.skip, n - _LAST)
    points = lrs[seen], losses.smooth[seen]
    enough = len(points[0]) >= _LEAST_POINTS
    found, missing = _suggested(plan.suggest, *points) if enough else ({}, {})
    reason = losses.end(stop_div=plan.stop_div)
    end = f"{reason} at {lrs[-1]:.1e}" if reason else "at the last rate"
    smooth, raw = tuple(losses.smooth), tuple(losses.raw)
    return RateCurve(name, tuple(lrs), smooth, raw, found, end, losses.skip, missing)


def _suggested(
    kinds: Mapping[str, SuggestFunc], rates: Sequence[float], losses: Sequence[float]
) -> tuple[dict[str, float], dict[str, str]]:
    """A rate by each kind of suggestion, or the reason why there is none."""
    found, missing = {}, {}
    for kind, suggest in kinds.items():
        try:
            found[kind] = float(suggest(rates, losses))
        except NoSuggestionError as reason:
            missing[kind] = str(reason)
    return found, missing


def _check_enough(curve: RateCurve, plan: Plan) -> None:
    """The sweep of all groups must go far enough for a suggestion.

    Raises:
        TrainingError: it diverged in its first steps, or has no suggestion of a kind asked for.
    """
    if curve.suggestions:
        return
    if curve.missing:
        raise TrainingError(
            f"There is no suggestion: {'; '.join(curve.missing.values())}. Ask for another: "
            'learn.lr_find(suggest_funcs="valley").'
        )
    raise TrainingError(
        f"The sweep ended after {len(curve.raw)} of {plan.num_it} steps, {curve.end}: too soon "
        f"for a suggestion. Begin lower: learn.lr_find(start_lr={plan.start_lr / 1e3:.0e})."
    )
