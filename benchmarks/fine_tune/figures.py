"""`fine_tune` with other figures than its defaults: how those were chosen.

    python benchmarks/fine_tune/figures.py PHOTOS "views=1" "views=3" "lowest=0, unfrozen_ratio=0.1"

Each argument is a set of fields of `FineTuneDefaults`; the defaults themselves come first. Each run
is a process of its own, seed by seed. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from process import measure

from layergroups.demo.weights import efficientnet_lite0_weights

OURS = str(Path(__file__).parent / "ours.py")


def fields(text: str) -> dict[str, Any]:
    """Fields written as "views=1, passes=2", as a dict."""
    pairs = (part.split("=") for part in text.split(",") if part.strip())
    return {name.strip(): json.loads(value) for name, value in pairs}


def main() -> None:
    """Measure all sets and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("sets", nargs="*", help='such as "views=1, passes=1"')
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()
    options = [str(args.photos), str(efficientnet_lite0_weights()), str(args.size)]
    sets = ["", *args.sets]
    found: dict[str, list[dict[str, Any]]] = {text: [] for text in sets}
    for seed in range(args.seeds):
        for text in sets:
            words = [*options, str(args.epochs), str(seed), json.dumps(fields(text))]
            found[text].append(measure(sys.executable, OURS, *words))
            print(text or "defaults", seed, found[text][-1], file=sys.stderr, flush=True)
    print("| figures | accuracy, each seed | mean | seconds, median | peak memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    for text, results in found.items():
        accuracies = [r["accuracy"] for r in results]
        print(
            f"| {text or 'the defaults'} | {', '.join(f'{a:.3f}' for a in accuracies)} "
            f"| {statistics.mean(accuracies):.3f} "
            f"| {statistics.median(r['seconds'] for r in results):.0f} "
            f"| {statistics.median(r['peak_mb'] for r in results):.0f} |"
        )


if __name__ == "__main__":
    main()
