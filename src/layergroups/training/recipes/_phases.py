"""Phases: what trains, for how long and at which rates. Every fit is a list of phases."""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypedDict, TypeVar, get_type_hints

from torch import nn

from layergroups._checks import number, text, whole_number
from layergroups._suggestions import unknown_argument
from layergroups._torch import DropoutBase
from layergroups.data import items_in
from layergroups.groups import LayerGroups, Rate
from layergroups.training.callbacks import EMA, CheckpointConfig, Checkpointer, fit_signature
from layergroups.training.feature_cache import CachedEpochs, FeatureCache, FeatureCacheConfig
from layergroups.training.loop import FitContext, fit
from layergroups.training.optim import FlatCos, OneCycle, Schedule
from layergroups.training.recipes._held_out import MORE_RATE, MORE_STEPS, ChooseWeights, HeldOut
from layergroups.training.state import EpochRow, History

if TYPE_CHECKING:
    from layergroups.training.state import LearnerState


class FitOptions(TypedDict, total=False):
    """The options of every fit.

    Attributes:
        callbacks: for this fit only; called before those of the learner.
        feature_cache: False runs the frozen layers in every epoch. Otherwise their outputs are
            computed once and cached, so that later epochs cost little more than what trains.
        checkpoint_dir: save the whole state here after each epoch; each fit of the learner has its
            own subfolder.
        checkpoint_every: also save every this many optimizer steps.
        resume: continue from the newest valid checkpoint there. A script in which every fit has
            `resume=True` can be killed at any time and restarted: its result is bit for bit that of
            an uninterrupted run.
    """

    callbacks: Sequence[object] | None
    feature_cache: bool
    checkpoint_dir: str | Path | None
    checkpoint_every: int | None
    resume: bool


DEFAULTS: Final[FitOptions] = {
    "callbacks": (),
    "feature_cache": True,
    "checkpoint_dir": None,
    "checkpoint_every": None,
    "resume": False,
}
_log = logging.getLogger("layergroups")
_P = ParamSpec("_P")
_R = TypeVar("_R")


def takes_fit_options(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """List the options of a fit in help() and completion, and refuse unknown ones."""
    own = inspect.signature(method)
    kinds = get_type_hints(FitOptions)
    parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    for name, value in DEFAULTS.items():
        kind = inspect.Parameter.KEYWORD_ONLY
        parameters.append(inspect.Parameter(name, kind, default=value, annotation=kinds[name]))
    signature = own.replace(parameters=parameters)

    @functools.wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        for name in kwargs:
            if name not in signature.parameters:
                known = [known for known in signature.parameters if known != "self"]
                raise unknown_argument(f"Learner.{method.__name__}", name, known)
        return method(*args, **kwargs)

    call.__signature__ = signature  # type: ignore[attr-defined] # what inspect.signature reads
    return call


@dataclass(frozen=True, kw_only=True)
class FineTuneDefaults:
    """All settings of `fine_tune`, chosen by measurement on several data sets.

    Attributes:
        base_lr: rate of the head in the first phase.
        unfrozen_ratio: rate of the last group in the second phase, as a part of base_lr. Without
            `defaults` it is 0.5 for a decoder of masks, 0.15 for other heads of several layers; and
            texts have base_lr 4e-3, unfrozen_ratio 0.025 and head_steps 400, and lowest 1 if the
            first group has the embeddings alone (fewer than 1000 texts: unfrozen_ratio 0.075,
            spread 0.03, lowest larger by one); masks have head_steps 100 and head_passes 1.
        spread: rate of the first group in the second phase, as a part of that of the last group;
            those between are spread in equal ratios.
        lowest: the first layer group that trains in the second phase; 0 trains all. 1 leaves the
            early group frozen, so that its outputs are cached too, in the passes of the first
            phase, and later epochs need not compute them. All groups train if no layer of the body
            would train otherwise, if the network has no pretrained weights, or if its images do not
            have 3 channels.
        passes: passes over the cached outputs for each epoch of the second phase, if a group stays
            frozen; each pass uses different views of the items.
        views: views of each training item for one frozen epoch: one as it is, the others augmented.
            They also serve the layers that stay frozen in the second phase; if
            `FeatureCacheConfig.views` is larger, it adds more.
        augmented: whether training items are augmented, if the data are; else all epochs see them
            as validation items are.
        head_steps: least optimizer steps of the head on its cached inputs.
        head_passes: least passes of the head over its cached inputs.
        head_decay: factor on the weight decay of the learner while the head trains alone.
        least_steps: steps that the second phase should have; if it has fewer, its batches are
            halved, as often as that helps, but not below `least_batch` items.
        least_batch: see `least_steps`.
        head_dropout: whether the dropout layers of the head act in the second phase too. They keep
            the head from relying on a few features; the body would have to follow their noise.
        interpolate: end between the weights of the head's phase and the last ones; see `hold_out`.
        usual_interpolation: where between the end lies, unless held-out items speak against it; 0
            are the weights of the head's phase, 1 the last ones.
        hold_out: part of the training items that chooses how far between, at least 16 items; it is
            held out until the last epoch, or in all steps of a single epoch. Fewer than 64 items
            have none to spare. 0 holds out none.
        head_schedule: over all steps of the head.
        schedule: of the second phase.
        max_bytes: maximum bytes of cached outputs for the first phase; None: the limits of the
            learner's `FeatureCacheConfig`.
    """

    base_lr: float = 2e-3
    unfrozen_ratio: float = 0.05
    spread: float = 1.0
    lowest: int = 0
    passes: int = 2
    views: int = 2
    augmented: bool = True
    head_steps: int = 1000
    head_passes: int = 10
    head_decay: float = 100.0
    least_steps: int = 200
    least_batch: int = 16
    head_dropout: bool = False
    interpolate: bool = True
    usual_interpolation: float = field(default=0.5, metadata={"was": "usual_part"})
    hold_out: float = 0.1
    head_schedule: Schedule = field(default_factory=lambda: FlatCos(pct_start=0.0))
    schedule: Schedule = field(
        default_factory=lambda: OneCycle(pct_start=0.3, moms=(0.9, 0.9, 0.9))
    )
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("base_lr", "unfrozen_ratio", "head_decay"):
            number(name, getattr(self, name), 0, math.inf, type(self).__dict__[name])
        number("spread", self.spread, 0, 1, 0.1)
        number("usual_interpolation", self.usual_interpolation, 0, 1, 0.5)
        number("hold_out", self.hold_out, 0, 0.5, 0.1)
        whole_number("lowest", self.lowest, 0, 1)
        whole_number("least_steps", self.least_steps, 0, 200)
        for name in ("passes", "views", "head_steps", "head_passes", "least_batch"):
            whole_number(name, getattr(self, name), 1, type(self).__dict__[name])


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a fit: what trains, for how long, at which rates.

    Attributes:
        name: for the history.
        epochs: passes over the training items.
        schedule: the multiplier on the rates.
        lr: a rate for each group; None: the current rates.
        freeze_to: the first layer group that trains, 0 for all; parameters in the trained groups
            that the user froze with `requires_grad_(False)` train too. None changes no freezing.
        from_store: train the head on cached outputs of the body only, if possible.
        stored: run frozen layers only once, and cache their outputs.
        passes: passes over the cached outputs for each epoch.
        augmented: whether items are augmented, if the data are.
        least_steps, least_batch: halve the batches as often as needed for so many steps, but not
            below so many items; see `FineTuneDefaults`.
        items_per_batch: as a plan has them; 0: by the two before.
        head_dropout: whether the dropout layers of the last group act.
        interpolate: end between the weights before and after the phase; see `ChooseWeights`.
        interpolation: where between; None: held-out items choose.
        usual_interpolation: where between, if there are none.
        callbacks: of this phase.
    """

    name: str
    epochs: int
    schedule: Schedule
    lr: Rate | None = None
    freeze_to: int | str | None = None
    from_store: bool = False
    stored: bool = True
    passes: int = 1
    augmented: bool = True
    least_steps: int = 0
    least_batch: int = 1
    items_per_batch: int = 0
    head_dropout: bool = True
    interpolate: bool = False
    interpolation: float | None = None
    usual_interpolation: float = 1.0
    callbacks: tuple[object, ...] = ()

    def __post_init__(self) -> None:
        text("phase", self.name, "fit")
        whole_number("epochs", self.epochs, 0, 3)

    def apply(self, groups: LayerGroups) -> None:
        """Set freezing and rates."""
        if self.freeze_to is not None:
            first = groups[self.freeze_to].index
            if first:
                groups.freeze_to(first)
            groups.unfreeze(*range(first, len(groups)))
        if self.lr is not None:
            groups.set_rates(self.lr)

    def batch_size(self, state: LearnerState) -> int:
        """Items in a batch of this phase; 0 as in the data.

        Batches stay as they are where batch norms compute their statistics from them, and where the
        learner accumulates several.
        """
        size, n_items = state.data.batch_size, items_in(state.data.train) or 0
        if self.items_per_batch:
            return 0 if self.items_per_batch == size else self.items_per_batch
        if not self.least_steps or state.accumulate > 1 or state.norms.updates_body(state.model):
            return 0
        while size // 2 >= self.least_batch and self.epochs * n_items < self.least_steps * size:
            size //= 2
        return 0 if size == state.data.batch_size else size


@dataclass(frozen=True, kw_only=True)
class FitSetup:
    """What the phases of a fit share, and the place of one among them.

    Without `checkpoints` no phase is saved. `earlier` and `is_last` are those of `FitContext`.
    """

    cache: FeatureCache
    cache_config: FeatureCacheConfig
    callbacks: tuple[object, ...] = ()
    checkpoints: CheckpointConfig | None = None
    figures: FineTuneDefaults = field(default_factory=FineTuneDefaults)
    held_out: HeldOut = field(default_factory=HeldOut)
    earlier: Sequence[EpochRow] = ()
    is_last: bool = True

    def context(
        self, state: LearnerState, phase: Phase, epochs: int, callbacks: Sequence[object]
    ) -> FitContext:
        return FitContext(
            state, epochs, phase.schedule, phase.name, callbacks, self.earlier, self.is_last
        )

    def signature(self, state: LearnerState, phase: Phase) -> dict[str, Any]:
        """What identifies a phase; see `fit_signature`."""
        f = self.figures
        head: list[float] = []
        if phase.from_store:
            head = [f.views, f.head_steps, f.head_passes, f.head_decay]
            head += [MORE_STEPS, MORE_RATE] if self.held_out.items else []
        return fit_signature(
            state,
            phase.schedule,
            phase=phase.name,
            epochs=phase.epochs,
            rates=None if phase.lr is None else repr(phase.lr),
            freeze_to=phase.freeze_to,
            passes=[phase.passes, *head],
            held_out=len(self.held_out.items),
            **({} if phase.interpolation is None else {"interpolation": phase.interpolation}),
            **({} if phase.augmented else {"augmented": False}),
            **({} if phase.head_dropout else {"head_dropout": False}),
            **({"usual_interpolation": phase.usual_interpolation} if phase.interpolate else {}),
        )

    def checkpointer(self, state: LearnerState, phase: Phase, kind: str = "") -> list[Checkpointer]:
        """The checkpointer of a phase, if the fit has checkpoints."""
        if self.checkpoints is None:
            return []
        return [Checkpointer(self.checkpoints, state, self.signature(state, phase), kind)]


class WithoutHeadDropout:
    """A callback that keeps the dropout layers of the last group off in training."""

    def __init__(self) -> None:
        self._changes = -1  # of the model, at which the layers were found
        self._dropouts: list[nn.Module] = []

    def before_step(self, run: FitContext) -> None:
        if run.changes != self._changes:
            self._changes = run.changes
            self._dropouts = [m for m in run.groups[-1].layers if isinstance(m, DropoutBase)]
        for module in self._dropouts:
            module.eval()


def without_head_dropout(phase: Phase) -> list[WithoutHeadDropout]:
    return [] if phase.head_dropout else [WithoutHeadDropout()]


def fit_phase(state: LearnerState, phase: Phase, setup: FitSetup) -> History:
    """Train through the network, or on cached outputs in the epochs in which that is possible."""
    if not phase.epochs:
        return History()
    last = setup.checkpointer(state, phase)
    if last and (done := last[0].finished(state)) is not None:
        return done
    average = [] if state.ema is None else [EMA(state, state.ema)]
    places = phase.usual_interpolation, phase.interpolation
    choice = [ChooseWeights(setup.held_out, *places)] if phase.interpolate else []
    own = [*without_head_dropout(phase), *phase.callbacks]
    callbacks = [*average, *choice, *own, *setup.callbacks, *state.callbacks, *last]
    run = setup.context(state, phase, phase.epochs, callbacks)
    left_out = choice[0].left_out if choice else ()
    plain = not phase.augmented and state.data.augmented
    run.vary(batch_size=phase.batch_size(state), left_out=left_out, plain=plain)
    if plain and not run.varied.get("plain"):
        _log.warning("augmented=False does nothing: these data are always augmented.")
    if phase.stored:
        run.features = CachedEpochs(setup.cache, setup.cache_config, phase.passes, plain=plain)
    return fit(run)
