"""Situations in Lightning, rebuilt in our own words from what the tests of its callbacks are about.

    python benchmarks/lightning_situations.py [--python scheduler=PATH]

Each situation is a tiny module whose backbone is frozen for an epoch of 4 steps and trains in two
more, run with BackboneFinetuning, finetuning-scheduler and layergroups, used as documented. The
table says what was measured: yes; no; an error of another kind; "refused": an error of the library
that says what to do; "-": the library has no way to ask for it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch import callbacks as pl_callbacks
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, AdamW, lr_scheduler
from torch.utils.data import DataLoader, TensorDataset

warnings.filterwarnings("ignore")
logging.disable(logging.CRITICAL)
BOTH = {"backbone", "head"}
PLANNED = [{"head"}, BOTH, BOTH]  # what moves in each epoch


class Module(LightningModule):
    """A backbone without norms, which the other table is about, and a head; 16 images."""

    example_input_array = torch.zeros(2, 3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.build()

    def build(self) -> None:
        torch.manual_seed(0)
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(4, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.backbone(x))

    def training_step(self, batch: Any, index: int) -> Any:
        return cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: Any, index: int) -> None:
        self.log("val_loss", self.loss_of(cross_entropy(self(batch[0]), batch[1])))

    def loss_of(self, loss: Any) -> Any:
        return loss

    def configure_optimizers(self) -> Any:
        return self.scheduled(SGD(self.trained(), 0.1, momentum=0.9, weight_decay=0.1))

    def trained(self) -> Any:
        return filter(lambda p: p.requires_grad, self.parameters())

    def scheduled(self, optimizer: Any) -> Any:
        return {"optimizer": optimizer}

    def train_dataloader(self) -> Any:
        draw = torch.Generator().manual_seed(1)
        x = torch.randn(16, 3, 8, 8, generator=draw)
        return DataLoader(TensorDataset(x, torch.arange(16) % 3), 4)

    val_dataloader = train_dataloader


class Watch(Callback):
    """What moved in each epoch, and the ratio of the rates of backbone and head at its end."""

    def __init__(self) -> None:
        self.moved: list[set[str]] = []
        self.ratios: list[float] = []

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.before = {name: p.detach().clone() for name, p in module.named_parameters()}

    on_train_start = on_train_epoch_start  # of a resumed epoch there is no start

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        now = dict(module.named_parameters())
        changed = {name for name, was in self.before.items() if not torch.equal(was, now[name])}
        self.moved.append({name.split(".")[0] for name in changed})
        rates = {p: float(g["lr"]) for o in trainer.optimizers for g in o.param_groups
                 for p in g["params"]}  # fmt: skip
        body = rates.get(next(module.backbone.parameters()), 0.0)
        self.ratios.append(body / rates[module.head.weight])


def finetuning(kind: str, plateau: bool = False, depth: bool = False) -> Any:
    """The backbone at a tenth of the head's rate, from the second epoch on."""
    if kind == "backbone":
        return pl_callbacks.BackboneFinetuning(
            1, lambda epoch: 1.0, backbone_initial_ratio_lr=0.1, initial_denom_lr=1.0
        )
    if kind == "scheduler":
        from finetuning_scheduler import FinetuningScheduler

        phases: dict[int, Any] = {
            0: {"params": ["head.*"], "max_transition_epoch": 1},
            1: {"params": ["backbone.*"], "lr": 0.01, "max_transition_epoch": 3},
        }
        if plateau:
            for phase in phases.values():
                phase["max_transition_epoch"] = -1
        options = {} if plateau else {"epoch_transitions_only": True}
        depth_of = {"max_depth": 0} if depth else {}
        return FinetuningScheduler(ft_schedule=phases, restore_best=False, **options, **depth_of)
    from layergroups import GradualUnfreezing
    from layergroups.integrations import UnfreezeOnPlateau
    from layergroups.integrations.lightning import LayerGroupsCallback

    plan = UnfreezeOnPlateau("val_loss") if plateau else GradualUnfreezing(every=1)
    return LayerGroupsCallback(["head"], [0.0 if depth else 0.01, 0.1], unfreeze=plan)


def run(
    kind: str, module: Any, *others: Callback, tunes: Any = None, start: str = "", **options: Any
) -> Watch:
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        made = Trainer(**{
            "max_epochs": 3, "accelerator": "cpu", "devices": 1, "logger": False,
            "enable_progress_bar": False, "enable_model_summary": False,
            "default_root_dir": folder, "enable_checkpointing": kind == "scheduler",
            "callbacks": [tunes or finetuning(kind), watch, *others], "log_every_n_steps": 1,
            "num_sanity_val_steps": 0, **options,
        })  # fmt: skip
        made.fit(module, ckpt_path=start or None)
    return watch


def as_planned(kind: str, module: Any, *others: Callback, **options: Any) -> bool:
    watch = run(kind, module, *others, **options)
    return watch.moved == PLANNED and abs(watch.ratios[1] - 0.1) < 1e-6


def same_course(kind: str, module: Any) -> bool:
    """One schedule moves both rates: their ratio stays."""
    watch = run(kind, module)
    return watch.moved == PLANNED and abs(watch.ratios[2] / watch.ratios[1] - 1) < 1e-6


# -- the situations ------------------------------------------------------------------------------


def all_given(kind: str) -> bool:
    class All(Module):
        def trained(self) -> Any:
            return self.parameters()

    return as_planned(kind, All())


def head_given(kind: str) -> bool:
    class Head(Module):
        def trained(self) -> Any:
            return self.head.parameters()

    return as_planned(kind, Head())


class Later(Module):
    def build(self) -> None:
        return


def in_setup(kind: str) -> bool:
    class InSetup(Later):
        def setup(self, stage: str) -> None:
            Module.build(self)

    return as_planned(kind, InSetup())


def in_configure_model(kind: str) -> bool:
    class InConfigureModel(Later):
        def configure_model(self) -> None:
            if not hasattr(self, "head"):
                Module.build(self)

    return as_planned(kind, InConfigureModel())


class Scaled(nn.Module):
    """A parent module that has a parameter itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({"one": nn.Conv2d(3, 4, 3), "two": nn.Conv2d(4, 4, 3)})
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Any) -> Any:
        x = self.layers["two"](self.layers["one"](x)).relu() * self.scale
        return x.mean((2, 3))


def nested(kind: str) -> bool:
    class Nested(Module):
        def build(self) -> None:
            super().build()
            self.backbone = nn.Sequential(Scaled())

    watch = run(kind, module := Nested())
    plain = dict(Nested().named_parameters())
    all_moved = all(not torch.equal(plain[n], p) for n, p in module.named_parameters())
    return watch.moved == PLANNED and all_moved


def two_optimizers(kind: str) -> bool:
    class Two(Module):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, index: int) -> Any:
            loss = super().training_step(batch, index)
            for optimizer in self.optimizers():
                optimizer.zero_grad()
            self.manual_backward(loss)
            for optimizer in self.optimizers():
                optimizer.step()

        def configure_optimizers(self) -> Any:
            return [SGD(self.backbone.parameters(), 0.01), AdamW(self.head.parameters(), 0.1)]

    watch = run(kind, module := Two())
    held = [p for o in module.trainer.optimizers for g in o.param_groups for p in g["params"]]
    return watch.moved == PLANNED and len(held) == len({*held})


def no_decay(kind: str) -> bool:
    class NoDecay(Module):
        no_decay = ("bias",)  # what finetuning-scheduler reads

        def configure_optimizers(self) -> Any:
            trained = list(self.trained())
            return SGD(
                [{"params": [p for p in trained if p.ndim > 1]},
                 {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0}],
                0.1, weight_decay=0.1,
            )  # fmt: skip

    run(kind, module := NoDecay())
    (optimizer,) = module.trainer.optimizers
    found = {p: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    return all((found[p] == 0) == (p.ndim <= 1) for p in module.parameters())


def schedule(make: Callable[[Any], Any], interval: str = "step") -> Callable[[str], bool]:
    class Scheduled(Module):
        def scheduled(self, optimizer: Any) -> Any:
            chosen = {"scheduler": make(optimizer), "interval": interval, "monitor": "val_loss"}
            return {"optimizer": optimizer, "lr_scheduler": chosen}

    return lambda kind: same_course(kind, Scheduled())


def resumed(kind: str) -> bool:
    """From a checkpoint after the epoch in which the backbone was unfrozen."""
    saves: Any = pl_callbacks.ModelCheckpoint
    if kind == "scheduler":
        from finetuning_scheduler import FTSCheckpoint as saves
    with tempfile.TemporaryDirectory() as folder:
        each = saves(folder, "{epoch}", monitor="val_loss", save_top_k=-1, every_n_epochs=2)
        run(kind, Module(), each, enable_checkpointing=True)
        watch = run(kind, Module(), start=f"{folder}/epoch=1.ckpt")
    return watch.moved[-1] == BOTH and abs(watch.ratios[-1] - 0.1) < 1e-6


def plateau(kind: str) -> bool | None:
    class Constant(Module):
        def loss_of(self, loss: Any) -> Any:
            return torch.tensor(1.0)

    if kind == "backbone":
        return None
    others = []
    if kind == "scheduler":
        from finetuning_scheduler import FTSCheckpoint, FTSEarlyStopping

        others = [
            FTSEarlyStopping("val_loss", patience=1),
            FTSCheckpoint(monitor="val_loss", save_top_k=1),
        ]
    watch = run(kind, Constant(), *others, tunes=finetuning(kind, plateau=True), max_epochs=4)
    return watch.moved[:3] == [{"head"}, {"head"}, BOTH]


def depth(kind: str) -> bool | None:
    if kind == "backbone":
        return None
    return run(kind, Module(), tunes=finetuning(kind, depth=True)).moved == [{"head"}] * 3


def compiled(kind: str) -> bool:
    return as_planned(kind, torch.compile(Module(), backend="eager"))


def averaged(kind: str) -> bool:
    return as_planned(kind, Module(), pl_callbacks.EMAWeightAveraging(decay=0.9))


def swa(kind: str) -> bool:
    class Falls(Module):
        def scheduled(self, optimizer: Any) -> Any:
            return {"optimizer": optimizer,
                    "lr_scheduler": lr_scheduler.ExponentialLR(optimizer, 0.9)}  # fmt: skip

    averages = pl_callbacks.StochasticWeightAveraging([0.05] * 2, swa_epoch_start=2)
    if kind == "layergroups":
        averages = pl_callbacks.StochasticWeightAveraging(0.05, swa_epoch_start=2)
    return run(kind, Falls(), averages).moved[:3] == PLANNED


def rate_finder(kind: str) -> bool:
    class Rated(Module):
        lr = 0.1

        def configure_optimizers(self) -> Any:
            return SGD(self.trained(), self.lr)

    finder = pl_callbacks.LearningRateFinder(1e-3, 0.1, num_training_steps=4,
                                             early_stop_threshold=None)  # fmt: skip
    finder.lr_find = lambda trainer, module: _found(finder, trainer, module)
    return run(kind, Rated(), finder).moved == PLANNED


def _found(finder: Any, trainer: Any, module: Any) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        type(finder).lr_find(finder, trainer, module)


def accumulated(kind: str) -> bool:
    return as_planned(kind, Module(), accumulate_grad_batches=2, gradient_clip_val=0.1)


def second_fit(kind: str) -> bool:
    run(kind, module := Module())
    return as_planned(kind, module)


def two_processes(kind: str) -> bool | None:
    """A plateau that the two processes measure differently: the first sees one, the second none."""
    if kind == "backbone":
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   "--nproc-per-node=2", __file__, "--two", kind]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100,
                              cwd=folder)  # fmt: skip
    # A line may follow what the other process has begun to write.
    found = [f"moved {rest}" for rest in re.findall("moved (.*)", done.stdout)]
    if len(found) != 2:
        print(done.stdout[-1000:], done.stderr[-3000:], sep="\n", file=sys.stderr)
    return len(found) == 2 and len({*found}) == 1


def one_of_two(kind: str) -> None:
    class Differs(Module):
        def loss_of(self, loss: Any) -> Any:
            return torch.tensor(1.0 if self.global_rank == 0 else -float(self.current_epoch))

    others = []
    if kind == "scheduler":
        from finetuning_scheduler import FTSCheckpoint, FTSEarlyStopping

        others = [FTSEarlyStopping("val_loss", patience=1),
                  FTSCheckpoint(monitor="val_loss", save_top_k=1)]  # fmt: skip
    strategy = "ddp" if kind == "layergroups" else "ddp_find_unused_parameters_true"
    watch = run(kind, Differs(), *others, tunes=finetuning(kind, plateau=True), max_epochs=4,
                devices=2, strategy=strategy)  # fmt: skip
    print("moved", *map(sorted, watch.moved), flush=True)


SITUATIONS: dict[str, Callable[[str], bool | None]] = {
    "the optimizer is given all parameters; the body has a tenth of the rate": all_given,
    "the optimizer is given the head alone": head_given,
    "layers are made in `setup`": in_setup,
    "layers are made in `configure_model`": in_configure_model,
    "containers, and parameters of parent modules": nested,
    "two optimizers, manual optimization": two_optimizers,
    "biases have no weight decay, after unfreezing too": no_decay,
    "StepLR moves the rates of both parts alike": schedule(
        lambda o: lr_scheduler.StepLR(o, 1, 0.7), "epoch"
    ),
    "so does CosineAnnealingWarmRestarts": schedule(
        lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 5)
    ),
    "so does OneCycleLR with one peak": schedule(
        lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=13)
    ),
    "so does ReduceLROnPlateau": schedule(
        lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=0, threshold=9.0), "epoch"
    ),
    "resumed after the unfreezing, the body trains on": resumed,
    "unfreezing when the validation loss is constant": plateau,
    "a limit to the depth of unfreezing": depth,
    "a module in `torch.compile`": compiled,
    "gradient accumulation and clipping": accumulated,
    "EMAWeightAveraging beside it": averaged,
    "StochasticWeightAveraging beside it": swa,
    "LearningRateFinder beside it": rate_finder,
    "a second fit of the module begins frozen": second_fit,
    "two processes that measure different losses unfreeze together": two_processes,
}  # fmt: skip
KINDS = {
    "backbone": "BackboneFinetuning",
    "scheduler": "finetuning-scheduler",
    "layergroups": "layergroups",
}
WORDS = {True: "yes", False: "**no**", None: "–"}


def measured(kind: str, situation: Callable[[str], bool | None]) -> str:
    try:
        return WORDS[situation(kind)]
    except Exception as error:
        known = [MisconfigurationException]
        if kind == "layergroups":
            from layergroups.errors import LayerGroupsError

            known.append(LayerGroupsError)
        print(f"{kind}: {type(error).__name__}: {str(error)[:300]}", file=sys.stderr)
        return "refused" if isinstance(error, tuple(known)) else "error"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--python", nargs="*", default=[], metavar="KIND=PATH")
    parser.add_argument("--only", default="", help="situations that have this text")
    parser.add_argument("--one", help="run this kind here and print JSON")
    parser.add_argument("--two", help="a process of two")
    options = parser.parse_args()
    if options.two:
        one_of_two(options.two)
        return
    chosen = [name for name in SITUATIONS if options.only in name]
    if options.one:
        found = {name: measured(options.one, SITUATIONS[name]) for name in chosen}
        print("\n" + json.dumps(found))
        return
    pythons = dict(each.split("=", 1) for each in options.python)
    table = {}
    for kind in KINDS:
        python = pythons.get(kind, sys.executable)
        command = [python, __file__, "--one", kind, "--only", options.only]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        print("\n".join(line for line in done.stderr.splitlines() if line.startswith(kind)),
              file=sys.stderr)  # fmt: skip
        table[kind] = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"| | {' | '.join(KINDS.values())} |")
    print(f"| --- |{' --- |' * len(KINDS)}")
    for name in chosen:
        print(f"| {name} | {' | '.join(table[kind][name] for kind in KINDS)} |")


if __name__ == "__main__":
    main()
