"""Layer groups in the Trainer of Lightning, with its real classes."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import (
    BackboneFinetuning,
    BatchSizeFinder,
    LearningRateFinder,
    LearningRateMonitor,
)
from lightning.pytorch.loggers import CSVLogger
from tests.integrations.tiny_lightning import ADVICE, SPLIT, Tiny, trainer
from tests.integrations.tiny_models import moved, weights
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, default_collate

from layergroups import GradualUnfreezing, decay
from layergroups.anatomy._leaks import Namespaces
from layergroups.anatomy._restoring import Snapshot
from layergroups.errors import GroupingError
from layergroups.integrations import UnfreezeOnPlateau
from layergroups.integrations.lightning import LayerGroupsCallback

pytestmark = ADVICE
HALF = GradualUnfreezing(every=0.5)
BY_HALF = [{"head"}] * 3 + [{"body", "head"}] * 3 + [{"stem", "body", "head"}] * 6


class Watch(Callback):
    """After each step: the parts of the module that moved, and the rates in the optimizer."""

    def __init__(self) -> None:
        self.moved: list[set[str]] = []
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.before = weights(pl_module)
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.moved.append({name.split(".")[0] for name in moved(self.before, pl_module)})


def fitted(folder: Path, ours: LayerGroupsCallback, module: Any = None, **options: Any) -> Watch:
    watch = Watch()
    data = {"train_dataloaders": options.pop("data")} if "data" in options else {}
    trainer(folder, ours, watch, **options).fit(module or Tiny(), **data)
    return watch


def test_groups_unfreeze_in_the_middle_of_epochs_and_are_scheduled(tmp_path: Path) -> None:
    watch = fitted(tmp_path, LayerGroupsCallback(SPLIT, decay(0.1, 0.5), unfreeze=HALF))
    assert watch.moved == BY_HALF  # weights and running statistics, to the bit
    for early, _, late, _, head, _ in watch.rates:
        assert (early * 4, late * 2) == (pytest.approx(head), pytest.approx(head))
    assert watch.rates[0][0] == pytest.approx(0.025)
    assert watch.rates[-1][0] < 0.005


def test_a_dry_run_leaves_out_the_trainer_and_its_data(tmp_path: Path) -> None:
    data = DataLoader([{"a": [1]}])
    module, held = Tiny(), trainer(tmp_path)
    held.datamodule = data
    module.trainer = held
    before = Snapshot([module])
    assert not {id(data), id(held.callbacks), id(held.fit_loop)} & set(map(id, before.alive))
    owners = Namespaces(module, before)._owners
    files = {getattr(o, "__module__", getattr(o, "__name__", "")).split(".")[0] for o in owners}
    assert Tiny in owners
    assert "lightning" not in files


def test_with_one_rate_and_nothing_frozen_nothing_changes(tmp_path: Path) -> None:
    plain, ours = Tiny(), Tiny()
    for module, callbacks in ((plain, []), (ours, [LayerGroupsCallback(SPLIT)])):
        torch.manual_seed(0)
        trainer(tmp_path, *callbacks).fit(module)
    assert not moved(weights(plain), ours)
    assert "configure_optimizers" not in vars(ours)


def test_accumulation_plateaus_and_frozen_groups(tmp_path: Path) -> None:
    module = Tiny()
    module.val_dataloader = module.train_dataloader  # type: ignore[method-assign] # for this one
    plateau = LayerGroupsCallback(SPLIT, unfreeze=UnfreezeOnPlateau("val_loss", min_delta=10.0))
    watch = fitted(tmp_path, plateau, module, max_epochs=5)
    steps = [{"head"}] * 12 + [{"body", "head"}] * 12 + [{"stem", "body", "head"}] * 6
    assert watch.moved == steps
    frozen = LayerGroupsCallback(SPLIT, freeze_to=-2, norm="train")
    watch = fitted(tmp_path, frozen, accumulate_grad_batches=2, gradient_clip_val=0.1)
    assert watch.moved[1] == {"stem", "body", "head"}
    assert frozen.groups.frozen == (True, False, False)


class Manual(Tiny):
    """Two parts with weight decay of their own, a parameter outside, manual optimization."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.net = torch.nn.Sequential(self.stem, self.body, self.pool, self.head)
        self.scale = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch: list[torch.Tensor], index: int) -> Any:
        optimizer: Any = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(cross_entropy(self.net(batch[0]) * self.scale, batch[1]))
        optimizer.step()

    def configure_optimizers(self) -> Any:
        body = [*self.stem.parameters(), *self.body.parameters()]
        return torch.optim.AdamW(
            [{"params": body, "weight_decay": 0.0}, {"params": self.head.parameters()},
             {"params": self.scale, "lr": 0.3}], lr=0.1, weight_decay=0.2,
        )  # fmt: skip


def test_manual_optimization_and_parameters_outside_of_the_network(tmp_path: Path) -> None:
    ours = LayerGroupsCallback(["1", "3"], unfreeze=HALF, model="net")
    watch = fitted(tmp_path, ours, Manual())
    both = [names | {"net", "scale"} for names in BY_HALF]  # one module under two names
    assert watch.moved == both
    groups = ours.groups.model[3].weight, ours.groups.model[0][0].weight
    of = {p: g for g in ours._optimizers[0].param_groups for p in g["params"]}
    assert [of[p]["weight_decay"] for p in groups] == [0.2, 0.0]
    assert watch.rates[0][-1] == 0.3


def test_monitor_finders_and_the_best_rate(tmp_path: Path) -> None:
    module, ours = Tiny(n=200), LayerGroupsCallback(SPLIT, decay(0.1, 0.5), unfreeze=HALF)
    module.val_dataloader = module.train_dataloader  # type: ignore[method-assign] # a finder asks
    finder = LearningRateFinder(1e-3, 0.3, num_training_steps=30, early_stop_threshold=None)
    logger = CSVLogger(tmp_path)
    run = trainer(
        tmp_path, ours, BatchSizeFinder("power", max_trials=1, init_val=2), finder,
        LearningRateMonitor("step"), watch := Watch(), logger=logger, max_epochs=1,
    )  # fmt: skip
    run.fit(module)
    found = finder.optimal_lr.suggestion() if finder.optimal_lr else None
    assert found is not None
    assert ours.groups.rates == pytest.approx((found / 4, found / 2, found))
    assert watch.rates[0][::2] == pytest.approx([found / 4, found / 2, found])
    assert watch.moved[0] == {"head"}  # the finders have left no trace
    assert "head/decay" in Path(logger.log_dir, "metrics.csv").read_text()


def test_a_second_finetuning_callback_is_refused(tmp_path: Path) -> None:
    scheduler = type("FinetuningScheduler", (Callback,), {"__module__": "finetuning_scheduler.fts"})
    for other in (BackboneFinetuning(), scheduler()):
        with pytest.raises(GroupingError, match="remove it"):
            trainer(tmp_path, LayerGroupsCallback(SPLIT), other).fit(Tiny())


class NoHead(Tiny):
    def configure_optimizers(self) -> Any:
        return torch.optim.SGD([*self.stem.parameters(), *self.body.parameters()], 0.1)


def test_what_does_not_fit_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(GroupingError, match="not both"):
        LayerGroupsCallback(freeze_to=-1, unfreeze=HALF)
    with pytest.raises(GroupingError, match="lack 2 parameters"):
        trainer(tmp_path, LayerGroupsCallback(SPLIT)).fit(NoHead())
    assert torch.optim.SGD(Tiny().parameters(), 0.1).param_groups[0]["lr"] == 0.1  # torch as it was


class Shuffled(Tiny):
    """Data in an order drawn for each epoch, with noise that is drawn as they are read."""

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.data(), 4, shuffle=True, collate_fn=noisy)


def noisy(rows: list[Any]) -> list[torch.Tensor]:
    x, y = default_collate(rows)
    return [x + torch.randn_like(x), y]


class Resumable(DataLoader[Any]):
    """A loader that knows its position, as that of torchdata."""

    done = 0

    def state_dict(self) -> dict[str, int]:
        return {"done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.done = state["done"]

    def __iter__(self) -> Any:
        return self.counted(super().__iter__())  # which draws a seed at once

    def counted(self, batches: Any) -> Any:
        for batch in itertools.islice(batches, self.done, None):
            self.done = (self.done + 1) % len(self)
            yield batch


class Saves(Callback):
    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.save_checkpoint(Path(trainer.default_root_dir, f"{trainer.global_step}.ckpt"))

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        trainer.save_checkpoint(
            Path(trainer.default_root_dir, f"epoch {trainer.current_epoch}.ckpt")
        )


class InOrder(Tiny):
    def train_dataloader(self) -> DataLoader[Any]:
        return Resumable(self.data(), 4)


@pytest.mark.parametrize("kind", [Shuffled, InOrder])
def test_a_resumed_run_ends_as_the_unbroken_one(kind: type[Tiny], tmp_path: Path) -> None:
    def run(start: str | None = None) -> tuple[Tiny, Any]:
        module, ours = kind(), LayerGroupsCallback(SPLIT, unfreeze=HALF)
        made = trainer(tmp_path, ours, *([] if start else [Saves()]))
        torch.manual_seed(0 if start is None else 1)
        made.fit(module, ckpt_path=start and tmp_path / start)
        return module, made.optimizers[0].state_dict()["state"]

    unbroken, moments = run()
    for step in ("2", "4", "6", "epoch 0", "9"):  # within both epochs, and between them
        module, state = run(f"{step}.ckpt")
        assert not moved(weights(unbroken), module), step
        assert all(torch.equal(moments[i]["momentum_buffer"], state[i]["momentum_buffer"])
                   for i in moments)  # fmt: skip
