"""What one process of a distributed test does: `torchrun … distributed_script.py SCENARIOS FOLDER`.

It writes what it came to into FOLDER/SCENARIO, a file for each process. The test calls the same
scenarios in its own single process, to compare.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tests.laws.models import TinyTransformer, image
from tests.training.tiny import LabelLoaders, MaskLoaders, NumberLoaders, TinyLoaders, snapshot
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torchmetrics.regression import MeanAbsoluteError

from layergroups import TextDataLoaders, text_learner
from layergroups._fingerprint import checksum
from layergroups._torch import is_sharded
from layergroups.errors import GroupingError, TrainingError
from layergroups.groups import LayerGroups
from layergroups.training import (
    CSVLog,
    EarlyStopping,
    EpochRow,
    FineTuneDefaults,
    History,
    Learner,
    MixUp,
    ReduceLROnPlateau,
    SaveBest,
    StopOnNaN,
    average_gradients,
    same_weights,
)
from layergroups.training.distributed._processes import current_processes
from layergroups.training.distributed._sharding import whole

RANK = int(os.environ.get("RANK", "0"))


def network(n_out: int = 3, seed: int = 0) -> nn.Sequential:
    """No dropout, and norms that do not depend on the batch: sharing must not change a thing."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1),
            nn.BatchNorm2d(8), nn.ReLU(),
        )  # fmt: skip
        body[4].running_mean += 0.1  # as if it had been trained: it keeps its statistics
        return nn.Sequential(body, head(n_out))


def head(n_out: int) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, n_out))


class Watches:
    """Notes the hash of all that the model is, at the end of every epoch."""

    def __init__(self) -> None:
        self.hashes: list[int] = []

    def after_epoch(self, run: Any) -> None:
        tensors = whole(run.model.state_dict()).values()
        self.hashes.append(hash(tuple(checksum(t) for t in tensors)))


def learner(**options: Any) -> Learner:
    watches = Watches()
    defaults: dict[str, Any] = {
        "split": ["0.0", "0.3", "1"],
        "lr": [1e-3, 2e-3, 1e-2],
        "metrics": ["accuracy", "roc_auc", "f1", "ece", function_metric],
        "progress": False,
        "model": network(),
        "dls": TinyLoaders(),
    }
    defaults |= options
    callbacks = [watches, *defaults.pop("callbacks", [])]
    made = Learner(defaults.pop("dls"), defaults.pop("model"), callbacks=callbacks, **defaults)
    vars(made)["watches"] = watches  # past the check of names: an attribute of this script
    return made


def function_metric(probabilities: torch.Tensor, classes: torch.Tensor) -> float:
    """Depends on the order of the items."""
    order = torch.arange(1, len(classes) + 1)
    return float((probabilities[:, 0] * order).sum() / order.sum() + classes[0])


class Lives:
    """Freeze, thaw and surgery in the middle of training."""

    def before_step(self, run: Any) -> None:
        if run.step == 3:
            run.learner.unfreeze()
        if run.step == 8:
            new = head(3)
            with torch.no_grad(), torch.random.fork_rng():
                torch.manual_seed(5)
                for p in new.parameters():
                    p.copy_(torch.randn(p.shape) * 0.1)
                if RANK:  # another start than the main process has: it must not matter
                    new[2].weight += 1.0
            run.learner.model[1] = new
        if run.step == 13:
            run.learner.freeze_to(1)


def life(folder: Path, **options: Any) -> Learner:
    learn = learner(callbacks=[Lives()], **options)
    learn.freeze()
    learn.fit_one_cycle(3)
    return learn


def uneven(folder: Path) -> Learner:
    """Batches of 8, 8, 8, 3 photos to train on, and of 8 and 1 to validate on."""
    dls = TinyLoaders(n=27)
    dls.valid.x, dls.valid.y = dls.valid.x[:9], dls.valid.y[:9]
    learn = learner(dls=dls)
    learn.fit(2)
    return learn


def ordered_distance(answers: torch.Tensor, targets: torch.Tensor) -> float:
    """Depends on the order of the items; for targets (N, C)."""
    order = torch.arange(1, len(targets) + 1)
    return float(((answers - targets).abs().mean(1) * order).sum() / order.sum() + targets[0, 0])


def wide_targets(dls: TinyLoaders) -> Learner:
    """Targets (N, C), of labels or of numbers, with rests that cannot be shared evenly."""
    metrics = [MeanAbsoluteError(), ordered_distance]
    learn = learner(dls=dls, model=network(dls.c), metrics=metrics)
    learn.fit(2)
    return learn


def masks(folder: Path) -> Learner:
    """A class for each pixel, and averaged weights."""
    last = nn.Sequential(nn.Upsample(scale_factor=4), nn.Conv2d(8, 3, 1))
    with torch.no_grad():
        for parameter in last.parameters():
            parameter.copy_(torch.linspace(-0.3, 0.3, parameter.numel()).view_as(parameter))
    model = nn.Sequential(network()[0], last)
    learn = learner(dls=MaskLoaders(n=27), model=model, metrics=["iou", "dice"], ema=0.9)
    learn.fit(2)
    return learn


def texts(folder: Path) -> Learner:
    """Texts of any language, windows of long ones: the head on a frozen encoder, then all of it."""
    from tests.texts import model_folder, reviews

    encoder = folder / "encoder"
    if RANK == 0:  # transformers writes on the first process alone
        model_folder(encoder)
        config = json.loads((encoder / "config.json").read_text())
        config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        (encoder / "config.json").write_text(json.dumps(config))
    current_processes().barrier("the encoder is written")
    given, labels = reviews(45, longest=60)
    given = [f"{text} 很精彩 رائع 🎉" if i % 3 else text for i, text in enumerate(given)]
    dls = TextDataLoaders.from_lists(
        given, labels, model=str(encoder), batch_size=8, long="windows"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own_head = nn.Linear(16, 2)
    watches = Watches()
    learn = text_learner(
        dls, custom_head=own_head, metrics=["accuracy", "f1", function_metric], progress=False,
        callbacks=[watches], seed=0,
    )  # fmt: skip
    vars(learn)["watches"] = watches
    learn.fit(2, 1e-2)
    learn.unfreeze()
    learn.fit(1, 1e-3)
    return learn


def few(folder: Path) -> Learner:
    """A single photo to validate on: one process has none."""
    dls = TinyLoaders(n=16)
    dls.valid.x, dls.valid.y = dls.valid.x[:1], dls.valid.y[:1]
    learn = learner(dls=dls, metrics=["accuracy", function_metric])
    learn.fit(1)
    return learn


def fine_tune(folder: Path) -> Learner:
    dls = TinyLoaders(n=240, batch_size=24)
    learn = learner(dls=dls)
    learn.fine_tune(1, 1e-2)
    learn.save("state")
    return learn


def two_boundaries(folder: Path) -> Learner:
    """The passes of the first phase feed the second one too."""
    learn = learner(dls=TinyLoaders(n=240, batch_size=24))
    learn.fine_tune(3, 1e-2, defaults=FineTuneDefaults(lowest=1, head_passes=3))
    return learn


def stored(folder: Path) -> Learner:
    """Epochs from stored outputs of frozen layers; frozen layers are written to in the last one."""

    class Writes:
        def after_step(self, run: Any) -> None:
            if run.step == 13:
                with torch.no_grad():
                    run.model[0][0].weight.mul_(1.1)

    learn = learner(dls=TinyLoaders(n=27), callbacks=[Writes()])
    learn.freeze_to(-2)
    learn.fit(4)
    return learn


def accumulated(folder: Path) -> Learner:
    """Windows of 4 batches over 6; frozen, thawed and operated on within windows."""

    class InTheMidst:
        batches = 0

        def before_step(self, run: Any) -> None:
            self.batches += 1
            if self.batches == 3:
                run.learner.freeze()
            if self.batches == 8:
                run.learner.unfreeze()

    learn = learner(accumulate=4, callbacks=[InTheMidst()])
    learn.fit(3)
    return learn


def averaged(folder: Path) -> Learner:
    """A moving average, clipped gradients of two batches, through freezing and surgery."""
    learn = learner(callbacks=[Lives()], accumulate=2, ema=0.9, clip=0.05)
    learn.freeze()
    learn.fit_flat_cos(4, feature_cache=False)
    learn.save("state")
    return learn


def averaged_norms(folder: Path) -> Learner:
    """Statistics that follow the batches differ between processes; their averages must not."""
    learn = learner(batch_norm="update", ema=0.9)
    learn.fit(2)
    return learn


def moving_norms(folder: Path) -> Learner:
    """Statistics follow the batches: not those of one process, but the same everywhere."""
    learn = learner(batch_norm="update")
    learn.fit(2)
    return learn


def shuffled(folder: Path) -> Learner:
    """An ordinary DataLoader that shuffles by the global random state, which differs."""
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(RANK)
    dls = TinyLoaders()
    data = TensorDataset(dls.train.x, dls.train.y)
    dls.train = DataLoader(data, batch_size=8, shuffle=True)
    learn = learner(dls=dls)
    learn.fit(2)
    return learn


def transformer(folder: Path) -> Learner:
    """Bare parameters in the root, layers in a list, a classifier exchanged by name."""

    class Exchanges:
        def before_step(self, run: Any) -> None:
            if run.step == 4:
                with torch.random.fork_rng():
                    torch.manual_seed(11)
                    run.model.head = nn.Linear(16, 3)
            if run.step == 8:
                run.learner.unfreeze()

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = TinyTransformer(layers=2)
    for layer in model.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        if isinstance(layer, nn.MultiheadAttention):
            layer.dropout = 0.0
    dls = TinyLoaders(size=(32, 32))
    options: dict[str, Any] = {"split": "layerwise", "lr": 1e-2, "callbacks": [Exchanges()]}
    # Not Adam: the gradient of a key's bias is 0 but for rounding, which Adam would blow up.
    learn = learner(model=model, dls=dls, opt_func="sgd", **options)
    learn.freeze_to(-2)
    learn.fit(2)
    return learn


class Skips(nn.Module):
    """Goes around its middle part in some steps, and never uses another."""

    def __init__(self, by_rank: bool) -> None:
        super().__init__()
        self.first, self.middle = nn.Linear(768, 8), nn.Linear(8, 8)
        self.never = nn.Linear(8, 8)
        self.last = nn.Linear(8, 3)
        self.by_rank, self.calls = by_rank, 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x.flatten(1)).relu()
        self.calls += self.training
        if not self.training or (self.calls + (RANK if self.by_rank else 0)) % 3:
            x = x + self.middle(x)
        return self.last(x)


def skips(folder: Path, by_rank: bool = True) -> Learner:
    torch.manual_seed(0)
    split = {"first": "first", "rest": "middle|never", "last": "last"}
    learn = learner(model=Skips(by_rank), split=split)
    learn.fit(2)
    return learn


def saved(folder: Path) -> Learner:
    """Trained, saved, trained on and loaded again."""
    learn = learner(path=folder)
    learn.fit(1)
    learn.save("state")
    learn.fit(1)
    learn.load("state")
    learn.watches.hashes.pop()
    return learn


class PlainLoop:
    """A loop of one's own, told as if it were a learner's."""

    def __init__(self, spread: bool) -> None:
        self.processes, self.spread = current_processes(), spread and "RANK" in os.environ
        self.model = network(seed=RANK)  # other first weights in each process
        self.groups = LayerGroups(self.model, ["0.0", "0.3", "1"], example_input=image(16))
        same_weights(self.groups)
        self._spread(*self.model[0], *self.model)
        rates = [1e-3, 2e-3, 1e-2]
        self.opt = torch.optim.Adam(self.groups.param_groups(rates), foreach=False)
        self.groups.attach(self.opt)
        self.hashes, self.history = [], History()
        self.watches = self
        self.train()

    def _spread(self, *modules: nn.Module) -> None:
        if self.spread:
            for module in modules:
                fully_shard(module)

    def train(self) -> None:
        self.groups.freeze()
        batches = list(TinyLoaders().train)
        for step, (x, y) in enumerate(batches * 2):
            if step == 3:
                self.groups.unfreeze()
            if step == 6:
                self.model[1] = head(3)
                same_weights(self.groups)
                with torch.no_grad():
                    self.model[1][2].weight.copy_(torch.linspace(-0.3, 0.3, 24).view(3, 8))
                    self.model[1][2].bias.zero_()
                self._spread(self.model[1])
                self.groups.sync()
            if step == 9:
                self.groups.freeze_to(1)
            self.model.train()
            self.model[0][4].eval()  # keeps its statistics
            self.opt.zero_grad()
            mine = slice(self.processes.rank, None, self.processes.world)
            nn.functional.cross_entropy(self.model(x[mine]), y[mine]).backward()
            average_gradients(self.groups)
            self.opt.step()
        self.model.eval()
        row = EpochRow(epoch=0, phase="own", train_loss=0.0, valid_loss=0.0, seconds=0.0)
        self.history += (replace(row, frozen=self.groups.frozen),)
        tensors = whole(self.model.state_dict()).values()
        self.hashes.append(hash(tuple(checksum(t) for t in tensors)))


def plain(folder: Path, spread: bool = False) -> Any:
    if "RANK" in os.environ and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    return PlainLoop(spread)


def wrapped(folder: Path) -> Any:
    """torch's own wrapper: unfrozen, frozen and operated on after it was made."""
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo")
    groups = LayerGroups(network(), ["0.0", "0.3", "1"], example_input=image(16))
    groups.freeze()
    wrapper = DistributedDataParallel(groups.model)  # not known to the groups
    told: list[str] = []

    def forward() -> None:
        groups.model.zero_grad()
        torch.manual_seed(RANK)
        try:
            wrapper.train()(torch.randn(4, *image(16).shape[1:])).square().sum().backward()
        except GroupingError as error:
            told.append(str(error))
        else:
            grads = [p.grad for p in groups.model.parameters() if p.grad is not None]
            told.append(f"{len(grads)} {[checksum(grad) for grad in grads]}")

    forward()
    groups.unfreeze()
    forward()
    groups.freeze_to(-2)
    forward()
    groups.model[0][0].requires_grad_(True)  # by hand, as plain PyTorch does it
    forward()
    groups.unfreeze()
    forward()
    setattr(groups.model[1], "2", nn.Linear(8, 3))
    groups = LayerGroups(wrapper, ["0.0", "0.3", "1"], example_input=image(16))
    forward()
    (folder / f"told-{RANK}.txt").write_text("\n".join(told))
    learn = learner()
    learn._groups = groups
    return learn


def stops(folder: Path) -> Learner:
    class Stops:
        def after_step(self, run: Any) -> None:
            if run.step == 4 and int(os.environ.get("WORLD_SIZE", "1")) - 1 == RANK:
                run.stop = "enough"

    learn = learner(callbacks=[Stops()])
    learn.fit(3)
    return learn


def ready(folder: Path) -> Learner:
    """Callbacks that watch, save, write and put back."""
    learn = learner(
        path=folder,
        callbacks=[
            CSVLog(folder / "log.csv"),
            StopOnNaN(),
            ReduceLROnPlateau("accuracy", patience=1, mode="min"),
            EarlyStopping("accuracy", patience=2, mode="min"),
            SaveBest("train_loss", mode="max", restore=True),
        ],
    )
    learn.fit(5)
    learn.watches.hashes[-1] = 0
    return learn


def broken_loss(folder: Path) -> Learner:
    """A loss that is not finite in one process only."""

    class Spoils:
        def before_step(self, run: Any) -> None:
            if run.step == 8 and 1 in run.share.positions:
                run.inputs[list(run.share.positions).index(1)] = float("nan")

    learn = learner(callbacks=[Spoils(), StopOnNaN()])
    learn.fit(3)
    learn.watches.hashes[-1] = 0
    return learn


def mixes(folder: Path) -> Learner:
    """Each process mixes within its share."""
    learn = learner(callbacks=[MixUp()])
    learn.fit(2)
    return learn


def _fails(what: Callable[[Any], None]) -> Callable[[Path], Learner]:
    class OnOneProcess:
        def before_step(self, run: Any) -> None:
            if run.step == 2 and RANK == 1:
                what(run)

    def scenario(folder: Path) -> Learner:
        learn = learner(callbacks=[OnOneProcess()])
        error = ""
        try:
            learn.fit(2)
        except TrainingError as raised:
            error = str(raised)
        (folder / f"error-{RANK}.txt").write_text(error)
        learn.callbacks.pop()
        return learn

    return scenario


def _other_head(run: Any) -> None:
    run.learner.model[1] = head(3)


def _raises(run: Any) -> None:
    raise RuntimeError("the disk is full")


def _spoils(run: Any) -> None:
    with torch.no_grad():
        run.model[0][0].weight[0, 0, 0, 0] += 1e-3


SCENARIOS: dict[str, Callable[[Path], Learner]] = {
    "life": life,
    "life_sgd": lambda folder: life(folder, opt_func="sgd"),
    "life_bf16": lambda folder: life(folder, mixed_precision="bf16"),
    "uneven": uneven,
    "few": few,
    "fine_tune": fine_tune,
    "stored": stored,
    "labels": lambda folder: wide_targets(LabelLoaders(n=27)),
    "numbers": lambda folder: wide_targets(NumberLoaders(n=27)),
    "masks": masks,
    "texts": texts,
    "two_boundaries": two_boundaries,
    "transformer": transformer,
    "wrapped": wrapped,
    "plain": plain,
    "plain_spread": lambda folder: plain(folder, spread=True),
    "skips": skips,
    "skips_alike": lambda folder: skips(folder, by_rank=False),
    "saved": saved,
    "accumulated": accumulated,
    "averaged": averaged,
    "averaged_norms": averaged_norms,
    "moving_norms": moving_norms,
    "shuffled": shuffled,
    "stops": stops,
    "ready": ready,
    "broken_loss": broken_loss,
    "mixes": mixes,
    "freeze_on_one": _fails(lambda run: run.learner.freeze()),
    "surgery_on_one": _fails(_other_head),
    "rates_on_one": _fails(lambda run: run.learner.layer_groups.set_rates({"1": 0.5})),
    "error_on_one": _fails(_raises),
    "change_on_one": _fails(_spoils),
}


def main() -> None:
    for name in sys.argv[1].split(","):
        _run(name, Path(sys.argv[2], name))


def _run(name: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    learn = SCENARIOS[name](folder)
    if learn.history:  # after a failure the processes may have different models
        torch.save(whole(snapshot(learn.model)), folder / f"weights-{RANK}.pt")
    told = {
        "world": learn.processes.world,
        "sharded": all(is_sharded(p) for p in learn.model.parameters()),
        "hashes": learn.watches.hashes,
        "history": learn.history.to_dict(),
    }
    (folder / f"told-{RANK}.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
