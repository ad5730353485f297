"""The context of a fit in progress: the data that the loop and callbacks work on."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups._forward import call_model, tensor_of
from layergroups.data import Batches, Shard
from layergroups.groups import LayerGroups, mark_synced
from layergroups.training.distributed import Processes, Replicas
from layergroups.training.loop._loss_meter import LossMeter
from layergroups.training.optim import Schedule
from layergroups.training.state import EpochRow, LearnerState, checked_callbacks

if TYPE_CHECKING:
    from accelerate import Accelerator


_log = logging.getLogger("layergroups")
RandomStart = dict[str, Any]


class FeatureSource(Protocol):
    """Batches of cached outputs of frozen layers, instead of the batches of the data.

    Attributes:
        required: whether the fit cannot fall back to the whole network.
        epochs_counted: how many epochs of training one epoch of this fit counts as.
    """

    required: bool
    epochs_counted: int

    def batches_for_epoch(self, run: FitContext) -> Batches | None:
        """The batches of this epoch; None: those of the data. Also for `validation`."""

    def skip_epoch(self) -> None:
        """Use the data in the next epoch, because the interrupted run did."""

    def owns(self, inputs: object) -> bool:
        """Whether these inputs are cached outputs, for `forward`."""

    def forward(self, run: FitContext, inputs: Any) -> Any: ...
    def validation(self, run: FitContext) -> Iterable[Any] | None: ...
    def resources(self, run: FitContext) -> dict[str, float]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class SurgerySync:
    """Detects changes of model and freezing before each step, and syncs the learner.

    It compares the number of recorded changes: a callback that reads the groups after surgery has
    synced them already, but new parts must still be moved to the device.
    """

    def __init__(self, learner: LearnerState) -> None:
        self._learner = learner
        self._note()

    def sync(self) -> bool:
        """Sync; return whether there was surgery since the last call."""
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


@dataclass
class FitContext:
    """A fit in progress, as callbacks see it.

    Attributes:
        learner: its model may be changed at any time.
        schedule: the multiplier on the rates.
        phase: the kind of fit, for the history.
        earlier: the rows of the phases before, if the fit has several, as `fine_tune` has.
        is_last: whether no phase comes after.
        replicas: the copies of the model in all processes.
        accumulate: batches for each optimizer step; `accumulated` since the last one.
        callbacks: in the order of their calls.
        features: cached outputs of frozen layers; None runs the frozen layers in every epoch.
        varied: how `train` differs from the training batches of the data; see `vary`.
        batches: of this epoch: `train`, or those of `features`.
        epoch, batch: epoch of this fit, counted from 0; batches of the epoch so far.
        step, steps: optimizer steps of this fit so far, and of all epochs if each is one pass over
            `train`; `first_step` is that of this epoch.
        epoch_steps: number of steps in this epoch.
        inputs, targets: of the batch, on the device; with several processes, of their `share`.
        mixed: whether a callback (`MixUp`, `CutMix`) has mixed the items of the batch.
        loss: of the batch, still on its device.
        begun: whether it has trained or resumed; a fit that fails before changes nothing.
        changes, changed: number of surgeries in this fit; whether there was one since the last
            step.
        stop: a callback writes a reason here to end the fit.
        note: a callback writes here what was unusual in the last epoch, for its row.
        allow_nonfinite: a NaN or infinite loss ends the fit without an error; see `StopOnNaN`.
        losses: of the epoch so far.
        max_multiplier, lrs: the maximum of the schedule in the epoch so far, and the rates of the
            groups then.
        rows: the finished epochs.
        epoch_start: random states before the first batch of the epoch was drawn.
        started, seconds_before: start of the epoch (`time.perf_counter`), and time spent on it
            before the run was interrupted.
    """

    learner: LearnerState
    epochs: int
    schedule: Schedule
    phase: str
    callbacks: Sequence[object] = ()
    earlier: Sequence[EpochRow] = ()
    is_last: bool = True
    optimizer: Optimizer = field(init=False)
    train: Batches = field(init=False)
    valid: Batches | None = field(init=False)
    batches: Batches = field(init=False)
    accelerator: Accelerator = field(init=False)
    replicas: Replicas = field(init=False)
    accumulate: int = field(init=False)
    features: FeatureSource | None = None
    varied: dict[str, Any] = field(default_factory=dict)
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
    surgery_sync: SurgerySync = field(init=False)
    loss: Tensor = field(default_factory=lambda: torch.tensor(float("nan")))
    begun: bool = False
    changes: int = 0
    changed: bool = False
    stop: str = ""
    note: str = ""
    allow_nonfinite: bool = False
    losses: LossMeter = field(default_factory=LossMeter)
    max_multiplier: float = 0.0
    lrs: tuple[float, ...] = ()
    rows: list[EpochRow] = field(default_factory=list)
    epoch_start: RandomStart | None = None
    started: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        learner = self.learner
        self.callbacks = checked_callbacks(self.callbacks)
        self.optimizer = learner.made_optimizer()
        self.train, self.valid = learner.data.train, learner.data.valid
        self.batches = self.train
        self.accelerator, self.replicas = learner.accelerator, Replicas(learner.processes)
        self.accumulate = learner.accumulate
        self.surgery_sync = SurgerySync(learner)

    def vary(self, **varied: Any) -> None:
        """Train in batches of another `batch_size`, or without the items `left_out`.

        Arguments of earlier calls remain; see `DataSource.training`. Data that cannot do that stay.
        """
        asked = {name: value for name, value in (self.varied | varied).items() if value}
        if asked != self.varied and (batches := self.learner.data.training(**asked)) is not None:
            batches.set_epoch(self.learner.epochs_done)
            self.train = self.batches = batches
            self.varied = asked

    @property
    def model(self) -> nn.Module:
        return self.learner.model

    @property
    def groups(self) -> LayerGroups:
        return self.learner.groups

    @property
    def over(self) -> bool:
        """Whether all epochs are done, or a callback has ended the fit after an epoch."""
        return self.epoch >= self.epochs or (bool(self.stop) and self.batch == 0)

    @property
    def needs_features(self) -> bool:
        """Whether this fit only trains on cached outputs, as the first phase of fine_tune."""
        return self.features is not None and self.features.required

    def use_no_features(self, reason: str) -> None:
        """Run the frozen layers in every epoch of this fit."""
        if self.features is not None and any(self.groups.frozen):
            _log.warning("The frozen layers run in every epoch, because %s.", reason)
        self.features = None

    @property
    def done(self) -> float:
        """The finished part of the fit, 0..1; every epoch counts the same."""
        here = min(self.step - self.first_step, self.epoch_steps)
        return (self.epoch * self.epoch_steps + here) / (self.epochs * self.epoch_steps)

    @property
    def processes(self) -> Processes:
        return self.replicas.processes

    def forward(self, inputs: object) -> Tensor:
        """Run the model on inputs, or its rest on cached outputs of the frozen layers."""
        if self.features is not None and self.features.owns(inputs):
            return tensor_of(self.features.forward(self, inputs))
        return call_model(self.learner.called_model(), inputs)
