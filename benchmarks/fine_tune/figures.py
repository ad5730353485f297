"""`fine_tune` with other figures than its defaults: how those were chosen.

    python benchmarks/fine_tune/figures.py PHOTOS "views=1" "views=3" "lowest=0, unfrozen_ratio=0.1"

Each argument is a set of fields of `FineTuneDefaults`; the defaults themselves come first. Each run
is a process of its own, seed by seed. Prints a Markdown table.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from process import HEADINGS, measure, parser_of, row

from layergroups.demo._demo_weights import efficientnet_lite0_weights

OURS = str(Path(__file__).parent / "ours.py")


def fields(text: str) -> dict[str, Any]:
    """Fields written as "views=1, passes=2", as a dict."""
    pairs = (part.split("=") for part in text.split(",") if part.strip())
    return {name.strip(): json.loads(value) for name, value in pairs}


def main() -> None:
    """Measure all sets and print the table."""
    parser = parser_of(__doc__, epochs=3)
    parser.add_argument("sets", nargs="*", help='such as "views=1, passes=1"')
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    options = [str(args.photos), str(efficientnet_lite0_weights()), str(args.size)]
    sets = ["", *args.sets]
    found: dict[str, list[dict[str, Any]]] = {text: [] for text in sets}
    for seed in range(args.seeds):
        for text in sets:
            words = [*options, str(args.epochs), str(seed), json.dumps(fields(text))]
            found[text].append(measure(sys.executable, OURS, *words))
            print(text or "defaults", seed, found[text][-1], file=sys.stderr, flush=True)
    print(HEADINGS)
    for text, results in found.items():
        print(row(text or "the defaults", results))


if __name__ == "__main__":
    main()
