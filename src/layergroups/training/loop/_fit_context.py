"""A fit in progress, as data: what the loop works on and callbacks see."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups._forward import call_model, tensor_of
from layergroups.data import Batches, Shard
from layergroups.groups import mark_synced
from layergroups.training.distributed import SINGLE_PROCESS, Processes, Replicas
from layergroups.training.hardware import SafeLayout
from layergroups.training.loop._loss_meter import LossMeter
from layergroups.training.optim import Schedule
from layergroups.training.state import EpochRow

if TYPE_CHECKING:
    from accelerate import Accelerator

    from layergroups.groups import LayerGroups
    from layergroups.training.state import LearnerState


RandomStart = dict[str, Any]


class FeatureSource(Protocol):
    """Batches of stored outputs of frozen layers, in place of the data's own.

    Attributes:
        required: whether the fit cannot go on through the whole network instead.
        epochs_counted: how many epochs of training one epoch of this fit counts as.
    """

    required: bool
    epochs_counted: int

    def batches_for_epoch(self, run: FitContext) -> Batches | None:
        """The batches of the epoch that begins; None: the data's own."""

    def skip_epoch(self) -> None:
        """Leave the epoch that comes next to the data: it was begun so before it was cut off."""

    def owns(self, inputs: object) -> bool:
        """Whether these inputs come from here."""

    def forward(self, run: FitContext, inputs: Any) -> Any:
        """Inputs that come from here through the rest of the model."""

    def validation(self, run: FitContext) -> Iterable[Any] | None:
        """The validation batches; None: the data's own."""

    def resources(self, run: FitContext) -> dict[str, float]:
        """What the epoch took, for `EpochRow.resources`."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint needs."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` gave."""


class ChangeDetector:
    """Sees before each step whether the model or the freezing has changed, and syncs the learner.

    It counts the changes that the groups have seen: a callback that reads the groups after surgery
    has synced them already, but new parts must still be placed on the device.
    """

    def __init__(self, learner: LearnerState) -> None:
        self._learner = learner
        self._note()

    def sync(self) -> bool:
        """Whether there was surgery since the last call."""
        learner, groups = self._learner, self._learner.groups
        groups.sync(names=False)
        surgery = learner.model is not self._model or len(groups.changes) != self._changes
        if surgery:
            learner.placed_model()
            groups.sync()
        if surgery or (groups.frozen, groups.rates) != self._settings:
            learner.norms.train(learner.model)
            self._note()
        mark_synced(groups)
        return surgery

    def _note(self) -> None:
        groups = self._learner.groups
        self._model, self._changes = self._learner.model, len(groups.changes)
        self._settings = (groups.frozen, groups.rates)


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
        forward_override: takes the inputs of a batch to outputs, in place of the model.
        features: stored outputs of frozen layers; None runs the frozen layers in every epoch.
        batches: of this epoch: `train`, or those of `features`.
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
        accumulated: batches whose gradients wait for the next step of the optimizer.
        loss: of the batch, still on its device.
        changes: how often surgery was seen in this fit.
        changed: whether it was seen since the last step.
        stop: a callback writes the reason here to end the fit.
        allow_nonfinite: a loss that is not finite ends the fit, and is no error; see `StopOnNaN`.
        losses: of the epoch so far.
        max_multiplier: the highest of the schedule in the epoch so far.
        lrs: the rates in the optimizer at that step, one for each group.
        layout: puts batches in the layout in which the CPU's kernels are right.
        rows: the epochs done.
        epoch_start: random states before the epoch's first batch was drawn.
        started: the moment when the epoch began, in seconds of `time.perf_counter`.
    """

    learner: LearnerState
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
    forward_override: Callable[..., Any] | None = None
    features: FeatureSource | None = None
    batches: Batches = field(init=False)
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
    accumulated: int = 0
    detector: ChangeDetector = field(init=False)
    layout: SafeLayout = field(default_factory=SafeLayout)
    loss: Tensor = field(default_factory=lambda: torch.tensor(float("nan")))
    changes: int = 0
    changed: bool = False
    stop: str = ""
    allow_nonfinite: bool = False
    losses: LossMeter = field(default_factory=LossMeter)
    max_multiplier: float = 0.0
    lrs: tuple[float, ...] = ()
    rows: list[EpochRow] = field(default_factory=list)
    epoch_start: RandomStart | None = None
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.detector = ChangeDetector(self.learner)
        self.batches = self.train

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
    def needs_features(self) -> bool:
        """Whether this fit trains on stored outputs or not at all, as fine_tune's first phase."""
        return self.features is not None and self.features.required

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
        if self.features is not None and self.features.owns(inputs):
            return tensor_of(self.features.forward(self, inputs))
        if self.forward_override is not None:
            return tensor_of(self.forward_override(inputs))
        return call_model(self.learner.called_model(), inputs)
