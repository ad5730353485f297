"""Layer groups in the Trainer of transformers, with its real classes and tiny random models."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tests.integrations import trainer_script as script
from tests.integrations.tiny_models import KINDS, arguments, bert, items, model_of, moved, weights
from torch import nn
from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, Trainer, TrainerCallback
from transformers.trainer_utils import SchedulerType

from layergroups import GradualUnfreezing, LayerGroups, decay
from layergroups.errors import GroupingError
from layergroups.integrations import UnfreezeOnPlateau
from layergroups.integrations.transformers import (
    LayerGroupsCallback,
    LayerGroupsMixin,
    LayerGroupsTrainer,
)

ROOT = Path(__file__).parents[2]
CHECKPOINTING = next(  # transformers 5 has changed the name
    name
    for name in ("activation_checkpointing", "gradient_checkpointing")
    if hasattr(transformers.TrainingArguments, name)
)
# peft asks for an attribute that transformers 5 has renamed
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")


class Watch(TrainerCallback):
    """After each step: the groups in which anything moved, and the rates in the optimizer."""

    def __init__(self, groups: LayerGroups) -> None:
        self.groups, self.before = groups, weights(groups.model)
        self.moved: list[set[str]] = []
        self.rates: list[list[float]] = []

    def on_pre_optimizer_step(self, *_: Any, optimizer: Any, **__: Any) -> None:
        self.rates.append([group["lr"] for group in optimizer.param_groups])

    def on_step_end(self, *_: Any, **__: Any) -> None:
        names = moved(self.before, self.groups.model)
        owner = self.groups.partition.group_of
        indices = {owner.get(n, owner.get(n.rpartition(".")[0])) for n in names}  # or a buffer's
        self.moved.append({self.groups.names[i] for i in indices if i is not None})
        self.before = weights(self.groups.model)


def watched(trainer: LayerGroupsTrainer) -> Watch:
    watch = Watch(trainer.layer_groups)
    trainer.add_callback(watch)
    trainer.train()
    return watch


@pytest.fixture
def args(tmp_path: Path) -> Callable[..., Any]:
    return partial(arguments, tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_groups_unfreeze_in_the_middle_of_epochs(kind: str, args: Callable[..., Any]) -> None:
    trainer = LayerGroupsTrainer(
        model_of(kind),
        args(),
        train_dataset=items(kind),
        layer_lr=decay(1e-2, 0.8),
        unfreeze=GradualUnfreezing(every=0.5),
    )
    names = trainer.layer_groups.names
    watch = watched(trainer)
    steps = [set(names[max(0, len(names) - 1 - i // 3) :]) for i in range(12)]
    assert watch.moved == steps  # weights, buffers and running statistics, to the bit
    logged = [entry for entry in trainer.state.log_history if "learning_rate" in entry]
    shown = [{n for n in names if entry[f"learning_rate/{n}"] > 0} for entry in logged]
    assert shown == steps


@pytest.mark.parametrize(
    "changes",
    [
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1, "lr_scheduler_type": "cosine"},
        {"optim": "sgd", "optim_args": "momentum=0.9", "warmup_steps": 3},
        {"optim": "adafactor", CHECKPOINTING: True},
        {"optim": "adamw_torch_fused", "bf16": True, "label_smoothing_factor": 0.1},
    ],
)
def test_with_one_rate_the_run_is_that_of_the_trainer(
    changes: dict[str, Any], args: Callable[..., Any]
) -> None:
    def trained(kind: Callable[..., Any]) -> Any:
        trainer = kind(bert(), args(**changes), train_dataset=items())
        transformers.set_seed(0)
        trainer.train()
        return trainer

    plain, ours = map(trained, (Trainer, LayerGroupsTrainer))
    assert not moved(weights(plain.model), ours.model)
    by_name = dict(ours.model.named_parameters())
    decayed = {p: g["weight_decay"] > 0 for g in ours.optimizer.param_groups for p in g["params"]}
    wanted = ours.get_decay_parameter_names(ours.model)
    assert {n for n, p in by_name.items() if decayed[p]} == {*wanted}


@pytest.mark.parametrize("kind", [t.value for t in SchedulerType])
def test_every_schedule_reaches_a_group_unfrozen_later(kind: str, args: Callable[..., Any]) -> None:
    options: dict[str, dict[str, Any]] = {
        "cosine_with_min_lr": {"min_lr_rate": 0.1},
        "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
        "warmup_stable_decay": {"num_decay_steps": 4},
    }
    changes: dict[str, Any] = {"lr_scheduler_type": kind, "warmup_steps": 2}
    changes["lr_scheduler_kwargs"] = options.get(kind, {})
    if kind in ("reduce_lr_on_plateau", "greedy"):
        changes |= {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "loss"}
    trainer = LayerGroupsTrainer(
        bert(), args(**changes), train_dataset=items(), eval_dataset=items(n=4),
        layer_lr={"embeddings": 5e-4, "early": 1e-3, "late": 2e-3, "head": 4e-3},
        unfreeze=GradualUnfreezing(every=0.5),
    )  # fmt: skip
    watch = watched(trainer)
    for embeddings, _, early, _, late, _, head, _ in watch.rates:
        assert embeddings * 8 == pytest.approx(head)
        assert early * 4 == pytest.approx(head)
        assert late * 2 == pytest.approx(head)
    varied = {rates[0] for rates in watch.rates}
    assert len(varied) > 1 or kind in ("constant", "reduce_lr_on_plateau", "greedy")


def test_the_optimizer_is_never_made_again(args: Callable[..., Any]) -> None:
    trainer = LayerGroupsTrainer(
        bert(), args(), train_dataset=items(), unfreeze=GradualUnfreezing(every=3, unit="steps")
    )
    trainer.create_optimizer()
    before, head = trainer.optimizer, next(trainer.layer_groups[-1].parameters())
    trainer.train()
    inner = trainer.optimizer.optimizer
    assert inner is before
    assert inner.state[head]["step"] == 12  # its moments are those of all steps
    assert inner.state[next(trainer.layer_groups[0].parameters())]["step"] == 3


def test_by_hand_with_a_plain_trainer(args: Callable[..., Any], tmp_path: Path) -> None:
    model = bert()
    groups = LayerGroups(model)
    optimizer = groups.optimizer(torch.optim.AdamW, lr=decay(1e-2, 0.5), betas=(0.8, 0.9))
    watch = Watch(groups)
    trainer = Trainer(
        model, args(save_strategy="epoch"), train_dataset=items(), optimizers=(optimizer, None),
        callbacks=[LayerGroupsCallback(groups, GradualUnfreezing(every=1)), watch],
    )  # fmt: skip
    trainer.train()
    assert watch.moved == [{"head"}] * 6 + [{"late", "head"}] * 6
    assert trainer.state.log_history[0]["learning_rate/head"] == 1e-2
    assert trainer.state.log_history[0]["learning_rate/late"] == 0.0


def test_frozen_by_hand_between_unfreezings_stays_frozen(args: Callable[..., Any]) -> None:
    class Mine(LayerGroupsMixin, Seq2SeqTrainer):
        pass

    options = arguments(Path(args().output_dir)).to_dict() | {"use_cpu": True}
    trainer = Mine(
        model_of("Seq2SeqLM"), Seq2SeqTrainingArguments(**options),
        train_dataset=items("Seq2SeqLM"), freeze_to=-1, norm="train",
    )  # fmt: skip
    assert trainer.layer_groups.frozen == (True, True, True, False)
    watch = watched(trainer)  # type: ignore[arg-type] # a different Trainer
    assert watch.moved == [{"early", "late", "decoder"}] * 12  # norms of frozen groups train
    trainer.layer_groups.unfreeze("late")
    trainer.layer_groups.freeze("decoder")
    before = weights(trainer.model)
    trainer.train()
    assert {n.split(".")[0] for n in moved(before, trainer.model)} == {"encoder"}


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant: bool, args: Callable[..., Any]) -> None:
    def trained(**changes: Any) -> nn.Module:
        trainer = LayerGroupsTrainer(
            bert(), args(**changes), train_dataset=items(), unfreeze=GradualUnfreezing(every=1)
        )
        assert len(set(map(frozenset, watched(trainer).moved))) == 2
        return trainer.model

    checkpointed = trained(
        **{CHECKPOINTING: True, f"{CHECKPOINTING}_kwargs": {"use_reentrant": reentrant}}
    )
    assert not moved(weights(trained()), checkpointed)


def test_the_best_model_is_loaded_and_a_plateau_unfreezes(args: Callable[..., Any]) -> None:
    steps = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2}
    trainer = LayerGroupsTrainer(
        bert(), args(**steps, load_best_model_at_end=True), train_dataset=items(),
        eval_dataset=items(n=8), unfreeze=UnfreezeOnPlateau("eval_loss", min_delta=10.0),
    )  # fmt: skip
    watch = watched(trainer)
    names = [{"head"}] * 4 + [{"late", "head"}] * 4 + [{"early", "late", "head"}] * 4
    assert watch.moved == names  # the first value is the best, the next does not fall by 10
    best = Path(trainer.state.best_model_checkpoint or "") / "model.safetensors"
    assert not moved(load_file(best), trainer.model)


@pytest.mark.parametrize(
    ("monitor", "changes", "words"),
    [
        ("eval_f1", {"eval_strategy": "steps", "eval_steps": 2}, r"eval_f1.*'eval_loss'"),
        ("rate", {}, r"rate.*'loss'"),
        ("eval_loss", {}, "eval_strategy"),
        ("loss", {"logging_strategy": "no"}, "logging_strategy"),
    ],
)
def test_a_plateau_of_what_nothing_logs_is_an_error(
    monitor: str, changes: dict[str, Any], words: str, args: Callable[..., Any]
) -> None:
    trainer = LayerGroupsTrainer(
        bert(), args(**changes), train_dataset=items(), unfreeze=UnfreezeOnPlateau(monitor),
        eval_dataset=items(n=4),
    )  # fmt: skip
    with pytest.raises(GroupingError, match=words):
        trainer.train()


def test_a_plateau_of_one_of_two_data_sets(args: Callable[..., Any]) -> None:
    trainer = LayerGroupsTrainer(
        bert(), args(eval_strategy="steps", eval_steps=3), train_dataset=items(),
        eval_dataset={"a": items(n=4), "b": items(n=4)},
        unfreeze=UnfreezeOnPlateau("eval_b_loss", min_delta=10.0),
    )  # fmt: skip
    assert [len(names) for names in watched(trainer).moved] == [1] * 6 + [2] * 6


def test_compiled_models_unfreeze(args: Callable[..., Any]) -> None:
    trainer = LayerGroupsTrainer(
        bert(), args(torch_compile=True, torch_compile_backend="eager"), train_dataset=items(),
        unfreeze=GradualUnfreezing(every=0.5),
    )  # fmt: skip
    assert [len(names) for names in watched(trainer).moved] == [
        n for n in (1, 2, 3, 4) for _ in "123"
    ]


def test_adapters_train_in_their_groups(args: Callable[..., Any]) -> None:
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"])
    model = peft.get_peft_model(bert(), config)
    trainer = LayerGroupsTrainer(
        model, args(), train_dataset=items(), unfreeze=GradualUnfreezing(every=0.5)
    )
    before = weights(model)
    watch = watched(trainer)
    assert [len(names) for names in watch.moved] == [1] * 3 + [2] * 3 + [3] * 6
    assert all("lora" in n or "classifier" in n for n in moved(before, model))


def test_a_model_made_by_the_trainer_has_groups_of_its_own(args: Callable[..., Any]) -> None:
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(bert())
        return made[-1]

    trainer = LayerGroupsTrainer(
        model_init=make, args=args(), train_dataset=items(), freeze_to=-1, layer_lr=1e-2
    )
    for _ in range(2):
        trainer.train()
        assert trainer.layer_groups.model is made[-1]
        now = moved(weights(bert()), made[-1])
        assert {n.rpartition(".")[0] for n in now} == {"bert.pooler.dense", "classifier"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"freeze_to": -2, "unfreeze": GradualUnfreezing()}, "freeze_to=-2"),
        ({"unfreeze": 0.5}, "unfreeze=0.5 is not a plan"),
        ({"split": ["nowhere"]}, "nowhere"),
    ],
)
def test_what_does_not_fit_is_an_error(
    options: dict[str, Any], words: str, args: Callable[..., Any]
) -> None:
    with pytest.raises(GroupingError, match=words):
        LayerGroupsTrainer(bert(), args(), train_dataset=items(), **options)


def test_an_optimizer_without_parameter_groups_is_refused(args: Callable[..., Any]) -> None:
    def two(params: Any, **_: Any) -> torch.optim.Optimizer:
        raise AssertionError

    trainer = LayerGroupsTrainer(
        bert(), args(), train_dataset=items(), optimizer_cls_and_kwargs=(two, {})
    )
    with pytest.raises(GroupingError, match="parameter groups"):
        trainer.train()


def test_groups_of_a_different_model_are_refused(args: Callable[..., Any]) -> None:
    callback = LayerGroupsCallback(LayerGroups(bert()))
    with pytest.raises(GroupingError, match="not of the model"):
        Trainer(bert(), args(), train_dataset=items(), callbacks=[callback]).train()


def run(*command: str) -> int:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, script.__file__, *command],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode in (0, -9), done.stderr[-4000:]
    return done.returncode


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["epochs", "steps", "loss", "eval"])
def test_a_killed_run_ends_as_the_unbroken_one(plan: str, tmp_path: Path) -> None:
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    run(plan, str(unbroken))
    for step in (4, 8):  # in the middle of both epochs
        assert run(plan, str(killed), str(step)) == -9
    assert run(plan, str(killed)) == 0
    first, second = (load_file(f / "end-0.safetensors") for f in (unbroken, killed))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert 0 < first["frozen"].sum() < 12  # unfrozen within the run
