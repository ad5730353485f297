"""What all contenders share: the command line, the clock, the scores and the JSON line.

    python CONTENDER.py --data SET --network lite0 --size 128 --epochs 3 --seed 0

`--epochs E` is the budget 1 + E: one epoch of the head and E of the network, or 1 + E of the
network where a recipe has a single phase. The seconds run from the first image read until the
validation images are predicted; imports, shifted images and the head alone are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from networks import NETWORKS, Network
from sets import SHIFTS, ImageSet, Values, read_set, write_shifted

BATCH = 64


@dataclass(frozen=True)
class Job:
    """What a contender is asked to do."""

    data: ImageSet
    network: Network
    weights: Path
    size: int
    epochs: int
    seed: int
    scratch: Path


@dataclass(frozen=True)
class Fitted:
    """What a contender returns.

    Attributes:
        predict: probabilities (N, classes or tags) or numbers (N, 1) of image files.
        rewind: turns the model into what it was after the head's phase, where there is one.
    """

    predict: Callable[[Sequence[Path]], Values]
    rewind: Callable[[], object] | None = None


def main(fit: Callable[[Job], Fitted]) -> None:
    """Run a contender on what the command line says, and print a JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True, help="the folder of a set")
    parser.add_argument("--network", choices=NETWORKS, default="lite0")
    parser.add_argument("--weights", type=Path, help="default: weights beside the sets' folder")
    parser.add_argument("--size", type=int, help="side of the images, default of the network")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    network = NETWORKS[args.network]
    random.seed(args.seed)
    np.random.seed(args.seed)
    torch.manual_seed(args.seed)
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LAYERGROUPS_CACHE"] = scratch  # no pixels decoded by an earlier run
        job = Job(
            read_set(args.data),
            network,
            args.weights or args.data.resolve().parent.parent / "weights",
            args.size or network.size,
            args.epochs,
            args.seed,
            Path(scratch),
        )
        print(json.dumps(_measure(job, fit)))


def _cpu_seconds() -> float:
    """Processor time of this process and of its finished workers."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _measure(job: Job, fit: Callable[[Job], Fitted]) -> dict[str, float | None]:
    begin, cpu = time.perf_counter(), _cpu_seconds()
    fitted = fit(job)
    files = job.data.valid.files
    predicted = fitted.predict(files)
    seconds, cpu = time.perf_counter() - begin, _cpu_seconds() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    score, loss = job.data.score(predicted)
    shifted = {
        shift: job.data.score(fitted.predict(write_shifted(files, shift, job.scratch / shift)))[0]
        for shift in SHIFTS
    }
    head = None
    if fitted.rewind:
        fitted.rewind()
        head = job.data.score(fitted.predict(files))[0]
    return {
        "score": score, "loss": loss, "seconds": seconds, "cpu_seconds": cpu, "peak_mb": peak,
        **shifted, "head_score": head,
    }  # fmt: skip
