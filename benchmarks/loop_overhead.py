"""What the loop costs: `learn.fit` beside the same training written by hand in plain PyTorch.

    python benchmarks/loop_overhead.py [--rounds 15] [--threads 1] [--only tiny]

Both train the same network from the same weights on the same batches, which lie in memory, with the
same parameter groups and fused AdamW, in float32; after the first epoch their weights are compared.
In each round both train an epoch, in turns, and the ratio of their times is taken; the table shows
the medians of the ratios and of the steps. Processor seconds matter where others use the machine
too. Nothing is frozen, so that each step is a whole one.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import Tensor, nn

from layergroups import Learner

Batches = list[tuple[Tensor, Tensor]]


@dataclass
class Data:
    """Batches in memory, and none to validate on."""

    train: Batches
    valid: Batches


def tiny() -> tuple[nn.Module, Batches]:
    """A step of about a millisecond on one core."""
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
    )
    return model, batches(size=16, n=64, count=300)


def resnet18() -> tuple[nn.Module, Batches]:
    """A network and a batch of the usual size."""
    return torchvision.models.resnet18(num_classes=10), batches(size=96, n=16, count=8)


def batches(size: int, n: int, count: int) -> Batches:
    """Random images, in channels_last as photos come, and classes."""
    x = torch.randn(count, n, 3, size, size)
    last = torch.channels_last
    return [(one.contiguous(memory_format=last), torch.arange(n) % 10) for one in x]


def by_hand(model: nn.Module, groups: list[dict[str, object]]) -> Callable[[Batches], float]:
    """The loop that a person would write."""
    loss_func = nn.CrossEntropyLoss()
    optimizer = torch.optim.AdamW(groups, fused=True)

    def epoch(data: Batches) -> float:
        model.train()
        total, items = torch.zeros(()), 0
        for x, y in data:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_func(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(y)
            items += len(y)
        model.eval()
        return float(total) / items

    return epoch


class Pair:
    """The two contenders, from the same weights."""

    def __init__(self, model: nn.Module, data: Batches) -> None:
        self.data = data
        self.other = copy.deepcopy(model)
        self.learn = Learner(
            Data(data, []), model, split=3, progress=False, batch_norm="update", lr=1e-3
        )
        self.other.to(memory_format=torch.channels_last)  # as the Learner has its convolutions
        names = dict(self.other.named_parameters())
        own = {p: names[n] for n, p in model.named_parameters()}
        groups = self.learn.layer_groups.param_groups(weight_decay=0.01)
        for group in groups:
            group["params"] = [own[p] for p in group["params"]]
        self.train_by_hand = by_hand(self.other, groups)

    def ours(self) -> None:
        """An epoch of `learn.fit`."""
        self.learn.fit(1, feature_cache=False)

    def theirs(self) -> None:
        """An epoch of the loop written by hand."""
        self.train_by_hand(self.data)

    def check(self) -> None:
        """Both have learned the same."""
        for one, two in zip(self.learn.model.parameters(), self.other.parameters(), strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def timed(what: Callable[[], None]) -> tuple[float, float]:
    """Wall seconds and processor seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    what()
    return time.perf_counter() - wall, time.process_time() - cpu


def measure(name: str, pair: Pair, rounds: int) -> str:
    """A row of the table."""
    pair.ours(), pair.theirs()
    pair.check()
    found = []
    for number in range(rounds):
        order = (pair.ours, pair.theirs) if number % 2 else (pair.theirs, pair.ours)
        times = {what.__name__: timed(what) for what in order}
        found.append((*times["ours"], *times["theirs"]))
    steps = len(pair.data) / 1000
    wall = statistics.median(row[0] / row[2] for row in found)
    cpu = statistics.median(row[1] / row[3] for row in found)
    ours, theirs = (statistics.median(row[i] for row in found) / steps for i in (1, 3))
    spread = sorted(row[1] / row[3] for row in found)
    return (
        f"| {name} | {theirs:.3f} | {ours:.3f} | {cpu:.3f} ({spread[0]:.3f} to {spread[-1]:.3f}) "
        f"| {wall:.3f} |"
    )


def main() -> None:
    """Measure both networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", choices=["tiny", "resnet18"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(
        "| network | by hand, processor ms a step | ours | ratio of processor time (range) "
        "| ratio of wall time |"
    )
    print("| --- | --- | --- | --- | --- |", flush=True)
    for make in (tiny, resnet18):
        if options.only in (None, make.__name__):
            torch.manual_seed(0)
            pair = Pair(*make())
            print(measure(make.__name__, pair, options.rounds), flush=True)


if __name__ == "__main__":
    main()
