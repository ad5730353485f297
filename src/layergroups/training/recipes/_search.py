"""`learn.search`: variants of the recipe, compared on cached outputs of the frozen layers.

The frozen layers run once; each trial trains from what they gave, at the place from which it trains
(a trial that freezes two groups reads what is cached after the second). Heads compete in three
rounds, of a sixteenth, a quarter and all of the steps; the best quarter of each enters the next.
The best is tuned with some depths and rates. All are ranked by one held-out part of the training
items. A second part, which ranked nothing, judges the finalists; the default recipe is always among
them, and stays unless a different one is better on both. Validation items decide nothing.
The heads of the first round are those of a grid, or what an optuna study asks for.

Source: Jamieson and Talwalkar, "Non-stochastic Best Arm Identification" (2016), for the halving.
"""

from __future__ import annotations

import logging
import math
import random
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Final

import torch
from rich.table import Table
from torch import Tensor

from layergroups import _drawing as drawing
from layergroups._checks import number, whole_number
from layergroups._drawing import Figure
from layergroups._formatting import Printable, count, duration, figure, table
from layergroups._forward import labelled, tensor_of
from layergroups._interrupts import interrupts, is_termination, uninterrupted
from layergroups._random import mixed
from layergroups.data import items_in
from layergroups.errors import TrainingError
from layergroups.tasks import item_losses, stratified_split
from layergroups.training.feature_cache import (
    UNVARIED,
    Boundary,
    CacheEntry,
    FeatureCache,
    run_rest,
    why_not,
)
from layergroups.training.hardware import to_device
from layergroups.training.loop import FitContext, Snapshot, fit
from layergroups.training.recipes._fine_tune import phases_of
from layergroups.training.recipes._held_out import (
    Weights,
    between,
    copied,
    forget_moments,
    item_errors,
    put,
    strata,
    trained_tensors,
)
from layergroups.training.recipes._phases import (
    FineTuneDefaults,
    FitSetup,
    Phase,
    without_head_dropout,
)
from layergroups.training.recipes._plan import FineTunePlan
from layergroups.training.recipes._train_head import (
    HeadDecay,
    HeadFeatures,
    Passes,
    Trainings,
    fill_cache,
)
from layergroups.training.state import evaluating

if TYPE_CHECKING:
    from layergroups.training.state import LearnerState

_log = logging.getLogger("layergroups")
_RANKING: Final = 0.2  # of the training items
_JUDGING: Final = 0.15
_LEAST: Final = 16  # items in each part
_RATES: Final = (1, 0.25, 0.5, 2)  # factors on `base_lr`
_DECAYS: Final = (1, 0.1, 3)  # on `head_decay`
_RATIOS: Final = (1, 3, 0.3)  # on `unfrozen_ratio`
_ROUNDS: Final = (16, 4, 1)  # of heads: each has the steps of the recipe, divided by this
_STAGES: Final = ("head, 1/16", "head, 1/4", "head")  # their names
_FINAL: Final = ("tuned", "head")  # stages of trials with all of the steps
_TUNED: Final = 10  # one of so many trials is tuned beyond the head
_FIRST_VIEW: Final = 1 << 21  # number of the augmented view; those of fits are others


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One variant of the recipe, and what held-out training items say of it.

    Attributes:
        stage: "head, 1/16", a head for so many of the steps; "head"; or "tuned", groups below it
            too.
        changes: what differs from the default recipe; empty for that itself.
        error: mean over the ranking items: of one class each, the part predicted wrong; else the
            loss.
        loss: mean over the ranking items.
        judged: error on the judging items; None if it was not among the finalists.
        seconds: the time that it took.
    """

    stage: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    error: float
    loss: float
    judged: float | None = None
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """What differs from the default recipe."""
        shown = {n: f"{v:g}" if isinstance(v, float) else v for n, v in self.changes.items()}
        return ", ".join(f"{name}={value}" for name, value in shown.items()) or "default"

    @property
    def facts(self) -> dict[str, Any]:
        """The fields as JSON-ready values, without the time, which differs from run to run."""
        return {name: value for name, value in asdict(self).items() if name != "seconds"}


@dataclass(frozen=True, kw_only=True)
class SearchResult(Printable):
    """What `learn.search` has tried; prints as a table, the best first.

    Attributes:
        trials: in the order in which they ran.
        plan: of the recipe that was chosen.
        reason: why.
        interrupted: whether Ctrl-C ended the search early.
        seconds: the time of the search, without the fine-tuning that follows.
    """

    trials: tuple[Trial, ...]
    plan: FineTunePlan
    reason: str
    interrupted: bool = False
    seconds: float = 0.0
    _columns = 120

    def __rich__(self) -> Table:
        ranked = sorted(self.trials, key=lambda t: (t.judged is None, "/" in t.stage, t.error))
        rows = [
            (t.text, t.stage, *map(figure, (t.error, t.loss, t.judged)), duration(t.seconds))
            for t in ranked
        ]
        headings = ("trial", "stage", "error", "loss", "judged", "time")
        return table(headings, rows, left=("stage",), caption=self.reason)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON-ready values."""
        trials = [asdict(trial) for trial in self.trials]
        return {**asdict(self), "trials": trials, "plan": self.plan.to_dict()}

    @property
    def figure(self) -> Figure:
        """The errors of all trials, stage by stage."""
        made = drawing.new_figure(8.0, 3.6, "Trials of the search", self.reason)
        axes = made.subplots()
        colours = (drawing.FAINT, drawing.GREY, drawing.INK, drawing.ORANGE)
        for stage, colour in zip(
            dict.fromkeys(t.stage for t in self.trials), colours, strict=False
        ):
            own = [(i, t.error) for i, t in enumerate(self.trials) if t.stage == stage]
            if own:
                axes.plot(*zip(*own, strict=True), "o", color=colour, label=stage)
        final = [(i, t.judged) for i, t in enumerate(self.trials) if t.judged is not None]
        if final:
            axes.plot(*zip(*final, strict=True), "D", mfc="none", color=drawing.INK, label="judged")
        drawing.style_axes(axes, "trial", "error on held-out items")
        axes.legend(frameon=False)
        return made


def seconds_of(budget: str | float) -> float:
    """Seconds of a budget such as "20 min", "90 s", "1.5 h", or a number of seconds."""
    units = {"s": 1, "min": 60, "h": 3600}
    found = (
        re.fullmatch(r"\s*(\d+\.?\d*)\s*(s|min|h)\s*", budget) if isinstance(budget, str) else None
    )
    if isinstance(budget, str) and not found:
        raise TrainingError(f'budget={budget!r} must be a time, such as budget="20 min".')
    value = float(found[1]) * units[found[2]] if found else budget
    return number("budget", value, 0, 1e9, 1200, open_ends=True)


def search(
    learner: LearnerState,
    plan: FineTunePlan,
    *,
    trials: int = 30,
    budget: float | None = None,
    study: Any = None,
    choose_epochs: bool = False,
    cache_config: Any,
) -> SearchResult:
    """Try variants of a plan; the learner is as before afterwards.

    With a budget, heads are tried for a quarter of it and tuning for as much again, so that the
    rest is left for the fine-tuning; there may be as many trials as there is time for. With
    `choose_epochs` the plan has no more epochs than fit into that rest.
    """
    if learner.processes.is_distributed:
        raise TrainingError("search runs in one process; run it without torchrun, then fine_tune.")
    whole_number("trials", trials, 4, 30)
    directions = [d.name for d in getattr(study, "directions", ())]
    if study is not None and directions != ["MINIMIZE"]:
        raise TrainingError(
            f"study={study!r} must be an optuna study that minimises one loss: "
            "learn.search(study=optuna.create_study())."
        )
    started = time.perf_counter()
    bench = _Bench(learner, plan, cache_config, study)
    stopped = ""
    try:
        with interrupts():
            bench.run(trials, budget, started)
    except KeyboardInterrupt as cause:
        if is_termination(cause):
            raise
        stopped = "interrupted; "
        _log.warning(
            "The search ended after %s. Nothing was fine-tuned: "
            "learn.fine_tune(plan=learn.last_search.plan) trains with the best so far.",
            count(len(bench.trials), "trial"),
        )
    finally:
        with uninterrupted():
            bench.snapshot.restore()
    found, reason = bench.plan_of_the_best(stopped)
    if budget is not None and not stopped:
        spent = time.perf_counter() - started
        found = bench.within(found, budget, spent, choose_epochs=choose_epochs)
    return SearchResult(
        trials=tuple(bench.trials),
        plan=found,
        reason=reason,
        interrupted=bool(stopped),
        seconds=time.perf_counter() - started,
    )


class _Bench:
    """A learner on which trials run one after another, each from the same state."""

    def __init__(
        self, learner: LearnerState, plan: FineTunePlan, cache_config: Any, study: Any = None
    ) -> None:
        self.learner, self.plan, self.study = learner, plan, study
        self.rank, self.judge = _parts(learner)
        self.setup = FitSetup(cache=FeatureCache(), cache_config=cache_config, figures=plan.figures)
        self.trials: list[Trial] = []
        self._heads: dict[str, Weights] = {}  # by the text of a trial's changes
        self._results: dict[int, tuple[Tensor, Tensor]] = {}  # errors on both parts, by trial
        self.fill_seconds = 0.0
        self.advance: Callable[[float], None] = lambda loss: None  # a bar, after each trial
        learner.placed_model()
        self.snapshot = Snapshot(learner, weights=True)

    def figures(self, changes: Mapping[str, Any]) -> FineTuneDefaults:
        return replace(self.plan.figures, **{n: v for n, v in changes.items() if n != "epochs"})

    @property
    def usual_depth(self) -> int:
        """Frozen groups of the default trial: at least the first, whose outputs are cached."""
        return max(1, self.plan.figures.lowest)

    def run(self, trials: int, budget: float | None, started: float) -> None:
        """Make all trials, with a bar that counts them."""
        shown, limit = self.learner.reporter, math.inf if budget is None else budget / 4
        self.fill()
        n_tuned = max(1, trials // _TUNED)
        n_heads = self.heads_of(trials - n_tuned)
        n_tuned = self.tuned_of(n_tuned if budget is None else 99)
        n_trials = _n_trials(n_heads, n_tuned)
        if n_trials < trials and budget is None:
            _log.warning(
                "The search makes %d trials instead of %d: its grid has %s. An optuna study "
                "asks for as many as you like: learn.search(study=optuna.create_study()).",
                n_trials,
                trials,
                count(n_heads, "head"),
            )
        with shown.bar("search", n_trials) as bar:
            self.advance = bar.advance
            self.try_heads(n_heads, started + limit)
            self.try_tuning(n_tuned, started + 2 * limit)

    def fill(self) -> None:
        """Run the frozen layers once over the items as they are, and once augmented."""
        progress, started = self.learner.progress, time.perf_counter()
        run = self._begin(phases_of(self.plan)[0])
        self.learner.progress = progress  # it has a bar of its own
        reason = why_not(run)
        if not reason:
            epochs = [UNVARIED, *([_FIRST_VIEW] if self.learner.data.augmented else [])]
            n_groups = len(run.groups)
            also = [tuple(range(first)) for first in range(1, n_groups - 1)]
            reason = fill_cache(run, self.setup, epochs, also).reason
        if reason:
            raise TrainingError(f"search needs cached outputs of frozen layers, but {reason}.")
        self.fill_seconds = time.perf_counter() - started

    def heads_of(self, wanted: int) -> int:
        """How many heads there are to try; a study may ask for any number."""
        return wanted if self.study is not None else min(wanted, len(self._grid))

    def tuned_of(self, wanted: int) -> int:
        """How many variants to tune beside the default; 0 with no epochs or no cached inputs."""
        if self.plan.epochs and not self._depths:
            _log.warning(
                "The search tries heads only. It also tunes groups below the head where there are "
                "three layer groups or more, and the outputs of the first fit into "
                "learn.feature_cache."
            )
        possible = 2 * len(_RATIOS) * len(self._depths) - 1
        return max(0, min(wanted, possible)) if self.plan.epochs else 0

    def try_heads(self, n_heads: int, deadline: float) -> None:
        """Train heads in several rounds; the best quarter of each enters the next.

        After the deadline only the first trial, of the default, is made.
        """
        chosen: Iterable[dict[str, Any]]
        chosen = self._variants(n_heads) if self.study is None else self._asked(n_heads)
        for stage, divisor in zip(_STAGES, _ROUNDS, strict=True):
            for changes in chosen:
                if time.perf_counter() < deadline or not self.trials:
                    self._head(stage, changes, max(1, self.plan.figures.head_steps // divisor))
            done = sorted((t for t in self.trials if t.stage == stage), key=_rank)
            better = [dict(trial.changes) for trial in done if trial.changes]
            chosen = [{}, *better[: max(1, len(done) // 4)]]

    def try_tuning(self, n_tuned: int, deadline: float) -> None:
        """The default and the best heads, tuned from some depths with some rates."""
        if not n_tuned:
            return
        heads = sorted((t for t in self.trials if t.stage == "head"), key=_rank)
        best = [heads[0].changes, {}] if heads and heads[0].changes else [{}]
        wanted = [(head, d, r) for r in _RATIOS for d in self._depths for head in best]
        wanted.sort(key=lambda each: each != ({}, self.usual_depth, 1))
        for place, (head, depth, ratio) in enumerate(wanted[: 1 + n_tuned]):
            if time.perf_counter() < deadline or not place:
                self._tuned(head, depth, ratio)

    def plan_of_the_best(self, stopped: str = "") -> tuple[FineTunePlan, str]:
        """The plan of the recipe that was chosen, with all trials, and why it was chosen."""
        best, reason = self.chosen()
        changes = {} if best is None else best.changes
        reasons = {**self.plan.reasons, "search": stopped + reason}
        epochs = changes.get("epochs", self.plan.epochs)
        if epochs != self.plan.epochs:
            reasons["epochs"] = "by the search: a head alone was better than with all groups tuned"
        trials = tuple(trial.facts for trial in self.trials)
        figures = self.figures(changes)
        made = replace(self.plan, figures=figures, epochs=epochs, reasons=reasons, search=trials)
        return made, stopped + reason

    def within(
        self, plan: FineTunePlan, budget: float, spent: float, *, choose_epochs: bool
    ) -> FineTunePlan:
        """The plan with as many epochs as fit into a budget, at least one; says if it is short."""
        head, epoch = self._seconds_to_tune(plan.figures)
        left = budget - spent - head
        if choose_epochs and left < plan.epochs * epoch:
            reason = f"as many as fit into the budget, of about {duration(epoch)} each"
            fewer, usual = max(1, int(left / epoch)), plan.epochs
            plan = replace(plan, epochs=fewer, reasons={**plan.reasons, "epochs": reason})
            _log.warning("%s instead of %d: %s.", count(fewer, "epoch"), usual, reason)
        needed = head + plan.epochs * epoch
        if spent + needed > budget:
            _log.warning(
                "A budget of %s is too short: the search took %s, and the fine-tuning takes about "
                '%s. Give budget="%d s" or more.',
                *map(duration, (budget, spent, needed)),
                math.ceil(max(spent + needed, 2 * needed)),  # the search may take half of it
            )
        return plan

    def _seconds_to_tune(self, figures: FineTuneDefaults) -> tuple[float, float]:
        """About how long the head's phase of `fine_tune` takes, and an epoch of the second one."""
        rounds = dict(zip(_STAGES, _ROUNDS, strict=True))
        heads = [t.seconds * rounds[t.stage] for t in self.trials if t.stage in rounds]
        one_pass = self.fill_seconds / (1 + self.learner.data.augmented)
        tuned = [trial.seconds for trial in self.trials if trial.stage == "tuned"]
        views = 1 + (self.learner.data.augmented and figures.augmented)
        used = views * (1 - _RANKING - _JUDGING)  # passes of a tuned trial
        epoch = one_pass + max(tuned) / used if tuned else 3 * one_pass  # with the backward pass
        return self.fill_seconds + heads[-1], epoch

    def chosen(self) -> tuple[Trial | None, str]:
        """The trial that the judging items chose, None for the default recipe, and why."""
        usual, others = self._compared()
        if usual is None:
            return None, "the default recipe, because the search ended before it was tried"
        for i in (usual, *others):
            judged = float(self._results[i][1].mean())
            self.trials[i] = replace(self.trials[i], judged=judged)
        better = [i for i in others if self._better(i, usual)]
        if not others:
            return None, "the default recipe: its error was the smallest"
        if not better:
            return None, f"the default recipe: none of {len(others)} others was clearly better"
        best = min(better, key=lambda i: (self.trials[i].judged, self.trials[i].error))
        trial, ours = self.trials[best], self.trials[usual]
        if trial.stage == "head" and ours.stage == "tuned":
            trial = replace(trial, changes={**trial.changes, "epochs": 0})
        text = f"error {trial.judged:.3g} instead of {ours.judged:.3g} on judging items"
        early = f", as {trial.stage}" if trial.stage not in _FINAL else ""
        return trial, f"{trial.text}: {text}{early}"

    def _compared(self) -> tuple[int | None, list[int]]:
        """The last trial of the default, and finalists for it: of a round, if there is no later."""
        usual = None
        for stages in (_FINAL, *((name,) for name in reversed(_STAGES[:-1]))):
            own = [i for i, trial in enumerate(self.trials) if trial.stage in stages]
            default = [i for i in own if not self.trials[i].changes]
            others = [i for i in self._finalists(own) if default and i != default[-1]]
            if others:
                return default[-1], others
            usual = default[-1] if default and usual is None else usual
        return usual, []

    def _finalists(self, own: Sequence[int]) -> list[int]:
        """The best of these trials: of those of the last stages three tuned ones, and one head."""
        order = sorted(own, key=lambda i: _rank(self.trials[i]))
        heads = [i for i in order if self.trials[i].stage == "head"]
        return [*[i for i in order if i not in heads][:3], *heads[:1]]

    def _better(self, one: int, usual: int) -> bool:
        mine, ours = self._results[one], self._results[usual]
        together = float(torch.cat(mine).mean()), float(torch.cat(ours).mean())
        return together[0] < together[1] and float(mine[1].mean()) < float(ours[1].mean())

    @property
    def _depths(self) -> list[int]:
        """How many groups a tuned trial can leave frozen: those whose outputs are cached."""
        cached = self.setup.cache.entries
        return sorted(len(b) for b in cached if len(b) < len(self._groups) - 1)

    @property
    def _groups(self) -> Any:
        return self.learner.layer_groups

    @property
    def _grid(self) -> list[tuple[float, float, bool]]:
        varied = self.learner.data.augmented and self.plan.figures.augmented
        return list(product(_RATES, _DECAYS, (True, False) if varied else (True,)))

    def _variants(self, n_heads: int) -> list[dict[str, Any]]:
        """The default, and so many others of the grid, in an order that depends on the seed."""
        usual, others = self.plan.figures, []
        for rate, decay, varied in self._grid[1:]:
            changes: dict[str, Any] = {} if rate == 1 else {"base_lr": rate * usual.base_lr}
            changes |= {} if decay == 1 else {"head_decay": decay * usual.head_decay}
            others.append(changes | ({} if varied else {"augmented": False}))
        random.Random(mixed(self.learner.epoch_seed(), "search")).shuffle(others)
        return [{}, *others[: n_heads - 1]]

    def _asked(self, n_heads: int) -> Iterator[dict[str, Any]]:
        """The default, and what the study asks for, which then learns the loss of that head."""
        from optuna.trial import TrialState

        yield {}
        usual = self.plan.figures
        for _ in range(n_heads - 1):
            asked = self.study.ask()
            rate = asked.suggest_float("base_lr", usual.base_lr / 8, usual.base_lr * 4, log=True)
            decay = usual.head_decay
            decay = asked.suggest_float("head_decay", decay / 10, decay * 10, log=True)
            changes: dict[str, Any] = {"base_lr": rate, "head_decay": decay}
            if self.learner.data.augmented and usual.augmented:
                changes["augmented"] = asked.suggest_categorical("augmented", (True, False))
            yield changes
            done = [trial.loss for trial in self.trials if trial.changes == changes]
            if not done:  # the time was up
                self.study.tell(asked, state=TrialState.FAIL)
                return
            self.study.tell(asked, done[-1])

    def _begin(self, phase: Phase) -> FitContext:
        """A fit of one epoch from the state of the learner before the search."""
        learner = self.learner
        self.snapshot.rewind()
        learner.progress, learner._noted_kept = False, True
        phase.apply(self._groups)
        torch.manual_seed(mixed(learner.epoch_seed(), "search"))
        run = FitContext(learner, 1, phase.schedule, "search", [*without_head_dropout(phase)])
        run.valid, run.accumulate = None, 1
        return run

    def _train(
        self, run: FitContext, figures: FineTuneDefaults, boundary: Boundary, size: int
    ) -> CacheEntry:
        """Train on what is cached at a boundary, without the held-out items."""
        entry, data = self.setup.cache.entries[boundary], self.learner.data
        assert entry.train is not None
        views = entry.train.views if figures.augmented else 1
        left_out = (*self.rank, *self.judge)
        seed, weights = self.learner.epoch_seed(), data.sampling_weights
        rows = Trainings((Passes.of(entry.train, left_out, views, size, figures, seed, weights),))
        run.features = HeadFeatures(self.setup, boundary, entry, rows, 1)
        run.batches = rows
        fit(run)
        return entry

    def _head(self, stage: str, changes: Mapping[str, Any], steps: int) -> None:
        started = time.perf_counter()
        figures = replace(self.figures(changes), head_steps=steps, head_passes=1)
        run = self._begin(phases_of(replace(self.plan, figures=figures))[0])
        run.callbacks = [HeadDecay(figures.head_decay)]
        size = (self.learner.data.batch_size or 64) * self.learner.accumulate
        entry = self._train(run, figures, run.groups.inactive, size)
        self._heads[str(changes)] = copied(trained_tensors(run))
        self._add(run, entry, stage, changes, started)

    def _tuned(self, head: Mapping[str, Any], depth: int, ratio: float) -> None:
        started = time.perf_counter()
        changes = dict(head)
        if ratio != 1:
            changes["unfrozen_ratio"] = ratio * self.plan.figures.unfrozen_ratio
        if depth != self.usual_depth:
            changes["lowest"] = depth
        figures = replace(self.figures(changes), lowest=depth, head_steps=1, head_passes=1)
        phase = phases_of(replace(self.plan, figures=figures, rates=()))[-1]
        run = self._begin(phase)
        tensors = trained_tensors(run)
        put(tensors, self._heads[str(head)])
        forget_moments(run, tensors)
        before = copied(tensors)
        size = phase.batch_size(self.learner) or self.learner.data.batch_size or 64
        entry = self._train(run, figures, tuple(range(depth)), size)
        if figures.interpolate:
            put(tensors, between(before, copied(tensors), figures.usual_interpolation))
        self._add(run, entry, "tuned", changes, started)

    def _add(
        self,
        run: FitContext,
        entry: CacheEntry,
        stage: str,
        changes: Mapping[str, Any],
        started: float,
    ) -> None:
        errors, losses = self._errors(run, entry, self.rank)
        self._results[len(self.trials)] = errors, self._errors(run, entry, self.judge)[0]
        self.trials.append(
            Trial(
                stage=stage,
                changes=dict(changes),
                error=float(errors.mean()),
                loss=float(losses.mean()),
                seconds=time.perf_counter() - started,
            )
        )
        self.advance(self.trials[-1].loss)

    def _errors(
        self, run: FitContext, entry: CacheEntry, items: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """The error and the loss of each of these items as it is, float (N,)."""
        errors, losses = zip(*self._in_chunks(run, entry, items), strict=True)
        return torch.cat(errors), torch.cat(losses)

    def _in_chunks(
        self, run: FitContext, entry: CacheEntry, items: Sequence[int]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        assert entry.train is not None
        assert entry.cut is not None
        learner = self.learner
        with evaluating(run.model):
            for positions in torch.tensor(items).split(256):
                batch = entry.train.read(torch.zeros_like(positions), positions)
                values, targets = labelled(to_device(batch, run.accelerator.device))
                with run.accelerator.autocast():
                    outputs = tensor_of(run_rest(run.model, entry.cut, values)).float()
                outputs = learner.task.fitted(outputs, targets)
                losses = item_losses(learner.loss_func, outputs, targets).double().cpu()
                yield item_errors(outputs.cpu(), targets.cpu(), losses), losses


def _n_trials(n_heads: int, n_tuned: int) -> int:
    """The most trials that a search makes: heads in three rounds, and tuned ones."""
    second = 1 + max(1, n_heads // 4)
    third = 1 + max(1, second // 4)
    return n_heads + second + third + (1 + n_tuned if n_tuned else 0)


def _rank(trial: Trial) -> tuple[float, float]:
    return trial.error, trial.loss


def _parts(learner: LearnerState) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Training items that rank trials, and others that judge the finalists; of every class."""
    n = items_in(learner.data.train) or 0
    labels = strata(learner.data, n)
    rest, judge = stratified_split(labels, _JUDGING, seed=1)
    part = _RANKING / (1 - _JUDGING)
    _, among = stratified_split([labels[i] for i in rest], part, seed=2)
    rank = tuple(rest[i] for i in among)
    if min(len(rank), len(judge)) < _LEAST:
        raise TrainingError(
            f"search ranks by held-out training items, and {n:,} training items are too few for "
            "that. Use learn.fine_tune(3)."
        )
    return rank, judge
