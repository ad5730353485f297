"""Layer groups in the Trainer of Lightning: `pip install "layergroups[lightning]"`.

unfreeze = GradualUnfreezing(every=0.5)
trainer = Trainer(callbacks=[LayerGroupsCallback(lr=decay(1e-3, 0.8), unfreeze=unfreeze)])
trainer.fit(module, data)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from layergroups.checkpoints import load_random_state, random_state
from layergroups.errors import GroupingError
from layergroups.groups import LayerGroups, Rate, Split, decays
from layergroups.integrations._unfreezing import Unfreezer, Unfreezing

try:
    from lightning.pytorch.callbacks import BaseFinetuning, Callback, LearningRateFinder
except ImportError:
    try:
        from pytorch_lightning.callbacks import BaseFinetuning, Callback, LearningRateFinder
    except ImportError as cause:
        raise ImportError('this needs Lightning: pip install "layergroups[lightning]"') from cause

__all__ = ["LayerGroupsCallback"]
_POSITION = "LayerGroupsCallback/position"  # in a checkpoint


class LayerGroupsCallback(Callback):
    """Layer groups for any LightningModule with one optimizer, in the place of `BaseFinetuning`.

    The module's `configure_optimizers` stays as it is: the optimizer that it makes gets the
    parameters in layer groups, all from the first step, so its schedulers and `LearningRateMonitor`
    have a rate for each. What is frozen does not change by a bit. A checkpoint has the freezing,
    the rates and the position of the unfreezing. DDP needs no `find_unused_parameters`. It also has
    the random states of all processes, so a run that is resumed with `ckpt_path`, in the middle of
    an epoch too, ends bit for bit as the unbroken one: the batches that were used are read again
    and skipped, unless the loader has a `state_dict` of its own.

    Args:
        split: a rule, as in `LayerGroups`.
        lr: the rate of each group, as in `LayerGroups.set_rates`; None: that of the optimizer.
        freeze_to: the lowest group that trains, by name or index; all before it are frozen.
        unfreeze: a `GradualUnfreezing`, in parts of epochs or in steps, or an `UnfreezeOnPlateau`
            of a logged value; it sets freezing from the first step.
        norm: "train" trains the norm layers of frozen groups; a plan has its own.
        model: path of the network in the LightningModule, such as "model"; None: the module itself.
            Parameters outside of the network keep the parameter groups that the module gives them.
        example_input: as in `LayerGroups`; None: the module's `example_input_array`.

    Attributes:
        groups: the layer groups, from the setup of a fit on.
    """

    groups: LayerGroups

    def __init__(
        self,
        split: Split = "auto",
        lr: Rate | None = None,
        *,
        freeze_to: int | str | None = None,
        unfreeze: Unfreezing | None = None,
        norm: str = "freeze",
        model: str | None = None,
        example_input: Any = None,
    ) -> None:
        if freeze_to is not None and unfreeze is not None:
            raise GroupingError("a plan sets freezing: give freeze_to= or unfreeze=, not both")
        self.split, self.lr, self.freeze_to, self.plan = split, lr, freeze_to, unfreeze
        self.norm, self.path, self.example_input = norm, model, example_input
        self._unfreezer: Unfreezer | None = None
        self._saved: Mapping[str, Any] | None = None
        self._position = _Position()

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Divide the network, and have the module's optimizer made over the groups."""
        if stage != "fit":
            return
        for other in trainer.callbacks:
            family = type(other).__module__.partition(".")[0]
            if isinstance(other, BaseFinetuning) or family == "finetuning_scheduler":
                raise GroupingError(
                    f"{type(other).__name__} freezes and unfreezes too, and adds parameter groups; "
                    "remove it from the callbacks, or LayerGroupsCallback"
                )
        network = pl_module.get_submodule(self.path) if self.path else pl_module
        example = self.example_input
        if example is None:
            example = getattr(pl_module, "example_input_array", None)
        if self._unfreezer is None or self.groups.model is not network:
            self.groups = LayerGroups(network, self.split, example_input=example)
            self._unfreezer = None
        if "configure_optimizers" not in vars(pl_module):
            made = functools.partial(self._configured, pl_module.configure_optimizers)
            pl_module.configure_optimizers = made

    def _configured(self, configure: Callable[[], Any]) -> Any:
        with _over_groups(self.groups, self.lr):
            return configure()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Freeze; the optimizer has all groups already."""
        ours = [o for o in trainer.optimizers if any("layer_group" in g for g in o.param_groups)]
        if len(ours) != 1:
            raise GroupingError(
                f"{len(ours)} optimizers of configure_optimizers have parameters of the network; "
                "LayerGroupsCallback needs one over all of them"
            )
        if not self.groups.is_attached(ours[0]):
            self.groups.attach(ours[0])
        if self.freeze_to is not None and self._unfreezer is None:
            self.groups.freeze_to(self.freeze_to, norm=self.norm)
        self._unfreezer = self._unfreezer or Unfreezer(self.groups, self.plan)
        self._optimizer = ours[0]
        self._position.begin_fit()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Restore the state of a resumed run; the optimizer has been restored before."""
        assert self._unfreezer is not None
        if self._saved:
            self._unfreezer.begin(self._optimizer, self._saved)
        self._saved = None
        self._position.restore(trainer)
        for finder in trainer.callbacks:
            found = finder.optimal_lr if isinstance(finder, LearningRateFinder) else None
            if found is not None and (best := found.suggestion()) is not None:
                self._scale_rates(trainer, best)

    def _scale_rates(self, trainer: Any, top: float) -> None:
        """A rate that was found is that of the fastest group; the finder has given it to all."""
        for config in trainer.lr_scheduler_configs:
            if hasattr(config.scheduler, "get_last_lr"):
                pairs = zip(
                    self._optimizer.param_groups, config.scheduler.get_last_lr(), strict=True
                )
                for group, rate in pairs:
                    group["lr"] = rate
        rates = self.groups.rates
        self.groups.set_rates([rate * top / max(rates) for rate in rates])

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Remember the random state from which the order of the epoch is drawn."""
        if trainer.current_epoch:  # the first epoch's loaders are ready before this event
            self._position.epoch = random_state()

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        """Unfreeze what the plan says."""
        assert self._unfreezer is not None
        if batch_idx % trainer.accumulate_grad_batches == 0:
            n = trainer.num_training_batches  # infinite for some iterable data sets
            part = batch_idx / n
            self._unfreezer.at(trainer.current_epoch + part, trainer.global_step)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Unfreeze on a plateau of a logged value."""
        if (
            self._unfreezer is not None
            and trainer.state.fn == "fit"
            and not trainer.sanity_checking
        ):
            self._unfreezer.measured(trainer.callback_metrics)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Unfreeze on a plateau, where there is no validation."""
        if self._unfreezer is not None and not sum(trainer.num_val_batches or [0]):
            self._unfreezer.measured(trainer.callback_metrics)

    def teardown(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Give the module its own `configure_optimizers` back."""
        vars(pl_module).pop("configure_optimizers", None)

    def state_dict(self) -> dict[str, Any]:
        """Freezing, rates and position, for the checkpoint."""
        return {} if self._unfreezer is None else self._unfreezer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until the optimizer is restored."""
        self._saved = state_dict

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Add the position in the epoch and the random states; Lightning saves neither."""
        checkpoint[_POSITION] = self._position.of_all_processes(trainer)

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep them until the loaders are made."""
        states = checkpoint.get(_POSITION, [])
        if len(states) == trainer.world_size:
            self._position.saved = states[trainer.global_rank]


class _Position:
    """Where a process is: in an epoch, and in the sequences of its random numbers."""

    def __init__(self) -> None:
        self.epoch: Any = None  # the random state at the start of this epoch
        self.saved: dict[str, Any] | None = None

    def begin_fit(self) -> None:
        if self.saved is not None and self.saved["batches"] and not self.saved["epoch"]:
            load_random_state(*self.saved["start"])
        self.epoch = random_state()

    def of_all_processes(self, trainer: Any) -> list[dict[str, Any]]:
        now = random_state()
        progress = trainer.fit_loop.epoch_loop.batch_progress
        done = 0 if progress.is_last_batch else progress.current.ready
        epoch = trainer.current_epoch
        own = {"now": now, "start": self.epoch if done else now, "batches": done, "epoch": epoch}
        states = [own] * trainer.world_size
        if trainer.world_size > 1:
            torch.distributed.all_gather_object(states, own)
        return states

    def restore(self, trainer: Any) -> None:
        """When loaders and optimizer are ready, before the first batch."""
        saved, self.saved = self.saved, None
        fetcher = getattr(trainer.fit_loop, "_data_fetcher", None)
        if saved is None or fetcher is None:
            return
        loaders, done = fetcher.combined_loader.flattened, saved["batches"]
        if done and any(hasattr(loader, "load_state_dict") for loader in loaders):
            load_random_state(*saved["now"])  # Lightning has restored their positions
            return
        if trainer.current_epoch or not done:
            load_random_state(*saved["start"])
            self.epoch = saved["start"]
        if trainer.current_epoch:
            for loader in loaders:
                if hasattr(getattr(loader, "sampler", None), "set_epoch"):
                    loader.sampler.set_epoch(trainer.current_epoch)
            iter(fetcher)  # Lightning began this epoch with the order of the first
        for _ in range(done):
            next(fetcher)
        fetcher.fetched = 0  # Lightning adds them
        if done:
            load_random_state(*saved["now"])


@contextmanager
def _over_groups(groups: LayerGroups, lr: Rate | None) -> Iterator[None]:
    """Optimizers made inside get the parameters of the network in layer groups.

    `Optimizer.__init__` receives the parameters in whatever way they were written down, before any
    scheduler is made of them, so it is replaced until the end of the block.
    """
    plain = Optimizer.__init__

    def init(self: Optimizer, params: Any, defaults: dict[str, Any]) -> None:
        plain(self, _divided(groups, lr, list(params), defaults), defaults)

    Optimizer.__init__ = init  # type: ignore[method-assign] # until the end of the block
    try:
        yield
    finally:
        Optimizer.__init__ = plain  # type: ignore[method-assign] # as before


def _divided(
    groups: LayerGroups, lr: Rate | None, params: list[Any], defaults: dict[str, Any]
) -> list[Any]:
    """The parameters of the network in layer groups, and others as they were given."""
    single = [p for p in params if not isinstance(p, dict)]
    given = [p for p in params if isinstance(p, dict)] or [{"params": single}]
    if any("layer_group" in group for group in given):
        return params  # made from the groups by the module itself
    network = {*groups.model.parameters()}
    decayed: dict[nn.Parameter, float] = {}
    rest = []
    for group in given:
        members = group["params"]
        members = [members] if isinstance(members, torch.Tensor) else [*members]
        members = [p[1] if isinstance(p, tuple) else p for p in members]  # without names
        decay = group.get("weight_decay", defaults.get("weight_decay", 0.0))
        decayed |= {p: decay for p in members if p in network}
        if others := [p for p in members if p not in network]:
            rest.append({**group, "params": others})
    if not decayed:
        return params
    trains = [name for name, p in groups.model.named_parameters() if p.requires_grad]
    if lacking := [n for n in trains if groups.model.get_parameter(n) not in decayed]:
        raise GroupingError(
            f"the optimizer of configure_optimizers lacks {len(lacking)} parameters of the network "
            f"that train, such as {lacking[0]}; give it all, or set requires_grad=False"
        )
    made = groups.param_groups(
        float(defaults["lr"]) if lr is None else lr,
        max(decayed.values()),
        decays=lambda name, p: decayed[p] > 0 if p in decayed else decays(name, p),
    )
    return made + rest
