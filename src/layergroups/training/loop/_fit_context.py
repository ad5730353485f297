"""A fit in progress, as data: what the loop works on and callbacks see.

Before each step of a fit: has somebody changed the model or what is frozen?
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups.data import Shard
from layergroups.tasks._losses import LossMeter
from layergroups.training._loaders import Batches
from layergroups.training.callbacks._checkpointer import RandomStart
from layergroups.training.callbacks._ema import EMA
from layergroups.training.distributed._processes import SINGLE_PROCESS, Processes
from layergroups.training.distributed._replicas import Replicas
from layergroups.training.feature_cache._cached_epochs import CachedEpochs, CachedInputs
from layergroups.training.hardware._memory_format import SafeLayout
from layergroups.training.loop._history import EpochRow
from layergroups.training.optim._schedules import Schedule

if TYPE_CHECKING:
    from accelerate import Accelerator

    from layergroups.groups import LayerGroups
    from layergroups.training._learner import Learner
    from layergroups.training.callbacks._checkpointer import Checkpointer


class Follower:
    """Sees before each step whether the model or the freezing changed, and brings all in step.

    It counts the changes that the groups have seen, for a callback that looks at the groups after
    surgery has then synced them already, but new parts must still be placed.
    """

    def __init__(self, learner: Learner) -> None:
        self._learner = learner
        self._look()

    def follow(self) -> bool:
        """Whether there was surgery; if so it has been followed."""
        learner, groups = self._learner, self._learner.groups
        groups.sync(names=False)
        surgery = learner.model is not self._model or len(groups.changes) != self._changes
        if surgery:
            learner.placed_model()
            groups.sync()
        if surgery or (groups.frozen, groups.rates) != self._standing:
            learner.norms.train(learner.model)
            self._look()
        groups.looked()
        return surgery

    def _look(self) -> None:
        groups = self._learner.groups
        self._model, self._changes = self._learner.model, len(groups.changes)
        self._standing = (groups.frozen, groups.rates)


@dataclass(kw_only=True)
class FitContext:
    """A fit in progress, as callbacks see it.

    Attributes:
        learner: whose fit it is; its model may be changed at any moment.
        optimizer: over all groups; the same one over all fits of a model.
        epochs: how many were asked for.
        schedule: the multiplier on the rates.
        phase: the kind of fit, for the history.
        train: training batches.
        valid: validation batches, or None.
        accelerator: device and precision.
        replicas: the copies of the model in all processes of this run.
        accumulate: batches for each step of the optimizer.
        callbacks: called in this order.
        way: of the inputs of a batch through the model, if not the usual one.
        stored: keeps outputs of frozen layers; None runs them in every epoch.
        averaging: keeps the moving average of the weights; None if there is to be none.
        source: where the batches of this epoch come from: `train`, or what was stored.
        from_store: which of the two it was when the run was cut off in the midst of the epoch.
        passes: over the training photos that one epoch of this fit stands for.
        seconds_before: time already spent on the epoch that comes.
        epoch: of this fit, counted from 0.
        batch: batches of the epoch that were taken.
        step: optimizer steps that this fit has done.
        steps: optimizer steps of the whole fit, if each epoch is one pass over `train`.
        first_step: the step with which this epoch began.
        epoch_steps: steps that this epoch has.
        inputs: of the batch, on the device; with several processes, of this one's share of it.
        targets: of the batch, on the device, likewise.
        share: what this process has of the batch.
        mixed: whether a callback has mixed the items of the batch with each other.
        waiting: batches whose gradients wait for the next step of the optimizer.
        loss: of the batch, still on its device.
        changes: how often surgery was seen in this fit.
        changed: whether it was seen since the last step.
        stop: a callback writes the reason here to end the fit.
        forgiving: a loss that is not finite ends the fit, and is no error; see `StopOnNaN`.
        losses: of the epoch so far.
        highest: multiplier of the schedule in the epoch so far.
        lrs: the rates in the optimizer at that step, one for each group.
        layout: puts batches in the layout in which the CPU's kernels are right.
        rows: the epochs done.
        epoch_start: random states before the epoch's first batch was drawn.
        started: the moment when the epoch began, in seconds of `time.perf_counter`.
        body_passes: of the frozen layers over the training items, to store their outputs for it.
        store_seconds: that these took.
        per_pass: batches in which all items come once, where the epoch has several such passes.
    """

    learner: Learner
    optimizer: Optimizer
    epochs: int
    schedule: Schedule
    phase: str
    train: Batches
    valid: Batches | None
    accelerator: Accelerator
    replicas: Replicas = field(default_factory=lambda: Replicas(SINGLE_PROCESS))
    accumulate: int = 1
    callbacks: tuple[object, ...] = ()
    way: Callable[..., Any] | None = None
    stored: CachedEpochs | None = None
    averaging: EMA | None = None
    source: Batches = field(init=False)
    from_store: bool | None = None
    passes: int = 1
    seconds_before: float = 0.0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    steps: int = 0
    first_step: int = 0
    epoch_steps: int = 1
    inputs: Any = None
    targets: Tensor = field(default_factory=lambda: torch.empty(0))
    share: Shard = field(default_factory=lambda: Shard(None, 1, 1, range(1)))
    mixed: bool = False
    waiting: int = 0
    follower: Follower = field(init=False)
    layout: SafeLayout = field(default_factory=SafeLayout)
    loss: Tensor = field(default_factory=lambda: torch.tensor(float("nan")))
    changes: int = 0
    changed: bool = False
    stop: str = ""
    forgiving: bool = False
    losses: LossMeter = field(default_factory=LossMeter)
    highest: float = 0.0
    lrs: tuple[float, ...] = ()
    rows: list[EpochRow] = field(default_factory=list)
    epoch_start: RandomStart | None = None
    started: float = field(default_factory=time.perf_counter)
    body_passes: int = 0
    store_seconds: float = 0.0
    per_pass: float | None = None

    def __post_init__(self) -> None:
        self.follower = Follower(self.learner)
        self.source = self.train

    @property
    def model(self) -> nn.Module:
        """The model as it is now."""
        return self.learner.model

    @property
    def groups(self) -> LayerGroups:
        """Its layer groups."""
        return self.learner.groups

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or a callback has ended the fit after the last one."""
        return self.epoch >= self.epochs or (bool(self.stop) and self.batch == 0)

    @property
    def needs_store(self) -> bool:
        """Whether this fit trains on stored outputs or not at all, as fine_tune's first phase."""
        return self.stored is not None and self.stored.needed

    @property
    def done(self) -> float:
        """The part of the fit that is done, 0..1; every epoch is an equal part of it."""
        here = min(self.step - self.first_step, self.epoch_steps)
        return (self.epoch * self.epoch_steps + here) / (self.epochs * self.epoch_steps)

    @property
    def processes(self) -> Processes:
        """Who trains together."""
        return self.replicas.processes

    def forward(self, inputs: object) -> Tensor:
        """Inputs through the model, or stored outputs of its frozen layers through the rest."""
        if isinstance(inputs, CachedInputs) and self.stored is not None:
            outputs: Tensor = self.stored.forward(self, inputs)
        else:
            outputs = (self.way or self.learner.called_model())(inputs)
        return outputs


def new_fit_context(
    learner: Learner,
    epochs: int,
    schedule: Schedule,
    phase: str,
    keeper: Checkpointer | None = None,
    callbacks: Sequence[object] = (),
) -> FitContext:
    """A fit about to begin, on the learner's own batches.

    Args:
        learner: whose fit it is.
        epochs: of it.
        schedule: of its rates.
        phase: its name in the history.
        keeper: writes its checkpoints; the last of the callbacks.
        callbacks: of this fit alone; before the learner's own.
    """
    return FitContext(
        learner=learner,
        optimizer=learner.made_optimizer(),
        epochs=epochs,
        schedule=schedule,
        phase=phase,
        train=learner.dls.train,
        valid=learner.dls.valid,
        accelerator=learner.accelerator,
        replicas=Replicas(learner.processes),
        accumulate=learner.accumulate,
        callbacks=(*callbacks, *learner.callbacks, *([] if keeper is None else [keeper])),
    )
