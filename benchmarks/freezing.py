"""What freezing saves in a training step: time, memory for activations, gradients.

    python benchmarks/freezing.py [--networks resnet50 vit_small_patch16_224] [--rounds 5]

For each `freeze_to(n)` of four layer groups: the time of a whole step (forward, backward, AdamW) as
a part of the time with nothing frozen, both taken in each round, median over the rounds, in
processor seconds of one thread, so that a busy machine matters little; the bytes that autograd
keeps for the way back, counted once for each storage that is no parameter or buffer; the growth of
the peak resident memory in the first two steps of a fresh process (Linux only); the number of
parameters that get a gradient. Weights are random, which changes none of these.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from layergroups import LayerGroups

NETWORKS = ["torchvision:resnet50", "timm:vit_small_patch16_224"]
BATCH, SIDE, SPLIT = 4, 224, 4


class Training:
    """A network in training, with its groups, an optimizer and a batch."""

    def __init__(self, name: str) -> None:
        import torch

        from layergroups import LayerGroups, load_model

        torch.set_num_threads(1)
        torch.manual_seed(0)
        self.model: nn.Module = load_model(name, pretrained=False).model
        self.groups: LayerGroups = LayerGroups(self.model, SPLIT)
        made = self.groups.param_groups(lr=1e-5)
        self.optimizer: torch.optim.Optimizer = torch.optim.AdamW(made, fused=True)
        self.x, self.y = torch.randn(BATCH, 3, SIDE, SIDE), torch.arange(BATCH)
        self.model.train()

    def loss(self) -> Tensor:
        from torch.nn import functional as F

        return F.cross_entropy(self.model(self.x), self.y)

    def step(self) -> float:
        """One step; the processor seconds that it took."""
        begin = time.process_time()
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
        return time.process_time() - begin


def kept_for_backward(training: Training) -> int:
    """Bytes of all storages that autograd keeps, but for parameters and buffers."""
    import torch

    own = {t.untyped_storage().data_ptr() for t in training.model.state_dict().values()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        training.loss()
    return sum(kept.values())


def peak_mb() -> float:
    """Peak resident memory of this process; ru_maxrss would begin with that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def growth(name: str, n: int) -> None:
    """Print by how many MB the peak grows in two steps; for a process of its own."""
    training = Training(name)
    training.groups.freeze_to(n)
    before = peak_mb()
    for _ in range(2):
        training.step()
    print(peak_mb() - before)


def measured_growth(name: str, n: int) -> float:
    """By how many MB the peak grows in a fresh process."""
    command = [sys.executable, __file__, "--growth", name, str(n)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def ratios(training: Training, rounds: int) -> list[list[float]]:
    """For each n the time of a step as a part of that with nothing frozen, in each round."""
    settings = range(len(training.groups))
    found: list[list[float]] = [[] for _ in settings]
    for _ in range(rounds):
        seconds = []
        for n in settings:
            training.groups.freeze_to(n)
            training.step()  # the allocator gets used to the setting
            seconds.append(training.step())
        for n in settings:
            found[n].append(seconds[n] / seconds[0])
    return found


def measure(name: str, rounds: int) -> None:
    """Print the rows of one network."""
    training = Training(name)
    times = ratios(training, rounds)
    whole = 0
    for n, group in enumerate(training.groups):
        training.groups.freeze_to(n)
        training.step()
        gradients = sum(p.grad is not None for p in training.model.parameters())
        total = sum(1 for _ in training.model.parameters())
        kept = kept_for_backward(training)
        whole = whole or kept
        print(
            f"| {name} | freeze_to({n}): from {group.name} | {statistics.median(times[n]):.2f} "
            f"({min(times[n]):.2f} to {max(times[n]):.2f}) | {kept / 2**20:.0f} "
            f"({kept / whole:.2f}) | {measured_growth(name, n):.0f} | {gradients} of {total} |",
            flush=True,
        )


def main() -> None:
    """Measure all networks."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--growth", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.growth:
        growth(options.growth[0], int(options.growth[1]))
        return
    print(
        f"| network, batch {BATCH} of {SIDE} x {SIDE} | what trains | step time, part of unfrozen "
        "(range) | MB kept for backward (part) | growth of peak memory, MB | gradients |"
    )
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in options.networks:
        measure(name, options.rounds)


if __name__ == "__main__":
    main()
