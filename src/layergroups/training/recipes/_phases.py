"""A fit as data, and how it runs: every fit of a learner is a tuple of phases."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypedDict, TypeVar, get_type_hints

from layergroups._checks import whole_number
from layergroups._suggestions import unknown_argument
from layergroups.groups import LayerGroups, Rate
from layergroups.training.callbacks import EMA, CheckpointConfig, Checkpointer, fit_signature
from layergroups.training.feature_cache import CachedEpochs, FeatureCache, FeatureCacheConfig
from layergroups.training.loop import fit, new_fit_context
from layergroups.training.optim import OneCycle, Schedule
from layergroups.training.state import History

if TYPE_CHECKING:
    from layergroups.training.loop import FitContext
    from layergroups.training.state import LearnerState


class FitOptions(TypedDict, total=False):
    """What every fit takes beside its own arguments.

    Attributes:
        callbacks: of this fit alone; they come before those of the learner.
        feature_cache: False runs the frozen layers in every epoch. Otherwise their outputs are
            computed once and cached, so that later epochs cost little more than what trains.
        checkpoint_dir: save the whole state here after each epoch, each fit of the learner in a
            folder of its own.
        checkpoint_every: save also after so many optimizer steps.
        resume: go on from the newest whole checkpoint there. A script in which every fit has
            `resume=True` can be killed at any moment and started again: it ends bit for bit where
            the unbroken run ends.
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
_P = ParamSpec("_P")
_R = TypeVar("_R")


def takes_fit_options(method: Callable[_P, _R]) -> Callable[_P, _R]:
    """Show the options of a fit one by one in help() and completion, and refuse any other."""
    own = inspect.signature(method)
    kinds = get_type_hints(FitOptions)
    options = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=kinds[name]
        )
        for name, value in DEFAULTS.items()
    ]
    parameters = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    signature = own.replace(parameters=[*parameters, *options])

    @functools.wraps(method)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if "store" in kwargs:  # its earlier name
            kwargs["feature_cache"] = kwargs.pop("store")
        for name in kwargs:
            if name not in signature.parameters:
                known = [known for known in signature.parameters if known != "self"]
                raise unknown_argument(f"Learner.{method.__name__}", name, known)
        return method(*args, **kwargs)

    call.__signature__ = signature  # type: ignore[attr-defined] # what inspect.signature reads
    return call


@dataclass(frozen=True, kw_only=True)
class FineTuneDefaults:
    """Every figure of `fine_tune` in one place, chosen by measurement.

    Attributes:
        base_lr: rate of the head while the body is frozen.
        unfrozen_ratio: rate of all groups afterwards, as a part of base_lr.
        lowest: the first layer group that trains afterwards; 0 trains all. 1 leaves the early group
            frozen, so that its outputs are cached too, in the passes of the first phase, and cost
            nothing in the later epochs. All train where that does not fit: see `lowest_group`.
        passes: over the cached outputs of layers that stay frozen, for each epoch asked for; each
            takes the items in other views.
        views: augmented views of each training item for one frozen epoch. Layers that stay frozen
            afterwards keep theirs too; where `FeatureCacheConfig.views` says more, those follow
            later.
        head_passes: the most passes of the head over its cached features.
        hold_out: part of the training items by which the best head is chosen.
        patience: passes without a better loss on them after which the head is done.
        head_schedule: over all passes of the head.
        schedule: over the epochs after the head's.
        max_bytes: the most bytes of cached outputs for the head's passes; None: what the learner's
            `FeatureCacheConfig` allows.
    """

    base_lr: float = 1e-3
    unfrozen_ratio: float = 0.2
    lowest: int = 1
    passes: int = 2
    views: int = 2
    head_passes: int = 20
    hold_out: float = 0.1
    patience: int = 5
    head_schedule: Schedule = field(default_factory=OneCycle)
    schedule: Schedule = field(default_factory=lambda: OneCycle(pct_start=0.1))
    max_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of a fit: what trains, for how long, at which rates.

    Attributes:
        name: for the history.
        epochs: passes over the training items.
        schedule: the multiplier on the rates.
        lr: a rate for each group; None: the rates that they have.
        freeze_to: the first layer group that trains, 0 for all. Parameters of the groups that train
            which the user froze by `requires_grad_(False)` train too. None leaves all freezing as
            it is.
        from_store: train the head to the end on stored outputs of the body, where possible.
        stored: let frozen layers run once only, as `fit` does.
        passes: over what is stored, for each epoch.
        callbacks: of this phase.

    Raises:
        TrainingError: the epochs are not a whole number from 0.
    """

    name: str
    epochs: int
    schedule: Schedule
    lr: Rate | None = None
    freeze_to: int | str | None = None
    from_store: bool = False
    stored: bool = True
    passes: int = 1
    callbacks: tuple[object, ...] = ()

    def __post_init__(self) -> None:
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


@dataclass(frozen=True, kw_only=True)
class FitSetup:
    """What the phases of a fit share.

    Attributes:
        cache: keeps outputs of frozen layers.
        cache_config: its bounds.
        callbacks: of every phase.
        checkpoints: where and how often a phase is saved; None: it is not.
        figures: of the head's phase.
    """

    cache: FeatureCache
    cache_config: FeatureCacheConfig
    callbacks: tuple[object, ...] = ()
    checkpoints: CheckpointConfig | None = None
    figures: FineTuneDefaults = field(default_factory=FineTuneDefaults)


def fit_phase(state: LearnerState, phase: Phase, setup: FitSetup) -> History:
    """Train through the network, or from stored outputs in epochs in which that is possible."""
    if not phase.epochs:
        return History()
    checkpointer = None
    if setup.checkpoints is not None:
        signature = fit_signature(phase.name, phase.epochs, phase.schedule, state)
        checkpointer = Checkpointer(setup.checkpoints, state, signature)
        done = checkpointer.finished(state)
        if done is not None:
            return done
    average = [] if state.ema is None else [EMA(state, state.ema)]
    last = [] if checkpointer is None else [checkpointer]
    run = new_fit_context(
        state,
        phase.epochs,
        phase.schedule,
        phase.name,
        [*average, *phase.callbacks, *setup.callbacks],
        last,
    )
    if phase.stored:
        run.features = CachedEpochs(setup.cache, setup.cache_config, phase.passes)
    return fit(run)


class Undo:
    """A callback that notes when a fit begins; until then `undo` restores freezing and rates."""

    def __init__(self, groups: LayerGroups) -> None:
        self._groups = groups
        self._before: Mapping[str, Any] = groups.state_dict()
        self._frozen = [p for p in groups.model.parameters() if not p.requires_grad]
        self._begun = False

    def before_epoch(self, run: FitContext) -> None:
        """Weights change from here on."""
        self._begun = True

    before_step = before_epoch  # a fit that is resumed begins in the midst of an epoch

    def undo(self) -> None:
        """Restore freezing, also by the user, and rates after a fit that was refused."""
        if not self._begun:
            self._groups.load_state_dict(self._before)
            for parameter in self._frozen:
                parameter.requires_grad_(False)


def with_undo(setup: FitSetup, undo: Undo) -> FitSetup:
    """The same setup, whose phases tell when they begin."""
    return replace(setup, callbacks=(*setup.callbacks, undo))
