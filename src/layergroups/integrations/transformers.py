"""Layer groups in the Trainer of transformers: `pip install "layergroups[transformers]"`.

trainer = LayerGroupsTrainer(
    model, args, train_dataset=data, layer_lr=decay(2e-5, 0.8),
    unfreeze=GradualUnfreezing(every=0.5),
)
trainer.train()
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from layergroups._random import private_randomness
from layergroups._torch import unwrap
from layergroups.errors import ExampleInputError, GroupingError
from layergroups.groups import LayerGroups, Rate, Split, decays
from layergroups.integrations._unfreezing import Unfreezer, Unfreezing, rates_of

try:
    from transformers import Trainer, TrainerCallback, TrainerState
except ImportError as cause:
    raise ImportError('this needs transformers: pip install "layergroups[transformers]"') from cause

__all__ = ["LayerGroupsCallback", "LayerGroupsMixin", "LayerGroupsTrainer"]
_KEY = "LayerGroups"  # in the `stateful_callbacks` of trainer_state.json
_PREFIX = "learning_rate/"


class LayerGroupsCallback(TrainerCallback):
    """Layer groups for a Trainer that is not a `LayerGroupsTrainer`.

        groups = LayerGroups(model)
        optimizer = groups.optimizer(torch.optim.AdamW, lr=decay(2e-5, 0.8))
        Trainer(model, args, optimizers=(optimizer, None), callbacks=[LayerGroupsCallback(groups)])

    Checkpoints have the state of the groups in `trainer_state.json`, and a resumed run restores
    freezing, rates and the position of the unfreezing. Logs have the rate of each group, 0 while it
    is frozen.

    Args:
        groups: layer groups of the Trainer's model; the optimizer must be made from them.
        unfreeze: a `GradualUnfreezing`, in parts of epochs or in steps, or an `UnfreezeOnPlateau`.
    """

    def __init__(self, groups: LayerGroups, unfreeze: Unfreezing | None = None) -> None:
        self.unfreezer = Unfreezer(groups, unfreeze)
        self._rates: dict[str, float] = {}
        self._logged: set[str] = set()

    @property
    def groups(self) -> LayerGroups:
        """The layer groups."""
        return self.unfreezer.groups

    def on_train_begin(
        self, args: Any, state: Any, control: Any, *, model: nn.Module, optimizer: Any, **_: Any
    ) -> None:
        """Restore the state of a resumed run, and attach the groups."""
        if unwrap(model) is not self.groups.model:
            raise GroupingError(
                "these layer groups are not of the model that the Trainer trains; make both from "
                "one model: groups = LayerGroups(model), Trainer(model, ...)"
            )
        strategy = "eval_strategy" if self._of_evaluation() else "logging_strategy"
        if self._monitor and getattr(args, strategy) == "no":
            raise GroupingError(
                f"the plan waits for {self._monitor!r}, and {strategy} is 'no'; give "
                f"{strategy}='epoch' or 'steps' to TrainingArguments"
            )
        self._logged.clear()
        self.unfreezer.begin([optimizer], state.stateful_callbacks.get(_KEY))

    @property
    def _monitor(self) -> str:
        return getattr(self.unfreezer.plan, "monitor", "")

    def _of_evaluation(self, name: str = "") -> bool:
        return (name or self._monitor).startswith("eval_")

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Unfreeze what the plan says."""
        found = {n for n in self._logged if self._of_evaluation(n) == self._of_evaluation()}
        if self._monitor and found and self._monitor not in found:
            raise GroupingError(
                f"the plan waits for {self._monitor!r}, which is not among the logged values "
                f"{sorted(found)}; give one of them as monitor="
            )
        self.unfreezer.at(state.epoch or 0.0, state.global_step)

    def on_pre_optimizer_step(
        self, args: Any, state: Any, control: Any, *, optimizer: Any, **_: Any
    ) -> None:
        """Remember the rates of this step; the scheduler changes them before they are logged."""
        self._rates = rates_of(self.groups, optimizer)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Put the state of the groups where the Trainer saves it."""
        state.stateful_callbacks[_KEY] = self.unfreezer.state_dict()

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Add the rates to the values of a training step."""
        if logs is not None and "learning_rate" in logs:
            self.add_rates(logs)
            self.add_rates(state.log_history[-1])
            self._measured(logs, state)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Unfreeze on a plateau of a validation metric."""
        self._measured(metrics or {}, state)

    def add_rates(self, logs: dict[str, Any]) -> None:
        """Add the rate that each group had in the last step."""
        logs.update({_PREFIX + name: rate for name, rate in self._rates.items()})

    def _measured(self, values: dict[str, Any], state: Any) -> None:
        self._logged |= values.keys()
        self.unfreezer.measured(values)
        if _KEY in state.stateful_callbacks:
            self.on_step_end(None, state, None)


class LayerGroupsMixin(Trainer):
    """Layer groups for a Trainer class of your own: `class Mine(LayerGroupsMixin, Seq2SeqTrainer)`.

    `optim`, `weight_decay`, `lr_scheduler_type` and all other arguments work as in the Trainer, and
    with one rate and nothing frozen the run is that of the Trainer to the bit. All groups are in
    the optimizer from the first step, so a schedule reaches those that are unfrozen later.

    Args:
        *args: of the Trainer.
        split: a rule, as in `LayerGroups`.
        layer_lr: the rate of each group, as in `LayerGroups.set_rates`; by default
            `args.learning_rate` for all.
        freeze_to: the lowest group that trains, by name or index; all before it are frozen.
        unfreeze: a plan, which sets freezing from the first step: `GradualUnfreezing(every=0.5)`
            (in epochs, or `unit="steps"`), or `UnfreezeOnPlateau("eval_loss")`.
        norm: "train" trains the norm layers of frozen groups; a plan has its own.
        example_input: as in `LayerGroups`, for models that do not describe their inputs.
        **kwargs: of the Trainer.

    Attributes:
        layer_groups: the groups of the model; freeze and unfreeze with it at any time.
    """

    optimizer: Any

    def __init__(
        self,
        *args: Any,
        split: Split = "auto",
        layer_lr: Rate | None = None,
        freeze_to: int | str | None = None,
        unfreeze: Unfreezing | None = None,
        norm: str = "freeze",
        example_input: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._make_groups = partial(
            self._divided, split, layer_lr, example_input, freeze_to, norm, unfreeze
        )
        self._callback = self._make_groups()
        self.add_callback(self._callback)

    @property
    def layer_groups(self) -> LayerGroups:
        """The groups of the model."""
        return self._callback.groups

    def _divided(
        self,
        split: Split,
        layer_lr: Rate | None,
        example_input: Any,
        freeze_to: int | str | None,
        norm: str,
        unfreeze: Unfreezing | None,
    ) -> LayerGroupsCallback:
        try:
            groups = LayerGroups(self.model, split, example_input=example_input)
        except ExampleInputError:
            if example_input is not None or not hasattr(self.train_dataset, "__getitem__"):
                raise
            groups = LayerGroups(self.model, split, example_input=self._two_items())
        groups.set_rates(self.args.learning_rate if layer_lr is None else layer_lr)
        if freeze_to is not None and unfreeze is not None:
            first, start = groups[freeze_to].name, groups[unfreeze.start].name
            if first != start:
                raise GroupingError(
                    f"freeze_to={freeze_to!r} trains from {first!r}, and the plan from {start!r}; "
                    f"give start={freeze_to!r} to the plan alone"
                )
        if freeze_to is not None:
            groups.freeze_to(freeze_to, norm=norm)
        return LayerGroupsCallback(groups, unfreeze)

    def _two_items(self) -> dict[str, Any]:
        """What the model takes for two items, without labels, for those that do not describe it."""
        with private_randomness(0):  # a collator may draw masks
            batch = self.data_collator([self.train_dataset[i] for i in range(2)])
        model: Any = unwrap(self.model)
        if "labels" in batch and hasattr(model, "prepare_decoder_input_ids_from_labels"):
            made = model.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
            batch["decoder_input_ids"] = made
        elif "labels" in batch and model.main_input_name == "input_features":  # speech to text
            batch["decoder_input_ids"] = batch["labels"].clamp(min=0)
        takes = inspect.signature(model.forward).parameters.keys() - {"labels"}
        return {key: value for key, value in batch.items() if key in takes}

    def create_optimizer(self, *args: Any) -> Optimizer:
        """The optimizer that `args.optim` names, over all layer groups."""
        if self.optimizer is not None:
            made: Optimizer = super().create_optimizer(*args)
            return made
        if unwrap(self.model) is not self.layer_groups.model:  # `model_init` made it again
            self._callback.unfreezer = self._make_groups().unfreezer
        choice = self.optimizer_cls_and_kwargs
        kind, options = choice or self.get_optimizer_cls_and_kwargs(self.args, self.model)
        if not (isinstance(kind, type) and issubclass(kind, Optimizer)) or options.keys() & {
            "params", "model", "optimizer_dict",
        }:  # fmt: skip
            raise GroupingError(
                f"optim={self.args.optim!s} divides the parameters by itself, so it has no layer "
                'groups; use one that takes parameter groups, such as optim="adamw_torch"'
            )
        param_groups = self.layer_groups.param_groups(
            weight_decay=self.args.weight_decay,
            decays=_as_trainer(self.model, self.get_decay_parameter_names(self.model)),
        )
        self.optimizer = kind(param_groups, **options)
        self.layer_groups.attach(self.optimizer)
        return self.create_optimizer(*args)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restore freezing first: under FSDP2 the moments of frozen parameters are not loaded."""
        if checkpoint is not None:
            saved = TrainerState.load_from_json(str(Path(checkpoint, "trainer_state.json")))
            self._callback.unfreezer.begin([self.optimizer], saved.stateful_callbacks.get(_KEY))
        super()._load_optimizer_and_scheduler(checkpoint)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the rate of each group too, also to trackers."""
        if "learning_rate" in logs:
            self._callback.add_rates(logs)
        super().log(logs, *args, **kwargs)


class LayerGroupsTrainer(LayerGroupsMixin):
    """The Trainer of transformers with layer groups; arguments as `LayerGroupsMixin` has them."""


def _as_trainer(model: nn.Module, decaying: list[str]) -> Callable[[str, nn.Parameter], bool]:
    """The Trainer's own choice of weight decay; that of layer groups for parameters added later."""
    known, wanted = {name for name, _ in model.named_parameters()}, {*decaying}
    return lambda name, p: name in wanted if name in known else decays(name, p)
