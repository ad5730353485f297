"""The parts and settings of a learner, and how they stay in step; `Learner` adds the methods."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Generic, Never, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups._checks import number, whole_number
from layergroups._formatting import first_few
from layergroups._paths import path_of
from layergroups._random import mixed
from layergroups._suggestions import SuggestsNames
from layergroups._torch import is_compiled
from layergroups.anatomy import unwrap
from layergroups.checkpoints import Blueprint
from layergroups.data import Batches, DataSource, TrainValid, bound_to, data_source, set_epoch
from layergroups.errors import CheckpointError, TrainingError
from layergroups.groups import LayerGroups, Split, own_param_groups
from layergroups.models import classifier_layers, outputs_of
from layergroups.tasks import (
    LossFunc,
    Meter,
    NamedLoss,
    Task,
    as_list,
    as_loss,
    check_metrics,
    checked_threshold,
    task_meant_by,
)
from layergroups.training.distributed import Processes, current_processes, shard, wants_sharding
from layergroups.training.hardware import (
    Compiled,
    checked_compile,
    checked_precision,
    in_fast_layout,
    launched_accumulation,
    make_accelerator,
    place,
    precision_name,
)
from layergroups.training.optim import (
    OptFunc,
    build_optimizer,
    checked_clip,
    checked_decay,
    factory_of,
)
from layergroups.training.state._batch_norm_policy import BatchNorm, BatchNormPolicy, checked_policy
from layergroups.training.state._event_names import checked_callbacks
from layergroups.training.state._history import EpochRow, History
from layergroups.training.state._progress import Reporter, checked_progress, reporter

if TYPE_CHECKING:
    from accelerate import Accelerator


_log = logging.getLogger("layergroups")
_Given = TypeVar("_Given")
_Set = TypeVar("_Set")


def regroup(old: LayerGroups, model: nn.Module, split: Split, data: DataSource) -> LayerGroups:
    """Group a new model by the same rule; keep freezing and rates if the group names match.

    `torch.compile` only wraps a model, so a compiled model keeps its groups.
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
        "have rate %g", ", ".join(new.names), ", ".join(old.names), max(old.rates),
    )  # fmt: skip
    return new


def carry_optimizer(optimizer: Optimizer, groups: LayerGroups) -> Optimizer | None:
    """The same optimizer over the groups of a new model; None if the group names differ.

    Parameters that both models share keep their state; new parameters start without state.
    """
    wanted = [group["name"] for group in groups.param_groups()]
    if [group["name"] for group in own_param_groups(optimizer)] != wanted:
        _log.warning("the new model has different layer groups: the optimizer state is reset")
        return None
    groups.attach(optimizer)
    return optimizer


def fitting_data(old: DataSource, new: DataSource, groups: LayerGroups) -> DataSource:
    """The new data, normalised with the statistics of the pretrained weights.

    They may have other classes once the head of the model was changed for them.
    """
    _check_kind(old, new)
    if new.vocab == old.vocab or not old.n_outputs:
        return bound_to(new, old.input)
    heads = classifier_layers(groups.model, groups.anatomy).values()
    changed = {outputs_of(layer) for layer in heads} == {new.n_outputs} != {old.n_outputs}
    same_places = all(
        a == b or a not in new.vocab for a, b in zip(old.vocab, new.vocab, strict=False)
    )
    if not changed or not same_places:
        n = max(new.n_outputs, old.n_outputs + 1)
        way = (
            "To add classes, give the data vocab= with the old classes first, then "
            f"grow_head(learn.model, {n}) and assign the data."
        )
        if set(new.vocab) < set(old.vocab):
            kept = [i for i, name in enumerate(old.vocab) if name in new.vocab]
            way = f"To keep these alone: shrink_head(learn.model, {kept}), then assign the data."
        raise TrainingError(
            f"These data have the classes {first_few(new.vocab)}, the model was made for "
            f"{first_few(old.vocab)}. {way} Or copy by class name: new = vision_learner(dls, arch);"
            " transplant(learn, new)."
        )
    return bound_to(new, old.input)


def balanced_for(loss: LossFunc, data: DataSource) -> LossFunc:
    """The loss; if it is "balanced", with weights by the classes of the training data."""
    if not isinstance(loss, NamedLoss) or not loss.is_balanced:
        return loss
    targets = data.targets()
    if targets is None:
        raise TrainingError(
            '"balanced" counts the classes of the training data, but '
            f"{type(data.train).__name__} does not expose its labels (targets or labels of its "
            "dataset). Give one weight for each class instead, such as "
            "CrossEntropy(weight=[1.0, 5.0])."
        )
    return loss.balanced(targets, data.n_outputs)


def _check_kind(old: DataSource, new: DataSource) -> None:
    if old.task and new.task and old.task != new.task:
        raise TrainingError(
            f"These data have the task {new.task!r}, the model was made for {old.task!r}. For "
            "a different task make a new learner, such as vision_learner(dls, arch)."
        )
    ours, theirs = old.inputs_are(), new.inputs_are()
    if ours and theirs and ours != theirs:
        raise TrainingError(
            f"These data give {theirs}, the model takes {ours}. Make the data as those before, "
            "with channels= of images or model= of texts, or make a new learner for them."
        )


Ema = bool | float | None
USUAL_DECAY: Final = 0.999


def checked_ema(ema: Ema) -> float | None:
    """The decay of the moving average of the weights; None for no average."""
    if ema is None or isinstance(ema, bool):
        return USUAL_DECAY if ema else None
    return number("ema", ema, 0, 1, USUAL_DECAY, open_ends=True)


def _checked_opt(opt: Optimizer | None) -> Optimizer | None:
    if opt is None or (isinstance(opt, Optimizer) and own_param_groups(opt)):
        return opt
    raise TrainingError(
        f"learn.opt is a {type(opt).__name__} without the layer groups. A fit makes the optimizer: "
        'assign what makes it, learn.opt_func = "sgd" or a class.'
    )


def _checked_history(history: History) -> History:
    if not isinstance(history, History):
        raise TrainingError(f"history={history!r} must be a History, such as learn.history[:3].")
    return history


def _refused(name: str, instead: str) -> Callable[[Never], Any]:
    def check(value: object) -> Never:
        raise TrainingError(f"learn.{name} cannot be assigned. {instead}")

    return check


class Setting(Generic[_Given, _Set]):
    """An attribute that is checked when it is assigned."""

    def __init__(self, check: Callable[[_Given], _Set]) -> None:
        self._check = check

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    def __get__(self, owner: object | None, kind: type) -> _Set:
        return self if owner is None else getattr(owner, self._name)  # type: ignore[return-value] # of the class

    def __set__(self, owner: object, value: _Given) -> None:
        object.__setattr__(owner, self._name, self._check(value))


_DEVICE = (
    "An accelerator is used where there is one. To choose, set the environment variable "
    "ACCELERATE_TORCH_DEVICE before the first fit, such as to cpu or cuda:1."
)
_ELSEWHERE = {
    "lr": "Rates belong to the layer groups: learn.layer_groups.set_rates(1e-3), or lr= of a fit.",
    "epochs": "Fits take them: learn.fit_one_cycle(3).",
    "batch_size": "The data have it: ImageDataLoaders.from_folder(folder, batch_size=32).",
    "optimizer": "opt_func= chooses it; learn.opt is the optimizer itself.",
    **dict.fromkeys(("device", "to", "cuda", "cpu"), _DEVICE),
}
_FOR_THE_LOOP = (  # of this package: neither suggested nor completed
    "begin_epoch", "called_model", "end_epoch", "epoch_seed", "made_optimizer",
    "meter", "note_kept_statistics", "placed_model", "processes", "reporter",
)  # fmt: skip


class LearnerState(SuggestsNames):
    """Model, layer groups, data, settings, optimizer, device and counts of a `Learner`.

    A setting may be assigned at any time: it is checked as in the constructor, and the next step or
    fit uses it. The functions of this library take a `LearnerState`, not a `Learner`.

    Attributes:
        groups: as `layer_groups`, without the sync with the model.
        opt: the optimizer over all groups; None before the first fit.
        norms: which norm layers keep their running statistics.
        history: the epochs of all fits.
        epochs_done: passes over the training items so far.
        fits_done: fits so far.
        data: the adapted data; `dls` has the original object.
        blueprint: how to rebuild the model, if known.
        pretrained: whether the model started with pretrained weights; None if unknown.
        callbacks, mixed_precision, progress, thresh, accumulate, clip, ema, compile, seed, path:
            as the arguments of `Learner`.
    """

    _elsewhere = _ELSEWHERE
    blueprint: Blueprint | None
    pretrained: bool | None
    _loss_func: LossFunc

    groups: Setting[Never, LayerGroups] = Setting(
        _refused("groups", "Give them when you make the learner: Learner(dls, model, groups=...).")
    )
    norms: Setting[Never, BatchNormPolicy] = Setting(
        _refused("norms", 'Assign the policy: learn.batch_norm = "keep".')
    )
    data: Setting[Never, DataSource] = Setting(_refused("data", "Assign learn.dls = dls."))
    cache: Setting[Never, Any] = Setting(
        _refused("cache", "Assign its limits: learn.feature_cache = FeatureCacheConfig(views=4).")
    )
    opt = Setting(_checked_opt)
    history = Setting(_checked_history)
    epochs_done = Setting(partial(whole_number, "learn.epochs_done", least=0, example=3))
    fits_done = Setting(partial(whole_number, "learn.fits_done", least=0, example=3))
    callbacks = Setting(checked_callbacks)
    mixed_precision = Setting(checked_precision)
    progress = Setting(checked_progress)
    thresh = Setting(checked_threshold)
    accumulate = Setting(launched_accumulation)
    clip = Setting(checked_clip)
    ema = Setting(checked_ema)
    compile = Setting(checked_compile)
    seed: Setting[int | None, int | None] = Setting(
        lambda seed: None if seed is None else whole_number("seed", seed, 0, 42)
    )
    path: Setting[str | Path, Path] = Setting(
        partial(path_of, error=TrainingError, right='Learner(..., path="models")')
    )

    def __init__(
        self,
        dls: TrainValid,
        model: nn.Module,
        *,
        groups: LayerGroups | None,
        split: Split,
        cache: Any,
        batch_norm: BatchNorm,
    ) -> None:
        self._data = data_source(dls)
        self._model = _laid_out(model)
        if groups is None:
            groups = LayerGroups(model, split, example_input=self.data.example())
        if not isinstance(groups, LayerGroups):
            raise TrainingError(
                f"groups= is a {type(groups).__name__}; give LayerGroups(model), or a rule: "
                'Learner(dls, model, split="auto").'
            )
        if groups.model is not unwrap(model):
            raise TrainingError("groups= are those of another model; use LayerGroups(model).")
        self._groups, self._cache, self._split = groups, cache, split
        self._norms = BatchNormPolicy(batch_norm)
        self.opt = self.blueprint = self.pretrained = None
        self.callbacks, self.history = [], History()
        self._last_plan: Any = None  # of `fine_tune`, a class of a higher floor
        self._opt_func: OptFunc = "adamw"
        self.epochs_done = self.fits_done = 0
        self._noted_kept = False
        self._compiled: Compiled | None = None
        self._accelerator: Accelerator | None = None
        self._reporter: tuple[bool | Reporter, Reporter] | None = None

    def __repr__(self) -> str:
        groups = self.layer_groups
        named = [f"{group.name} frozen" if group.frozen else group.name for group in groups]
        return f"Learner({groups.network}, groups: {', '.join(named)}; epochs: {self.epochs_done})"

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if name not in _FOR_THE_LOOP]

    # Parts and settings

    @property
    def model(self) -> nn.Module:
        """The model. A different one may be assigned: groups and optimizer follow."""
        return self._model

    @model.setter
    def model(self, model: nn.Module) -> None:
        if model is self._model:
            return
        groups = regroup(self.layer_groups, _laid_out(model), self._split, self.data)
        self._model, self._groups = model, groups
        if self.opt is not None:
            self.placed_model()
            self.opt = carry_optimizer(self.opt, groups)

    @property
    def layer_groups(self) -> LayerGroups:
        """The layer groups, synced with the model."""
        self.groups.sync()
        return self.groups

    @layer_groups.setter
    def layer_groups(self, groups: Never) -> None:
        self.groups = groups  # refused, with the right call

    @property
    def dls(self) -> Any:
        """The data. Data with the same classes may be assigned, or with more after `grow_head`."""
        return self.data.given

    @dls.setter
    def dls(self, dls: TrainValid) -> None:
        data = fitting_data(self.data, data_source(dls), self.layer_groups)
        self._balanced = balanced_for(self._loss_func, data)
        self._data = data

    @property
    def task(self) -> Task:
        """The task of the data, else the task that the loss implies."""
        return self.data.task or task_meant_by(self._loss_func)

    @task.setter
    def task(self, task: Never) -> None:
        raise TrainingError(
            "learn.task cannot be assigned: the data have it. Make them with task=, then a learner."
        )

    @property
    def loss_func(self) -> LossFunc:
        """The loss of a batch. A name may be assigned too.

        "balanced" weights are computed from the current training data.
        """
        return self._balanced

    @loss_func.setter
    def loss_func(self, loss_func: LossFunc | str) -> None:
        given = as_loss(loss_func)
        self._balanced = balanced_for(given, self.data)
        self._loss_func = given
        self.task.note_unknown_loss(given)

    @property
    def metrics(self) -> list[Any]:
        """The metrics, as a list. One metric or several may be assigned."""
        return self._metrics

    @metrics.setter
    def metrics(self, metrics: Any) -> None:
        given = as_list(metrics)
        check_metrics(given, self.task)
        self._metrics = given

    @property
    def opt_func(self) -> OptFunc:
        """The optimizer factory. Assigning a different one discards the current optimizer."""
        return self._opt_func

    @opt_func.setter
    def opt_func(self, opt_func: OptFunc) -> None:
        factory_of(opt_func)
        if self.opt is not None and opt_func != self.opt_func:
            _log.warning("opt_func changed: the next fit starts with a new optimizer state.")
            self.opt = None
        self._opt_func = opt_func

    @property
    def weight_decay(self) -> float:
        """The weight decay; not applied to norms, biases and tokens. `wd` is an alias."""
        return self._weight_decay

    @weight_decay.setter
    def weight_decay(self, weight_decay: float) -> None:
        self._weight_decay = checked_decay(weight_decay)
        if self.opt is not None:
            wanted = self.layer_groups.param_groups(weight_decay=weight_decay)
            decays = {group["name"]: group["weight_decay"] for group in wanted}
            for group in self.opt.param_groups:
                group["weight_decay"] = decays.get(group.get("name"), group["weight_decay"])

    wd = weight_decay

    @property
    def batch_norm(self) -> str:
        """Which norm layers keep their running statistics; see `BatchNormPolicy`."""
        return self.norms.policy

    @batch_norm.setter
    def batch_norm(self, policy: str) -> None:
        self.norms.policy = checked_policy(policy)

    def file(self, name: str | Path) -> Path:
        """The path of the checkpoint with this name."""
        text = str(path_of(name, CheckpointError, 'learn.save("first")'))
        return self.path / f"{text.removesuffix('.safetensors')}.safetensors"

    @property
    def accelerator(self) -> Accelerator:
        """Device and precision; created at the first use."""
        made = self._accelerator
        if made is None or made.mixed_precision != precision_name(self.mixed_precision):
            made = self._accelerator = make_accelerator(self.mixed_precision)
        return made

    @property
    def reporter(self) -> Reporter:
        """Shows progress bars and epoch rows."""
        if self._reporter is None or self._reporter[0] is not self.progress:
            shown = self.progress if self.processes.is_main else False
            self._reporter = (self.progress, reporter(shown))
        return self._reporter[1]

    @property
    def processes(self) -> Processes:
        """The processes that `torchrun` or `accelerate launch` has started."""
        _ = self.accelerator  # creating it joins the process group
        return current_processes()

    def placed_model(self) -> nn.Module:
        """The model, moved to its device."""
        self.data.to(self.accelerator.device)
        placed = place(self._model, self.accelerator.device)
        if wants_sharding() and self.processes.is_distributed:
            shard(placed, self.groups, self.processes, self.accelerator.device.type)
        return placed

    def called_model(self) -> Callable[..., Tensor]:
        """The model as fits call it: compiled if `compile` is set."""
        options = self.compile
        if options is None or is_compiled(self._model):
            return self._model
        made = self._compiled
        if made is None or made.model is not self._model or made.options != options:
            made = self._compiled = Compiled(self._model, options)
        return made

    def made_optimizer(self) -> Optimizer:
        """The optimizer over all groups; created before the first fit, then reused."""
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

    # For the loop

    def meter(self) -> Meter:
        """A new meter of the metrics."""
        return Meter(self.metrics, self.data.n_outputs, self.task, self.thresh)

    def begin_epoch(self, batches: Batches, *, seeded: bool = True) -> None:
        """Set order, random state and modes for the next epoch; a resumed one is not seeded."""
        if self.seed is not None and seeded:
            torch.manual_seed(self.epoch_seed())
        set_epoch(batches, self.epochs_done)
        self.norms.train(self.model)

    def note_kept_statistics(self) -> None:
        """Log once that "auto" keeps statistics, if they are not known to be pretrained."""
        if self._noted_kept or self.pretrained or self.batch_norm != "auto":
            return
        kept = self.norms.kept(self._model)
        if kept:
            self._noted_kept = True
            _log.warning(
                "%d batch norms that train keep their running statistics, because these are not "
                'the initial ones; batch_norm="update" updates them from the batches.',
                len(kept),
            )

    def end_epoch(self, row: EpochRow, passes: int = 1) -> None:
        """Record and show an epoch that counts as this number of passes."""
        self.history += (row,)
        self.epochs_done += passes
        self.reporter.row(row)

    def epoch_seed(self, epoch: int | None = None) -> int:
        """The seed of an epoch (None: the next), from the seed of the learner or its data."""
        seed = self.data.seed if self.seed is None else self.seed
        return mixed(seed, self.epochs_done if epoch is None else epoch)


def _laid_out(model: nn.Module) -> nn.Module:
    return model if wants_sharding() else in_fast_layout(model)
