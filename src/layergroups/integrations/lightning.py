"""Layer groups in the Trainer of Lightning: `pip install "layergroups[lightning]"`.

unfreeze = GradualUnfreezing(every=0.5)
trainer = Trainer(callbacks=[LayerGroupsCallback(lr=decay(1e-3, 0.8), unfreeze=unfreeze)])
trainer.fit(module, data)
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from layergroups._formatting import count
from layergroups.checkpoints import load_random_state, random_state
from layergroups.errors import AnatomyError, GroupingError
from layergroups.groups import LayerGroups, Rate, Split, decays
from layergroups.integrations._unfreezing import Unfreezer, Unfreezing

try:
    from lightning.pytorch.callbacks import BaseFinetuning, Callback, LearningRateFinder
    from lightning.pytorch.utilities.model_helpers import is_overridden
except ImportError:
    try:
        from pytorch_lightning.callbacks import BaseFinetuning, Callback, LearningRateFinder
        from pytorch_lightning.utilities.model_helpers import is_overridden
    except ImportError as cause:
        raise ImportError('this needs Lightning: pip install "layergroups[lightning]"') from cause

__all__ = ["LayerGroupsCallback"]
_log = logging.getLogger("layergroups")
_POSITION = "LayerGroupsCallback/position"  # in a checkpoint


class LayerGroupsCallback(Callback):
    """Layer groups for any LightningModule, in the place of `BaseFinetuning`.

    The module's `configure_optimizers` stays as it is: the optimizer that it makes gets the
    parameters in layer groups, all from the first step, so its schedulers and `LearningRateMonitor`
    have a rate for each. An optimizer made of what trains at first gets the groups that are frozen
    then too; several optimizers may have whole layer groups each. What is frozen does not change by
    a bit. DDP needs no `find_unused_parameters`. A checkpoint has the freezing, the rates and the
    position of the unfreezing. It also has the random states of all processes, so a run that is
    resumed with `ckpt_path`, in the middle of an epoch too, ends bit for bit as the unbroken one:
    the batches that were used are read again and skipped, unless the loader has a `state_dict` of
    its own.

    Args:
        split: a rule, as in `LayerGroups`.
        lr: the rate of each group, as in `LayerGroups.set_rates`; None: those of the optimizer. A
            `OneCycleLR` or `CyclicLR` with one peak has it for the fastest group.
        freeze_to: the lowest group that trains, by name or index; all before it are frozen.
        unfreeze: a `GradualUnfreezing`, in parts of epochs or in steps, or an `UnfreezeOnPlateau`
            of a logged value; it sets freezing from the first step.
        norm: "train" trains the norm layers of frozen groups; a plan has its own.
        model: path of the network in the LightningModule, such as "model"; None: the module itself.
            Parameters outside of the network keep the parameter groups that the module gives them.
        example_input: as in `LayerGroups`; None: the module's `example_input_array`.

    Attributes:
        groups: the layer groups, from `configure_optimizers` on.
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
        if is_overridden("configure_model", pl_module):
            with suppress(AnatomyError, AttributeError, GroupingError):  # it has no layers yet
                self._divide(pl_module)  # it can be read only until it is sharded
        if "configure_optimizers" not in vars(pl_module):
            made = functools.partial(self._configured, pl_module, pl_module.configure_optimizers)
            pl_module.configure_optimizers = made

    def _divide(self, pl_module: Any) -> None:
        network = pl_module.get_submodule(self.path) if self.path else pl_module
        example = self.example_input
        if example is None:
            example = getattr(pl_module, "example_input_array", None)
        if not hasattr(self, "groups") or self.groups.model is not network:
            self.groups = LayerGroups(network, self.split, example_input=example)
            self._unfreezer = None

    def _configured(self, pl_module: Any, configure: Callable[[], Any]) -> Any:
        self._divide(pl_module)
        first = self.freeze_to if self.plan is None else self.plan.start
        frozen = range(0 if first is None else self.groups[first].index)
        with _over_groups(self.groups, self.lr, frozen):
            return configure()

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Freeze; the optimizers have all groups already."""
        self._optimizers = [
            o for o in trainer.optimizers if any("layer_group" in g for g in o.param_groups)
        ]
        held = {p for o in self._optimizers for g in o.param_groups for p in g["params"]}
        named = self.groups.model.named_parameters()
        if lacking := [name for name, p in named if p.requires_grad and p not in held]:
            raise GroupingError(
                f"the optimizers of configure_optimizers lack {count(len(lacking), 'parameter')} "
                f"of the network that train, such as {lacking[0]}; give them all, or set "
                "requires_grad=False"
            )
        if self._saved and self._saved["groups"]["names"] != [*self.groups.names]:
            raise GroupingError(
                f"the checkpoint has the layer groups {self._saved['groups']['names']}, the "
                f"callback {[*self.groups.names]}; give it the split= of the run that is resumed"
            )
        if self.freeze_to is not None and self._unfreezer is None:
            self.groups.freeze_to(self.freeze_to, norm=self.norm)
        if self.lr is not None:
            for config in trainer.lr_scheduler_configs:
                _spread_peaks(config.scheduler, self.groups.rates)
        self._unfreezer = self._unfreezer or Unfreezer(self.groups, self.plan)
        self._events, self._measured_at = set[str](), ""
        self._position.begin_fit()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Restore the state of a resumed run; the optimizer has been restored before."""
        assert self._unfreezer is not None
        if self._saved:
            if self.plan is not None and trainer.strategy.restore_checkpoint_after_setup:
                _log.warning(
                    "%s restores the optimizer before freezing is known: groups that were unfrozen "
                    "in the run begin with new moments", type(trainer.strategy).__name__,
                )  # fmt: skip
            self._unfreezer.begin(self._optimizers, self._saved)
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
                groups = config.scheduler.optimizer.param_groups
                for group, rate in zip(groups, config.scheduler.get_last_lr(), strict=True):
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
        """Unfreeze on a plateau of a value of validation."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._measure(trainer, "validation")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Unfreeze on a plateau of a value of training."""
        self._measure(trainer, "epoch")

    def _measure(self, trainer: Any, event: str) -> None:
        """The value is new at the event that had it first; at the other it is the same again."""
        name = getattr(self.plan, "monitor", None)
        if name is None or self._unfreezer is None:
            return
        self._events.add(event)
        value = trainer.callback_metrics.get(name)
        values = [None if value is None else float(value)] * trainer.world_size
        if trainer.world_size > 1:  # each may have logged its own, and all must do the same
            torch.distributed.all_gather_object(values, values[0])
        logged = [value for value in values if value is not None]
        if logged:
            self._measured_at = self._measured_at or event
            if event == self._measured_at:
                self._unfreezer.measured({name: sum(logged) / len(logged)})
        elif event == "epoch" and ("validation" in self._events or not _validates(trainer)):
            raise GroupingError(
                f"the plan waits for {name!r}, which was not logged; there are "
                f"{sorted(trainer.callback_metrics)}: self.log({name!r}, value), or give one of "
                "them as monitor="
            )

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
        saved = [g for o in checkpoint.get("optimizer_states", ()) for g in o["param_groups"]]
        if saved and not any("layer_group" in group for group in saved):
            raise GroupingError(
                "this checkpoint was written without LayerGroupsCallback, so its optimizer has "
                "other parameter groups; start from its weights alone, "
                f"{type(pl_module).__name__}.load_from_checkpoint(path), and give no ckpt_path="
            )
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


def _validates(trainer: Any) -> bool:
    return bool(sum(trainer.num_val_batches or [0]))


@contextmanager
def _over_groups(groups: LayerGroups, lr: Rate | None, frozen: Collection[int]) -> Iterator[None]:
    """Optimizers made inside get the parameters of the network in layer groups.

    `Optimizer.__init__` receives the parameters in whatever way they were written down, before any
    scheduler is made of them, so it is replaced until the end of the block.
    """
    plain = Optimizer.__init__
    divided = _Divided(groups, lr, frozen)

    def init(self: Optimizer, params: Any, defaults: dict[str, Any]) -> None:
        plain(self, divided.param_groups([*params], defaults), defaults)
        if any("layer_group" in group for group in self.param_groups):
            groups.attach(self)  # before a scheduler is made, which may have rates of its own
            divided.optimizers.append(self)

    Optimizer.__init__ = init  # type: ignore[method-assign] # until the end of the block
    try:
        yield
    finally:
        Optimizer.__init__ = plain  # type: ignore[method-assign] # as before


class _Divided:
    """The parameters of a network in layer groups, for the optimizers that one call makes.

    An optimizer has the layer groups that it is given. Those that are frozen at first and that none
    is given join the first one: modules for `BaseFinetuning` give it what trains at first.
    """

    def __init__(self, groups: LayerGroups, lr: Rate | None, frozen: Collection[int]) -> None:
        self.groups, self.own_rates, self.frozen = groups, lr is None, frozen
        self.optimizers: list[Optimizer] = []
        self.options: dict[nn.Parameter, dict[str, Any]] = {}  # what each was given with
        if lr is not None:
            groups.set_rates(lr)

    def param_groups(self, params: list[Any], defaults: dict[str, Any]) -> list[Any]:
        """Of the layer groups of an optimizer, and others as they were given."""
        single = [p for p in params if not isinstance(p, dict)]
        given = [p for p in params if isinstance(p, dict)] or [{"params": single}]
        if any("layer_group" in group for group in given):
            return params  # made from the groups by the module itself
        network = {*self.groups.model.parameters()}
        own: set[nn.Parameter] = set()
        rest = []
        for group in given:
            members = group["params"]
            members = [members] if isinstance(members, torch.Tensor) else [*members]
            members = [p[1] if isinstance(p, tuple) else p for p in members]  # without names
            options = {k: v for k, v in group.items() if k not in ("params", "name")}
            options = {"weight_decay": 0.0, **defaults, **options}
            for parameter in members:
                self.options[parameter] = options
            own |= network.intersection(members)
            if others := [p for p in members if p not in network]:
                rest.append({**group, "params": others})
        if not own:
            return params
        self._take_from_others(own)
        chosen = [i for i in range(len(self.groups)) if self._joins(i, own)]
        if self.own_rates:
            rates = {self.groups.names[i]: self._rate(i, own, defaults["lr"]) for i in chosen}
            self.groups.set_rates(rates)
        decay = defaults.get("weight_decay", 0.0)
        made = self.groups.param_groups(weight_decay=decay, decays=self._decays)
        made = [group for group in made if group["layer_group"] in chosen]
        for group in made:
            group.update(self._common([p for p in group["params"] if p in own], group["name"]))
        return made + rest

    def _take_from_others(self, own: set[nn.Parameter]) -> None:
        """Layer groups that joined an optimizer, and are given to this one."""
        for groups in (optimizer.param_groups for optimizer in self.optimizers):
            taken = {g.get("layer_group") for g in groups if own.intersection(g["params"])}
            for group in [g for g in groups if g.get("layer_group", -1) in taken]:
                group["params"] = []
                del group["layer_group"], group["name"]

    def _joins(self, i: int, own: set[nn.Parameter]) -> bool:
        group = self.groups[i]
        trains = {name for name, p in group.named_parameters() if p.requires_grad}
        lacking = [name for name, p in group.named_parameters() if name in trains and p not in own]
        if own.isdisjoint(group.parameters()):
            held = (g.get("layer_group") for o in self.optimizers for g in o.param_groups)
            return (i in self.frozen or not trains) and i not in held
        if lacking:
            raise GroupingError(
                f"an optimizer of configure_optimizers lacks {len(lacking)} of the "
                f"{count(len(trains), 'parameter')} of layer group {group.name!r} that train, such "
                f"as {lacking[0]}; give it all of a layer group, or set requires_grad=False"
            )
        return True

    def _rate(self, i: int, own: set[nn.Parameter], default: float) -> float:
        members = own.intersection(self.groups[i].parameters())
        rates = {float(self.options[p]["lr"]) for p in members} or {float(default)}
        if len(rates) > 1:
            raise GroupingError(
                f"configure_optimizers gives parameters of layer group {self.groups.names[i]!r} "
                f"the rates {sorted(rates)}, and a layer group has one; give lr= to "
                "LayerGroupsCallback, or a split= between them"
            )
        return rates.pop()

    def _decays(self, name: str, parameter: nn.Parameter) -> bool:
        if parameter not in self.options:
            return decays(name, parameter)
        return bool(self.options[parameter]["weight_decay"])

    def _common(self, members: list[nn.Parameter], name: str) -> dict[str, Any]:
        """The options of parameters, other than the rate."""
        given = [{k: v for k, v in self.options[p].items() if k != "lr"} for p in members]
        if any(options != given[0] for options in given):
            raise GroupingError(
                f"configure_optimizers gives parameters of {name!r} different options, and a "
                "layer group has one of each; give split= between them, or the same options"
            )
        return given[0] if given else {}


def _spread_peaks(scheduler: Any, rates: tuple[float, ...]) -> None:
    """OneCycleLR and CyclicLR have rates of their own; one for all is that of the fastest group."""
    groups = getattr(getattr(scheduler, "optimizer", None), "param_groups", [])
    cyclic = getattr(scheduler, "max_lrs", None)
    peaks = cyclic or [group.get("max_lr") for group in groups]
    ours = {i: group["layer_group"] for i, group in enumerate(groups) if "layer_group" in group}
    if len({peaks[i] for i in ours}) != 1 or None in peaks:
        return
    for i, index in ours.items():
        part = rates[index] / max(rates)
        for key in ("lr", "initial_lr", "max_lr", "min_lr"):
            if key in groups[i]:
                groups[i][key] *= part
        if cyclic:
            scheduler.base_lrs[i] *= part
            cyclic[i] *= part
