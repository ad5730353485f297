"""What a learner is made of, and how its parts stay in step; `Learner` adds what one does.

What follows when a learner is given another model or other data.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups._formatting import first_few
from layergroups._paths import path_of
from layergroups._random import mixed
from layergroups._suggestions import SuggestsNames
from layergroups.anatomy import unwrap
from layergroups.data import Batches, DataSource, TrainValid, bound_to, data_source, set_epoch
from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups, Rate, Split
from layergroups.tasks._losses import LossFunc, as_loss, default_loss
from layergroups.tasks._metrics import Meter, as_list, check_metrics
from layergroups.tasks._tasks import Task, checked_threshold, task_of
from layergroups.training.callbacks._ema import Ema, checked_ema
from layergroups.training.distributed._processes import Processes, current_processes
from layergroups.training.distributed._sharding import shard, wants_sharding
from layergroups.training.feature_cache._feature_buffer import FeatureCacheConfig
from layergroups.training.feature_cache._feature_cache import FeatureCache
from layergroups.training.hardware._compiling import Compile, Compiled, checked_compile, is_compiled
from layergroups.training.hardware._memory_format import in_fast_layout
from layergroups.training.loop._batch_norm import BatchNorm, BatchNormPolicy
from layergroups.training.loop._events import checked
from layergroups.training.loop._history import EpochRow, History
from layergroups.training.loop._precision import (
    checked_clip,
    launched_accumulation,
    make_accelerator,
    place,
    precision_name,
)
from layergroups.training.loop._progress import Reporter, reporter
from layergroups.training.optim._optimizers import OptFunc, build_optimizer, checked_decay

if TYPE_CHECKING:
    from accelerate import Accelerator

    from layergroups.checkpoints import Blueprint


_log = logging.getLogger("layergroups")


def regroup(old: LayerGroups, model: nn.Module, split: Split, data: DataSource) -> LayerGroups:
    """Layer groups of another model by the same rule; freezing and rates go over where they fit.

    A compiled model is the same one in a wrapper: its groups stay as they are.
    """
    if unwrap(model) is old.model:
        return old
    new = LayerGroups(model, split, example_input=data.example())
    if new.names == old.names:
        new.load_state_dict(old.state_dict())
        return new
    new.set_rates(max(old.rates))
    _log.warning(
        "the new model has the layer groups %s, the old one had %s: none is frozen now, and all "
        "have rate %g",
        ", ".join(new.names),
        ", ".join(old.names),
        max(old.rates),
    )
    return new


def carry_optimizer(optimizer: Optimizer, groups: LayerGroups) -> Optimizer | None:
    """The same optimizer over another model's groups; None if they have other names.

    Parameters that both models have keep their state; those of the new one start without any.
    """
    wanted = {group["name"]: group["params"] for group in groups.param_groups()}
    if [group["name"] for group in optimizer.param_groups] != list(wanted):
        _log.warning("the new model has other layer groups: the optimizer starts afresh")
        return None
    for group in optimizer.param_groups:
        group["params"] = wanted[group["name"]]
    alive = {parameter for params in wanted.values() for parameter in params}
    for parameter in [p for p in optimizer.state if p not in alive]:
        del optimizer.state[parameter]
    groups.attach(optimizer)
    return optimizer


def fitting_data(old: DataSource, new: DataSource) -> DataSource:
    """The new data, normalised as the weights need it.

    Raises:
        TrainingError: task, classes or channels are others than the model was made for.
    """
    _check_task(old, new)
    if new.vocab != old.vocab and old.n_outputs:
        raise TrainingError(
            f"These data have the classes {first_few(new.vocab)}, the model was made for "
            f"{first_few(old.vocab)}. For other classes make a new head: "
            "vision_learner(dls, arch)."
        )
    return bound_to(new, old.input)


def _check_task(old: DataSource, new: DataSource) -> None:
    """The same kind of targets, and images of as many channels."""
    tasks = [data.task for data in (old, new)]
    if None not in tasks and tasks[0] != tasks[1]:
        raise TrainingError(
            f"These data have the task {tasks[1]!r}, the model was made for {tasks[0]!r}. For "
            "another task make a new learner: vision_learner(dls, arch)."
        )
    specs = [data.input for data in (old, new)]
    counts = [None if spec is None else spec.channels for spec in specs]
    if None not in counts and counts[0] != counts[1]:
        raise TrainingError(
            f"These images have {counts[1]} channels, the model takes {counts[0]}. Read them with "
            f"{counts[0]}, or make a new learner: vision_learner(dls, arch)."
        )


class LearnerState(SuggestsNames):
    """Model, layer groups, data, optimizer, device, counts: the state of a `Learner`.

    For the arguments see there.
    """

    def __init__(
        self,
        dls: TrainValid,
        model: nn.Module,
        *,
        loss_func: LossFunc | str | None = None,
        thresh: float = 0.5,
        groups: LayerGroups | None = None,
        split: Split = "auto",
        opt_func: OptFunc = "adamw",
        lr: Rate | None = None,
        weight_decay: float = 0.01,
        wd: float | None = None,
        metrics: Any = (),
        callbacks: Sequence[object] | None = (),
        batch_norm: BatchNorm = "auto",
        mixed_precision: str | None = None,
        accumulate: int | None = None,
        clip: float | None = None,
        ema: Ema = None,
        compile: Compile = None,
        store: FeatureCacheConfig | None = None,
        path: str | Path = "models",
        seed: int | None = None,
        progress: bool | Reporter = True,
    ) -> None:
        self.data = data_source(dls)
        self._model = _laid_out(model)
        if groups is None:
            groups = LayerGroups(model, split, example_input=self.data.example())
        if not isinstance(groups, LayerGroups):
            raise TrainingError(
                f"groups= is a {type(groups).__name__}; give LayerGroups(model), or a rule: "
                'Learner(dls, model, split="auto").'
            )
        self.groups = groups
        if self.groups.model is not unwrap(model):
            raise TrainingError("groups= are those of another model; use LayerGroups(model).")
        if lr is not None:
            self.groups.set_rates(lr)
        self.loss_func = default_loss(task_of(self.data)) if loss_func is None else loss_func
        self.thresh = checked_threshold(thresh)
        self.opt_func = opt_func
        self.weight_decay = checked_decay(weight_decay if wd is None else wd)
        self.metrics = metrics
        self.callbacks = checked(callbacks)
        self.norms = BatchNormPolicy(batch_norm, model)
        self.mixed_precision = mixed_precision
        self.accumulate = launched_accumulation(accumulate)
        self.clip = checked_clip(clip)
        self.ema: Ema = checked_ema(ema)
        self.compile: Compile = compile
        checked_compile(compile)
        self.path = path_of(path, TrainingError, 'Learner(..., path="models")')
        self.seed = seed
        self.progress = progress
        self.opt: Optimizer | None = None
        self.history = History()
        self.epochs_done = 0
        self.fits_done = 0
        self.store_options = store or FeatureCacheConfig()
        self.store = FeatureCache()
        self.blueprint: Blueprint | None = None
        self.pretrained = True
        self._compiled: Compiled | None = None
        self._split = split
        self._accelerator: Accelerator | None = None
        self._reporter: tuple[bool | Reporter, Reporter] | None = None

    def __repr__(self) -> str:
        groups = self.layer_groups
        told = [f"{n} frozen" if f else n for n, f in zip(groups.names, groups.frozen, strict=True)]
        return f"Learner({groups.network}, groups: {', '.join(told)}; epochs: {self.epochs_done})"

    # What it is made of

    @property
    def model(self) -> nn.Module:
        """The model. Another one may be assigned: groups and optimizer follow."""
        return self._model

    @model.setter
    def model(self, model: nn.Module) -> None:
        if model is self._model:
            return
        groups = regroup(self.layer_groups, _laid_out(model), self._split, self.data)
        self._model, self.groups = model, groups
        self.norms.note(model)
        if self.opt is not None:
            self.placed_model()
            self.opt = carry_optimizer(self.opt, groups)

    @property
    def layer_groups(self) -> LayerGroups:
        """The layer groups, in step with the model as it is now."""
        self.groups.sync()
        return self.groups

    @property
    def dls(self) -> Any:
        """The data. Others with the same classes may be assigned."""
        return self.data.given

    @dls.setter
    def dls(self, dls: TrainValid) -> None:
        self.data = fitting_data(self.data, data_source(dls))

    @property
    def task(self) -> Task:
        """What is asked of the model: "multiclass", "multilabel" or "regression"."""
        return task_of(self.data, self.loss_func)

    @property
    def loss_func(self) -> LossFunc:
        """The loss of a batch. A name, or weights that are "balanced", may be assigned too."""
        return self._loss_func

    @loss_func.setter
    def loss_func(self, loss_func: LossFunc | str) -> None:
        self._loss_func = as_loss(loss_func, self.data)

    @property
    def metrics(self) -> list[Any]:
        """What is measured, as a list. One metric or several may be assigned, and are checked."""
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: Any) -> None:
        given = as_list(metrics)
        check_metrics(given, self.task)
        self._metrics = given

    @property
    def accelerator(self) -> Accelerator:
        """Device and precision; made when first used."""
        made = self._accelerator
        if made is None or made.mixed_precision != precision_name(self.mixed_precision):
            made = self._accelerator = make_accelerator(self.mixed_precision)
        return made

    @property
    def reporter(self) -> Reporter:
        """Who shows bars and rows."""
        if self._reporter is None or self._reporter[0] is not self.progress:
            shown = self.progress if self.processes.is_main else False
            self._reporter = (self.progress, reporter(shown))
        return self._reporter[1]

    @property
    def processes(self) -> Processes:
        """Who trains together: those that `torchrun` or `accelerate launch` has started."""
        _ = self.accelerator  # it joins them
        return current_processes()

    def placed_model(self) -> nn.Module:
        """The model, on the device where it runs."""
        placed = place(self._model, self.accelerator.device)
        if wants_sharding() and self.processes.several:
            shard(placed, self.groups, self.processes, self.accelerator.device.type)
        return placed

    def called_model(self) -> Callable[..., Tensor]:
        """The model as fits call it: compiled, where that is asked for."""
        options = checked_compile(self.compile)
        if options is None or is_compiled(self._model):
            return self._model
        made = self._compiled
        if made is None or made.model is not self._model or made.options != options:
            made = self._compiled = Compiled(self._model, options)
        return made

    def made_optimizer(self) -> Optimizer:
        """The optimizer, over all groups on the device; made before the first fit, then kept."""
        _laid_out(self.placed_model())
        if self.opt is None:
            groups = self.layer_groups
            self.opt = build_optimizer(
                self.opt_func,
                groups.param_groups(weight_decay=self.weight_decay),
                lr=max(groups.rates),
            )
            groups.attach(self.opt)
        return self.opt

    # What the loop asks for

    def meter(self) -> Meter:
        """The metrics, fresh, for these data and this threshold."""
        return Meter(self.metrics, self.data.n_outputs, self.task, self.thresh)

    def begin_epoch(self, batches: Batches, *, seeded: bool = True) -> None:
        """Order, random state and modes of the coming epoch; not seeded in the midst of it."""
        if self.seed is not None and seeded:
            torch.manual_seed(self.epoch_seed())
        set_epoch(batches, self.epochs_done)
        self.norms.train(self.model)

    def end_epoch(self, row: EpochRow, passes: int = 1) -> None:
        """Keep and show what the epoch came to, which stands for so many passes."""
        self.history += (row,)
        self.epochs_done += passes
        self.reporter.row(row)

    def epoch_seed(self, epoch: int | None = None) -> int:
        """A seed for an epoch, None for the coming one, by the learner's seed or its data's."""
        seed = self.data.seed if self.seed is None else self.seed
        return mixed(seed, self.epochs_done if epoch is None else epoch)


def _laid_out(model: nn.Module) -> nn.Module:
    """The model in the layout in which it is quick; FSDP2 spreads ordinary tensors only."""
    return model if wants_sharding() else in_fast_layout(model)
