"""What it costs in each step to see that nothing of a model has changed: -> a Markdown table.

    python benchmarks/sync_cost.py [--batches 300]

The look before a step, and `groups.sync()`, are called many times in batches of 100. The machine
may be busy, so the fastest batch and the median of all batches are given, for one call.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import timeit
from collections.abc import Callable
from functools import partial

import timm
import torch
import torchvision
from torch import nn

from layergroups import LayerGroups

NETWORKS = {
    "torchvision resnet18": lambda: torchvision.models.resnet18(),
    "torchvision resnet50": lambda: torchvision.models.resnet50(),
    "timm vit_base_patch16_224": lambda: timm.create_model("vit_base_patch16_224"),
}
CALLS = 100


def readings(look: Callable[[], object], batches: int) -> list[float]:
    """Microseconds for one look, for each batch of calls."""
    assert look() is None
    return [s / CALLS * 1e6 for s in timeit.repeat(look, number=CALLS, repeat=batches)]


def after_surgery(model: nn.Module, groups: LayerGroups) -> float:
    """Milliseconds that following one change takes: another last layer."""
    path = groups.anatomy.classifiers[0].path
    old = model.get_submodule(path)
    assert isinstance(old, nn.Linear)
    model.set_submodule(path, nn.Linear(old.in_features, 5))
    begin = timeit.default_timer()
    assert groups.sync() is not None
    return (timeit.default_timer() - begin) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batches", type=int, default=300)
    batches = parser.parse_args().batches
    logging.getLogger("layergroups").setLevel(logging.ERROR)
    print(f"torch {torch.__version__}")
    print(
        "| network | modules | parameters | µs a step, fastest | median | µs sync() "
        "| ms after surgery |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for name, make in NETWORKS.items():
        model = make()
        groups = LayerGroups(model)
        groups.freeze()
        groups.attach(torch.optim.AdamW(groups.param_groups(lr=1e-3)))
        step = readings(partial(groups.sync, names=False), batches)
        whole = readings(groups.sync, batches)
        modules, parameters = len(list(model.modules())), len(list(model.parameters()))
        print(
            f"| {name} | {modules} | {parameters} "
            f"| {min(step):.1f} | {statistics.median(step):.1f} "
            f"| {min(whole):.1f} | {after_surgery(model, groups):.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
