"""One page of facts about freezing and unfreezing, over libraries, on the same tiny network.

    python benchmarks/laws_beside_peers.py [--python lightning=PATH fastai=PATH keras=PATH ...]

Each library runs in a process of its own, used as its documentation says: the body is frozen and
the head trains for 6 steps; then the body is unfrozen in the way of the library and both train for
6 more, under one falling schedule where the library can have one. It is run again from checkpoints
of steps 3 and 9, and on two processes. The table says what was measured: yes, no, or - where the
library has no way to ask for it.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

FACTS = {
    "parameters": "frozen parameters are the same to the bit",
    "statistics": "norm statistics of frozen layers are the same to the bit",
    "dropout": "dropout of frozen layers is off",
    "trains": "the body trains after unfreezing",
    "moments": "the head keeps its moments across it",
    "schedule": "one schedule, ExponentialLR, reaches the body unfrozen later",
    "function": "one schedule, LambdaLR, reaches the body unfrozen later",
    "frozen_resume": "resumed in mid-epoch while frozen: equal to the bit at the end",
    "unfrozen_resume": "resumed in mid-epoch after unfreezing: equal to the bit at the end",
    "processes": "two processes have equal parameters after unfreezing",
}
warnings.filterwarnings("ignore")


def network() -> Any:
    import torch
    from torch import nn

    torch.manual_seed(0)
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    return nn.Sequential(body, nn.Linear(8, 3))


def data() -> Any:
    import torch

    draw = torch.Generator().manual_seed(1)
    return torch.randn(24, 3, 8, 8, generator=draw), torch.arange(24) % 3


class Probe:
    """Looks at the body before and after the frozen phase, and after the other."""

    def __init__(self, body: Any) -> None:
        self.body, self.facts, self.outputs = body, {}, []
        self.before = self.copy()

    def copy(self) -> dict[str, Any]:
        return {name: t.detach().clone() for name, t in self.body.state_dict().items()}

    def frozen_phase_is_over(self) -> None:
        now = self.copy()
        same = {name: bool((now[name] == self.before[name]).all()) for name in now}
        norms = {n: s for n, s in same.items() if "running" in n or "num_batches" in n}
        self.facts["statistics"] = all(norms.values())
        self.facts["parameters"] = all(s for n, s in same.items() if n not in norms)
        self.before = now

    def sees_dropout(self) -> None:
        """In a training step of the frozen phase."""
        import torch

        modes = [m.training for m in self.body.modules()]
        saved = {name: t.clone() for name, t in self.body.state_dict().items()}
        with torch.no_grad():
            one, two = (self.body(data()[0][:4]) for _ in range(2))
            self.body.load_state_dict(saved)
        for module, mode in zip(self.body.modules(), modes, strict=True):
            module.training = mode
        self.facts["dropout"] = bool((one == two).all())

    def end(self) -> None:
        now = self.copy()
        names = [name for name, _ in self.body.named_parameters()]
        self.facts["trains"] = all(not bool((now[n] == self.before[n]).all()) for n in names)


def steps_of(optimizer: Any, parameter: Any) -> int:
    return int(optimizer.state.get(parameter, {}).get("step", 0))


def digest(model: Any) -> str:
    """Of all parameters: running statistics differ between processes by design."""
    weights = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
    return hashlib.sha256(weights).hexdigest()


def run_again(name: str) -> dict[str, Any]:
    """The rows about resuming and processes: each run has processes of its own."""

    def run(*options: str, n: int = 1) -> set[str]:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
        command = [sys.executable, *(launcher if n > 1 else []), __file__, "--again", name]
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, check=False, timeout=500
        )
        found = [line for line in done.stdout.splitlines() if line.startswith("weights ")]
        if len(found) != n:
            print(done.stderr[-2000:], file=sys.stderr)
            return {"failed"}
        return {*found}

    with tempfile.TemporaryDirectory() as folder:
        unbroken = run(folder)
        return {
            "frozen_resume": run(folder, "3") == unbroken,
            "unfrozen_resume": run(folder, "9") == unbroken,
            "processes": len(ends := run(f"{folder}/two", n=2)) == 1 and "failed" not in ends,
        }


def falls(rates: list[float]) -> bool:
    return len(rates) > 1 and all(b < a for a, b in itertools.pairwise(rates))


# -- Lightning -----------------------------------------------------------------------------------


def lightning_module(by_function: bool = False) -> Any:
    import torch
    from lightning.pytorch import LightningModule
    from torch.utils.data import DataLoader, TensorDataset

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = network()
            self.example_input_array = data()[0][:2]

        def forward(self, x: Any) -> Any:
            return self.head(self.backbone(x))

        def training_step(self, batch: Any, index: int) -> Any:
            return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(filter(lambda p: p.requires_grad, self.parameters()), 1e-2)
            kinds = torch.optim.lr_scheduler
            if by_function:
                schedule: Any = kinds.LambdaLR(optimizer, lambda step: 0.9**step)
            else:
                schedule = kinds.ExponentialLR(optimizer, 0.9)
            return [optimizer], [{"scheduler": schedule, "interval": "step"}]

        def train_dataloader(self) -> Any:
            n = int(os.environ.get("WORLD_SIZE", "1"))
            return DataLoader(TensorDataset(*data()), 4 // n)

    return Module()


def lightning_trainer(kind: str, folder: str, *others: Any, **options: Any) -> Any:
    from lightning.pytorch import Trainer
    from lightning.pytorch.callbacks import BackboneFinetuning

    if kind == "scheduler":
        from finetuning_scheduler import FinetuningScheduler

        phases = {
            0: {"params": ["head.*"], "max_transition_epoch": 1},
            1: {"params": ["backbone.*"], "lr": 1e-3, "max_transition_epoch": 2},
        }
        tunes: Any = FinetuningScheduler(
            ft_schedule=phases, epoch_transitions_only=True, restore_best=False
        )
    elif kind == "ours":
        from layergroups import GradualUnfreezing
        from layergroups.integrations.lightning import LayerGroupsCallback

        tunes = LayerGroupsCallback(["head"], unfreeze=GradualUnfreezing(every=1))
    else:
        tunes = BackboneFinetuning(1, lambda epoch: 1.0, backbone_initial_lr=1e-3)
    return Trainer(
        max_epochs=2, callbacks=[tunes, *others], accelerator="cpu", logger=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder,
        enable_checkpointing=kind == "scheduler", **options,
    )  # fmt: skip


def lightning_again(kind: str, folder: str, step: int) -> Any:
    from lightning.pytorch import Callback

    class Saves(Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if not step:
                trainer.save_checkpoint(f"{folder}/{trainer.global_step}.ckpt")

    n = int(os.environ.get("WORLD_SIZE", "1"))
    # its documentation asks for the search for unused parameters; layergroups needs none
    strategy = "ddp" if kind == "ours" else "ddp_find_unused_parameters_true"
    options = {"devices": n, "strategy": strategy} if n > 1 else {}
    module = lightning_module()
    trainer = lightning_trainer(kind, folder, Saves(), **options)
    trainer.fit(module, ckpt_path=f"{folder}/{step}.ckpt" if step else None)
    return module


def in_lightning(kind: str, by_function: bool = False) -> dict[str, Any]:
    from lightning.pytorch import Callback

    module = lightning_module(by_function)
    probe, rates = Probe(module.backbone), []

    class Looks(Callback):
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == 3:
                probe.sees_dropout()
            if trainer.global_step >= 6:
                (optimizer,) = trainer.optimizers
                conv = module.backbone[0].weight
                rates.extend(
                    float(g["lr"]) for g in optimizer.param_groups for p in g["params"] if p is conv
                )

        def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.current_epoch == 0:
                probe.frozen_phase_is_over()

    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning_trainer(kind, folder, Looks())
        trainer.fit(module)
    probe.end()
    optimizer = trainer.optimizers[0]
    moments = steps_of(optimizer, module.head.weight) == 12
    import lightning

    facts = {**probe.facts, "moments": moments, "schedule": falls(rates)}
    if by_function:
        return facts
    try:
        facts["function"] = in_lightning(kind, by_function=True)["schedule"]
    except ValueError:
        facts["function"] = False  # "zip() argument 2 is shorter than argument 1"
    return {**facts, "version": lightning.__version__}


# -- transformers --------------------------------------------------------------------------------


def transformers_trainer(ours: bool, folder: str, **options: Any) -> Any:
    from torch import nn
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = network()

        def forward(self, x: Any, labels: Any = None) -> dict[str, Any]:
            logits = self.head(self.body(x))
            out = {"logits": logits}
            if labels is not None:
                out = {"loss": nn.functional.cross_entropy(logits, labels), **out}
            return out

    class Unfreezes(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= 6:
                model.body.requires_grad_(True)

    model = Model()
    items = [{"x": x, "labels": y} for x, y in zip(*data(), strict=True)]
    given = {
        "num_train_epochs": 2, "use_cpu": True, "report_to": "none", "save_strategy": "no",
        "per_device_train_batch_size": 4 // int(os.environ.get("WORLD_SIZE", "1")),
        "disable_tqdm": True, "learning_rate": 1e-2, "logging_strategy": "no",
        "remove_unused_columns": False,
    }  # fmt: skip
    args = TrainingArguments(folder, **given | options)
    if not ours:
        model.body.requires_grad_(False)
        return Trainer(model, args, train_dataset=items, callbacks=[Unfreezes()])
    from layergroups import GradualUnfreezing
    from layergroups.integrations.transformers import LayerGroupsTrainer

    return LayerGroupsTrainer(
        model, args, train_dataset=items, split=["head"],
        unfreeze=GradualUnfreezing(every=1), example_input={"x": data()[0][:2]},
    )  # fmt: skip


def transformers_again(ours: bool, folder: str, step: int) -> Any:
    trainer = transformers_trainer(ours, folder, save_strategy="steps", save_steps=3)
    trainer.train(resume_from_checkpoint=f"{folder}/checkpoint-{step}" if step else None)
    return trainer.model


def in_transformers(ours: bool) -> dict[str, Any]:
    import transformers
    from transformers import TrainerCallback

    folder = tempfile.TemporaryDirectory()
    trainer = transformers_trainer(ours, folder.name)
    model = trainer.model
    probe, rates = Probe(model.body), []

    class Looks(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kw: Any) -> None:
            if state.global_step == 3:
                probe.sees_dropout()
            if state.global_step == 6:
                probe.frozen_phase_is_over()
            if state.global_step >= 6:
                groups = kw["optimizer"].param_groups
                conv = model.body[0].weight
                rates.extend(float(g["lr"]) for g in groups for p in g["params"] if p is conv)

    trainer.add_callback(Looks())
    trainer.train()
    folder.cleanup()
    probe.end()
    moments = steps_of(trainer.optimizer.optimizer, model.head.weight) == 12
    version = transformers.__version__
    facts = {**probe.facts, "moments": moments, "schedule": None, "version": version}
    return {**facts, "function": falls(rates)}  # the Trainer's schedules are functions


# -- fastai --------------------------------------------------------------------------------------


def fastai_peer() -> dict[str, Any]:
    import fastai
    import torch
    from fastai.callback import progress, schedule  # noqa: F401 - they add methods to the Learner
    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.torch_core import params
    from torch.utils.data import DataLoader, TensorDataset

    model = network()
    probe = Probe(model[0])

    class Looks(Callback):
        def before_batch(self) -> None:
            if self.iter == 3 and "dropout" not in probe.facts:
                probe.sees_dropout()

    batches = DataLoader(TensorDataset(*data()), 4)
    learn = Learner(
        DataLoaders(batches, batches), model, torch.nn.functional.cross_entropy, cbs=[Looks()],
        splitter=lambda m: [params(m[0]), params(m[1])],
    )  # fmt: skip
    learn.freeze()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-2)
        probe.frozen_phase_is_over()
        learn.unfreeze()
        before = learn.opt.state[model[1].weight].get("step", 0)
        learn.fit_one_cycle(1, slice(1e-3, 1e-2))
    probe.end()
    moments = learn.opt.state[model[1].weight].get("step", 0) == before + 6
    version = fastai.__version__
    return {
        **probe.facts,
        "moments": moments,
        "schedule": None,
        "function": None,
        "version": version,
    }


# -- Keras ---------------------------------------------------------------------------------------


def keras_peer() -> dict[str, Any]:
    import os

    os.environ["KERAS_BACKEND"] = "torch"
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    body = keras.Sequential(
        [
            keras.Input((8, 8, 3)), keras.layers.Conv2D(8, 3), keras.layers.BatchNormalization(),
            keras.layers.ReLU(), keras.layers.Dropout(0.5), keras.layers.GlobalAveragePooling2D(),
        ]
    )  # fmt: skip
    model = keras.Sequential([body, keras.layers.Dense(3)])
    x, y = data()
    x, y = np.moveaxis(x.numpy(), 1, -1), y.numpy()

    def values(kind: str) -> list[Any]:
        chosen = [w for w in body.weights if "seed" not in w.path]
        return [w.numpy().copy() for w in chosen if ("moving" in w.path) == (kind == "statistics")]

    def same(a: list[Any], b: list[Any]) -> bool:
        return all((u == v).all() for u, v in zip(a, b, strict=True))

    def fit(rate: float) -> None:
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(rate), loss)  # as the guide says, after each change
        model.fit(x, y, batch_size=4, epochs=1, verbose=0)

    facts: dict[str, Any] = {}
    body.trainable = False
    before = {kind: values(kind) for kind in ("parameters", "statistics")}
    fit(1e-2)
    facts |= {kind: same(before[kind], values(kind)) for kind in before}
    one, two = (np.asarray(body(x[:4], training=True).detach()) for _ in range(2))
    facts["dropout"] = bool((one == two).all())
    first = model.optimizer
    body.trainable = True
    before = {"parameters": values("parameters")}
    fit(1e-3)
    facts["trains"] = not any(
        (u == v).all() for u, v in zip(before["parameters"], values("parameters"), strict=True)
    )
    facts["moments"] = model.optimizer is first
    return {**facts, "schedule": None, "function": None, "version": keras.__version__}


CONTENDERS = {
    "Lightning, BackboneFinetuning": ("lightning", lambda: in_lightning("backbone")),
    "Lightning, finetuning-scheduler": ("scheduler", lambda: in_lightning("scheduler")),
    "Lightning, layergroups": ("lightning", lambda: in_lightning("ours")),
    "transformers, requires_grad": ("transformers", lambda: in_transformers(ours=False)),
    "transformers, layergroups": ("transformers", lambda: in_transformers(ours=True)),
    "fastai": ("fastai", fastai_peer),
    "Keras, torch backend": ("keras", keras_peer),
}


AGAIN = {
    "Lightning, BackboneFinetuning": lambda *given: lightning_again("backbone", *given),
    "Lightning, finetuning-scheduler": lambda *given: lightning_again("scheduler", *given),
    "Lightning, layergroups": lambda *given: lightning_again("ours", *given),
    "transformers, requires_grad": lambda *given: transformers_again(False, *given),
    "transformers, layergroups": lambda *given: transformers_again(True, *given),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--python", nargs="*", default=[], metavar="LIBRARY=PATH")
    parser.add_argument("--one", help="run this contender here and print JSON")
    parser.add_argument("--again", nargs="+", help="its weights after a run: NAME FOLDER [STEP]")
    options = parser.parse_args()
    if options.again:
        name, folder, *step = options.again
        Path(folder).mkdir(exist_ok=True)
        model = AGAIN[name](folder, int(*step))
        print(f"\nweights {digest(model)}\n", end="")
        return
    if options.one:
        facts = CONTENDERS[options.one][1]()
        rows = run_again(options.one) if options.one in AGAIN else {}
        print("\n" + json.dumps(dict.fromkeys(FACTS) | facts | rows, default=bool))
        return
    pythons = dict(each.split("=", 1) for each in options.python)
    found: dict[str, dict[str, Any]] = {}
    for name, (library, _) in CONTENDERS.items():
        command = [pythons.get(library, sys.executable), __file__, "--one", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            continue
        found[name] = json.loads(done.stdout.strip().splitlines()[-1])
    titles = [f"{name} ({facts['version']})" for name, facts in found.items()]
    print(f"| | {' | '.join(titles)} |")
    print(f"| --- |{' --- |' * len(found)}")
    for key, words in FACTS.items():
        told = [{True: "yes", False: "**no**", None: "–"}[f[key]] for f in found.values()]
        print(f"| {words} | {' | '.join(told)} |")


if __name__ == "__main__":
    main()
