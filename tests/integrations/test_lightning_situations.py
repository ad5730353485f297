"""The situations that the tests of Lightning's and finetuning-scheduler's callbacks are about."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    GradientAccumulationScheduler,
    ModelCheckpoint,
    StochasticWeightAveraging,
)
from tests.integrations.test_lightning import HALF, Watch, fitted
from tests.integrations.tiny_lightning import ADVICE, SPLIT, Tiny, trainer
from tests.integrations.tiny_models import moved, weights
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, lr_scheduler

from layergroups import GradualUnfreezing, decay
from layergroups.errors import GroupingError
from layergroups.integrations import UnfreezeOnPlateau
from layergroups.integrations.lightning import LayerGroupsCallback

pytestmark = ADVICE
ROOT = Path(__file__).parents[2]
EACH = GradualUnfreezing(every=1)
BY_EPOCH = [{"head"}] * 6 + [{"body", "head"}] * 6 + [{"stem", "body", "head"}] * 6


# -- how modules are written ---------------------------------------------------------------------


class HeadAlone(Tiny):
    """As written for `BackboneFinetuning`: the optimizer has what trains at first."""

    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.head.parameters(), 0.1, momentum=0.9)
        return [optimizer], [lr_scheduler.StepLR(optimizer, 1, 0.7)]


class InSetup(Tiny):
    """Its layers are made when the data are known."""

    def __init__(self) -> None:
        super().__init__()
        del self.stem, self.body, self.pool, self.head

    def setup(self, stage: str) -> None:
        made = Tiny()
        for name in ("stem", "body", "pool", "head"):
            setattr(self, name, getattr(made, name))


class InConfigureModel(InSetup):
    def setup(self, stage: str) -> None:
        return

    def configure_model(self) -> None:
        if not hasattr(self, "head"):
            super().setup("fit")


class FrozenInInit(Tiny):
    def __init__(self) -> None:
        super().__init__()
        for part in (self.stem, self.body):
            part.requires_grad_(False)


@pytest.mark.parametrize("kind", [Tiny, HeadAlone, InSetup, InConfigureModel, FrozenInInit])
def test_each_way_to_write_a_module_unfreezes_by_epochs(kind: type[Tiny], tmp_path: Path) -> None:
    watch = fitted(tmp_path, LayerGroupsCallback(SPLIT, unfreeze=EACH), kind(), max_epochs=3)
    assert watch.moved == BY_EPOCH


class Block(nn.Module):
    """Layers in a dict, and a parameter of the block itself."""

    def __init__(self, n: int, m: int) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"conv": nn.Conv2d(n, m, 3), "norm": nn.BatchNorm2d(m)})
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers["norm"](self.layers["conv"](x)).relu() * self.scale
        return out


class Nested(Tiny):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.ModuleList([nn.ModuleDict({"a": Block(3, 4)})])  # type: ignore[assignment]
        self.body = Block(4, 4)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        for blocks in self.stem:
            x = blocks["a"](x)  # type: ignore[index]
        out: Tensor = self.head(self.pool(self.body(x)))
        return out


def test_containers_and_parameters_of_parent_modules(tmp_path: Path) -> None:
    module = Nested()
    ours = LayerGroupsCallback(SPLIT, unfreeze=EACH)
    watch = fitted(tmp_path, ours, module, max_epochs=3)
    assert watch.moved == BY_EPOCH
    assert {n for n, _ in ours.groups[0].named_parameters()} >= {"stem.0.a.scale"}
    assert set(moved(weights(Nested()), module)) == set(module.state_dict())


class TwoOptimizers(Tiny):
    """A part of the network has an optimizer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: list[Tensor], index: int) -> Any:
        loss = cross_entropy(self(batch[0]), batch[1])
        for optimizer in self.optimizers():  # type: ignore[union-attr] # there are two
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():  # type: ignore[union-attr]
            optimizer.step()

    def configure_optimizers(self) -> Any:
        body = [*self.stem.parameters(), *self.body.parameters()]
        return [SGD(body, 0.1, momentum=0.9), AdamW(self.head.parameters(), 0.01)]


def test_several_optimizers_over_the_network(tmp_path: Path) -> None:
    def run(start: str | None = None) -> tuple[Watch, Any]:
        watch, module = Watch(), TwoOptimizers()
        made = trainer(
            tmp_path, LayerGroupsCallback(SPLIT, unfreeze=EACH), watch, Saves(6), max_epochs=3
        )
        torch.manual_seed(0)
        made.fit(module, ckpt_path=start and tmp_path / start)
        return watch, module

    watch, module = run()
    assert watch.moved == BY_EPOCH
    again, resumed = run("6.ckpt")
    assert again.moved == BY_EPOCH[6:]
    assert not moved(weights(module), resumed)


class Saves(Callback):
    def __init__(self, every: int) -> None:
        self.every = every

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        step = trainer.fit_loop.epoch_loop.total_batch_idx + 1
        if step % self.every == 0:
            trainer.save_checkpoint(Path(trainer.default_root_dir, f"{step}.ckpt"))


# -- optimizers and schedules --------------------------------------------------------------------


class Rates(Tiny):
    """A rate and options for each part, as people write them without layer groups."""

    def configure_optimizers(self) -> Any:
        parts = [
            {"params": self.stem.parameters(), "lr": 0.01, "weight_decay": 0.0},
            {"params": [*self.body.parameters()], "lr": 0.02, "momentum": 0.5},
            {"params": self.head.parameters()},
        ]
        return SGD(parts, 0.1, weight_decay=0.3, momentum=0.9)


class Nesterov(Tiny):
    def configure_optimizers(self) -> Any:
        first, *others = self.parameters()
        return SGD([{"params": first, "nesterov": True}, {"params": others}], 0.1, momentum=0.9)


def test_rates_and_options_of_the_module_stay(tmp_path: Path) -> None:
    ours = LayerGroupsCallback(SPLIT, unfreeze=EACH)
    watch = fitted(tmp_path, ours, Rates(), max_epochs=3)
    assert watch.rates[0][::2] == [0.01, 0.02, 0.1]
    assert ours.groups.rates == (0.01, 0.02, 0.1)
    owner = {p: g for g in ours._optimizers[0].param_groups for p in g["params"]}
    found = [owner[p] for p in ours.groups.model.parameters()]
    assert {g["weight_decay"] for g in found[:4]} == {0.0}
    assert {(g["weight_decay"], g["momentum"]) for g in found[4:8]} == {(0.3, 0.5)}
    other = LayerGroupsCallback(["head"])
    with pytest.raises(GroupingError, match="rates"):
        fitted(tmp_path, other, Rates())
    with pytest.raises(GroupingError, match="different options"):
        fitted(tmp_path, LayerGroupsCallback(2, 0.1), Nesterov())


def scheduled(make: Callable[[Any], Any], interval: str = "step") -> type[Tiny]:
    class Scheduled(Tiny):
        def configure_optimizers(self) -> Any:
            optimizer = SGD(self.parameters(), 0.1, momentum=0.9)
            schedule = {"scheduler": make(optimizer), "interval": interval, "monitor": "val_loss"}
            return {"optimizer": optimizer, "lr_scheduler": schedule}

        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    return Scheduled


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=18),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, 4),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 6), lr_scheduler.ExponentialLR(o, 0.8)], [6]
    ),
    "plateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=10.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", SCHEDULES)
def test_each_schedule_reaches_all_groups_and_goes_on_after_a_restart(
    kind: str, tmp_path: Path
) -> None:
    module = scheduled(SCHEDULES[kind], "epoch" if kind == "plateau" else "step")

    def run(start: str | None = None, *ours: Callback) -> Watch:
        watch = Watch()
        made = trainer(tmp_path, *ours, watch, *([] if start else [Saves(6)]), max_epochs=3)
        made.fit(module(), ckpt_path=start and tmp_path / start)
        return watch

    wanted = [rates[0] for watch in (run(), run("6.ckpt")) for rates in watch.rates]
    watches = []
    for start in (None, "6.ckpt"):
        watches.append(run(start, LayerGroupsCallback(SPLIT, decay(0.1, 0.5), unfreeze=EACH)))
    assert [names for watch in watches for names in watch.moved] == BY_EPOCH + BY_EPOCH[6:]
    rates = [rates for watch in watches for rates in watch.rates]
    for early, _, late, _, head, _ in rates:
        assert (early * 4, late * 2) == (pytest.approx(head), pytest.approx(head))
    assert [each[4] for each in rates] == pytest.approx(wanted)


def test_a_schedule_with_rates_of_its_own_keeps_them(tmp_path: Path) -> None:
    module = scheduled(SCHEDULES["cyclic"])
    watch, plain = Watch(), Watch()
    trainer(tmp_path, LayerGroupsCallback(SPLIT, unfreeze=EACH), watch).fit(module())
    trainer(tmp_path, plain).fit(module())
    assert [rates[0] for rates in watch.rates] == [rates[0] for rates in plain.rates]


# -- checkpoints ---------------------------------------------------------------------------------


def saved(folder: Path, *callbacks: Callback, **options: Any) -> Path:
    trainer(folder, *callbacks, Saves(6), max_epochs=1, **options).fit(Tiny())
    return folder / "6.ckpt"


def test_a_callback_with_a_different_plan_goes_on_by_its_own(tmp_path: Path) -> None:
    start = saved(tmp_path, LayerGroupsCallback(SPLIT, 0.05, unfreeze=EACH))
    watch = Watch()
    ours = LayerGroupsCallback(SPLIT, 0.05, unfreeze=GradualUnfreezing(2))
    trainer(tmp_path, ours, watch, max_epochs=3).fit(Tiny(), ckpt_path=start)
    assert watch.moved == [{"head"}] * 6 + [{"body", "head"}] * 6


def test_a_checkpoint_of_other_groups_or_of_none_is_refused(tmp_path: Path) -> None:
    start = saved(tmp_path, LayerGroupsCallback(SPLIT))
    with pytest.raises(GroupingError, match="split="):
        trainer(tmp_path, LayerGroupsCallback(["head"])).fit(Tiny(), ckpt_path=start)
    start = saved(tmp_path)
    with pytest.raises(GroupingError, match="without LayerGroupsCallback"):
        trainer(tmp_path, LayerGroupsCallback(SPLIT)).fit(Tiny(), ckpt_path=start)


def test_a_plan_that_is_done_and_more_epochs(tmp_path: Path) -> None:
    ours = LayerGroupsCallback(SPLIT, unfreeze=HALF)
    run = trainer(tmp_path, ours, Saves(12))
    run.fit(Tiny())
    watch = Watch()
    again = LayerGroupsCallback(SPLIT, unfreeze=HALF)
    trainer(tmp_path, again, watch, max_epochs=4).fit(Tiny(), ckpt_path=tmp_path / "12.ckpt")
    assert watch.moved == [{"stem", "body", "head"}] * 12


def test_a_second_fit_of_the_same_module_and_evaluation(tmp_path: Path) -> None:
    module, ours = Tiny(), LayerGroupsCallback(SPLIT, unfreeze=EACH)
    run = trainer(tmp_path, ours, max_epochs=1)
    for _ in range(2):
        run.fit(module)
        run.fit_loop.epoch_progress.reset()
    run.validate(module, module.train_dataloader(), verbose=False)
    before = weights(module)
    watch = fitted(tmp_path, LayerGroupsCallback(SPLIT, unfreeze=EACH), module, max_epochs=2)
    assert watch.moved == BY_EPOCH[:12]
    assert moved(before, module)


# -- other callbacks and options -----------------------------------------------------------------


class Validated(Tiny):
    """`val_loss` falls as long as something new is unfrozen."""

    def val_dataloader(self) -> Any:
        return self.train_dataloader()


def test_the_depth_of_unfreezing_has_a_limit(tmp_path: Path) -> None:
    rates = {"stem.0": 0.0, "body": 0.1, "head": 0.1}
    watch = fitted(tmp_path, LayerGroupsCallback(SPLIT, rates, unfreeze=EACH), max_epochs=3)
    assert watch.moved == [{"head"}] * 6 + [{"body", "head"}] * 12


def test_a_constant_or_infinite_loss_is_a_plateau(tmp_path: Path) -> None:
    class Constant(Validated):
        value = 1.0

        def validation_step(self, batch: list[Tensor], index: int) -> None:
            self.log("val_loss", torch.tensor(self.value))

    for value in (1.0, float("nan"), float("inf")):
        Constant.value = value
        plan = UnfreezeOnPlateau("val_loss")
        watch = fitted(
            tmp_path, LayerGroupsCallback(SPLIT, unfreeze=plan), Constant(), max_epochs=3
        )
        first = 12 if value == 1.0 else 6  # nothing is lower than the best, and nan is never best
        assert watch.moved[: first + 6] == [{"head"}] * first + [{"body", "head"}] * 6


@pytest.mark.parametrize("monitor", ["val_loss", "loss"])
def test_a_plateau_with_validation_in_the_middle_of_epochs(monitor: str, tmp_path: Path) -> None:
    plan = UnfreezeOnPlateau(monitor, min_delta=10.0)
    ours = LayerGroupsCallback(SPLIT, unfreeze=plan)
    watch = fitted(tmp_path, ours, Validated(), max_epochs=3, val_check_interval=0.5)
    assert [len(names) for names in watch.moved][:12] == (
        [1] * 6 + [2] * 6 if monitor == "val_loss" else [1] * 12
    )


def test_a_value_that_nothing_logs_is_an_error(tmp_path: Path) -> None:
    ours = LayerGroupsCallback(SPLIT, unfreeze=UnfreezeOnPlateau("accuracy"))
    with pytest.raises(GroupingError, match=r"accuracy.*'loss', 'val_loss'"):
        fitted(tmp_path, ours, Validated())


@pytest.mark.slow
def test_processes_that_measure_different_values_unfreeze_together() -> None:
    """In the benchmark, which has a module for two processes."""
    command = [
        sys.executable, "benchmarks/lightning_situations.py",
        "--one", "layergroups", "--only", "two processes",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=True, timeout=200,
    )  # fmt: skip
    assert [*json.loads(done.stdout.splitlines()[-1]).values()] == ["yes"], done.stderr


@pytest.mark.slow
def test_shards_unfreeze_and_a_resumed_run_says_what_is_new(tmp_path: Path) -> None:
    warned = []

    def run(*start: str) -> list[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        done = subprocess.run(
            [sys.executable, *launcher, "tests/integrations/sharded_script.py", *start],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            capture_output=True, text=True, check=True, timeout=200,
        )  # fmt: skip
        warned.append("begin with new moments" in done.stderr)
        return [line for line in done.stdout.splitlines() if line.startswith("epoch")]

    unbroken = run(str(tmp_path))
    assert [line.split()[3] for line in unbroken] == ["2,", "12,", "012,"]
    (resumed,) = run(str(tmp_path), str(tmp_path / "saved.ckpt"))
    assert resumed.split()[3] == "012,"
    assert warned == [False, True]


def test_early_stopping_ends_a_run_after_the_last_unfreezing(tmp_path: Path) -> None:
    stops = EarlyStopping("val_loss", min_delta=10.0, patience=7)
    ours = LayerGroupsCallback(SPLIT, unfreeze=UnfreezeOnPlateau("val_loss", min_delta=10.0))
    run = trainer(tmp_path, ours, stops, max_epochs=20)
    run.fit(Validated())
    assert run.current_epoch == 8
    assert ours.groups.frozen == (False, False, False)


class ByEpochs(Validated):
    def configure_optimizers(self) -> Any:
        optimizer = SGD(self.parameters(), 0.1)
        return [optimizer], [lr_scheduler.ExponentialLR(optimizer, 0.9)]


OTHERS: dict[str, Callable[[], Callback]] = {
    "ema": lambda: EMAWeightAveraging(decay=0.9),
    "swa": lambda: StochasticWeightAveraging(0.05, swa_epoch_start=2, annealing_epochs=1),
    "accumulation": lambda: GradientAccumulationScheduler({0: 2, 1: 1}),
    "checkpoint": lambda: ModelCheckpoint(monitor="val_loss", save_last=True),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_beside_other_callbacks(kind: str, tmp_path: Path) -> None:
    watch, module = Watch(), ByEpochs()
    ours = LayerGroupsCallback(SPLIT, unfreeze=EACH)
    before = weights(module)
    callbacks = ours, watch, OTHERS[kind]()
    trainer(tmp_path, *callbacks, max_epochs=3, enable_checkpointing=True).fit(module)
    if kind == "accumulation":
        assert watch.moved[1:6:2] == [{"head"}] * 3  # at each second batch
    assert watch.moved[6:18] == BY_EPOCH[6:]  # averaging adds an epoch for the norm statistics
    assert {name.split(".")[0] for name in moved(before, module)} == {"stem", "body", "head"}


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_precisions(precision: str, tmp_path: Path) -> None:
    ours = LayerGroupsCallback(SPLIT, unfreeze=EACH)
    watch = fitted(tmp_path, ours, max_epochs=3, precision=precision)
    assert [names - {"stem"} for names in watch.moved][:12] == BY_EPOCH[:12]
