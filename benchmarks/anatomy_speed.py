"""How long an anatomy takes, and how much memory beyond the model: -> a Markdown table.

    python benchmarks/anatomy_speed.py [timm names]
    python benchmarks/anatomy_speed.py --sample 100      # so many of timm, on the meta device

Each network is made once, with real parameters, in a process of its own; five readings each.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import time

NAMES = ["resnet50", "vit_large_patch16_224", "convnextv2_huge"]


def peak_mb() -> float:
    """Peak memory of this process until now."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str) -> None:
    """Print the row of one network."""
    import timm
    import torch

    from layergroups.anatomy import read_anatomy

    read_anatomy(torch.nn.Linear(2, 2), torch.zeros(2, 2))  # imports that happen once
    model = timm.create_model(name)
    before = peak_mb()
    seconds = []
    for _ in range(5):
        begin = time.perf_counter()
        anatomy = read_anatomy(model)
        seconds.append(time.perf_counter() - begin)
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"| {name} | {parameters / 1e6:.0f} M | {len(anatomy.blocks)} "
        f"| {statistics.median(seconds):.2f} | {max(seconds):.2f} | {peak_mb() - before:.0f} |"
    )


def sample(count: int) -> None:
    """Print how long the anatomies of networks spread over timm take."""
    import timm
    import torch

    from layergroups.anatomy import read_anatomy

    names = timm.list_models()
    seconds = []
    for name in names[:: max(1, len(names) // count)]:
        with torch.device("meta"):
            model = timm.create_model(name)
        begin = time.perf_counter()
        read_anatomy(model)
        seconds.append(time.perf_counter() - begin)
    print(
        f"{len(seconds)} networks: median {statistics.median(seconds):.2f} s, {max(seconds):.2f} s"
    )


def main() -> None:
    """Measure all networks, each in a process of its own."""
    if sys.argv[1:2] == ["--sample"]:
        sample(int(sys.argv[2]))
        return
    if sys.argv[1:2] == ["--one"]:
        measure(sys.argv[2])
        return
    print("| network | parameters | blocks | seconds, median | slowest | MB beyond the model |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    for name in sys.argv[1:] or NAMES:
        subprocess.run([sys.executable, __file__, "--one", name], check=True)


if __name__ == "__main__":
    main()
