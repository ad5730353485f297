"""What training in two processes costs beyond the steps themselves: -> a Markdown table.

    python benchmarks/several_processes.py [--epochs 5]

Two processes with gloo and a thread each, on one machine, train a resnet18 on images in memory. For
each thing that the processes do together the median of its milliseconds is shown, with waiting for
the slower one in it: what a step costs is therefore an upper bound.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torchvision

from layergroups import Learner
from layergroups.training.distributed._replicas import Replicas

TOLD = {
    "meet": "agreement before a step",
    "add_gradients": "exchange of gradients, for a step",
    "check": "comparison of all copies, at the start and after an epoch",
    "even_out": "statistics of norm layers, after an epoch",
}


@dataclass
class Data:
    """Batches in memory, and none to validate on."""

    train: list[tuple[torch.Tensor, torch.Tensor]]
    valid: list[Any]


def timed(took: list[float], method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, which writes down its milliseconds."""

    def run(*words: Any, **named: Any) -> Any:
        begin = time.perf_counter()
        try:
            return method(*words, **named)
        finally:
            took.append(1e3 * (time.perf_counter() - begin))

    return run


def one_of_two(epochs: int) -> None:
    """Train, and let the first process tell what things took."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    took: dict[str, list[float]] = defaultdict(list)
    x, y = torch.randn(12, 16, 3, 64, 64), torch.arange(16) % 10
    model = torchvision.models.resnet18(num_classes=10)
    learn = Learner(Data([(one, y) for one in x], []), model, seed=0, progress=False, lr=1e-3)
    learn.fit(1, feature_cache=False)
    for name in TOLD:
        setattr(Replicas, name, timed(took[name], getattr(Replicas, name)))
    begin = time.perf_counter()
    learn.fit(epochs, feature_cache=False)
    step = 1e3 * (time.perf_counter() - begin) / (epochs * len(x))
    if os.environ["RANK"] == "0":
        print("| | ms, median |\n| --- | --- |")
        print(f"| a whole step, of 8 images in each process | {step:.0f} |")
        for name, words in TOLD.items():
            print(f"| {words} | {statistics.median(took[name]):.2f} |")


def main() -> None:
    """Start the two processes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    if "RANK" in os.environ:
        one_of_two(options.epochs)
        return
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run([*command, __file__, f"--epochs={options.epochs}"], check=True)


if __name__ == "__main__":
    main()
