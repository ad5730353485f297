"""The frozen phase alone: epochs of layergroups with and without the store, and of fastai.

    python benchmarks/fine_tune/frozen.py PHOTOS [--peers PEERS/bin/python] [--epochs 5]

Each contender is a process of its own. PHOTOS and PEERS are those of run.py. Prints a Markdown
table: seconds of each epoch with its validation, of the phase, and the peak memory of the process.
"""

from __future__ import annotations

import sys
from pathlib import Path

from process import add_peers, measure, parser_of

from layergroups.demo._demo_weights import efficientnet_lite0_weights

OURS = """
import json, resource, sys, time
from layergroups import ImageDataLoaders, vision_learner
photos, weights, size, epochs, store = *sys.argv[1:3], *map(int, sys.argv[3:6])
dls = ImageDataLoaders.from_folder(photos, size=size, batch_size=64, seed=0)
learn = vision_learner(
    dls, "timm:tf_efficientnet_lite0", weights=weights, metrics=["accuracy"], seed=0, progress=False
)
begin = time.perf_counter()
learn.freeze()
rows = learn.fit(epochs, 1e-3, feature_cache=bool(store))
print(json.dumps({
    "epochs": [row.seconds for row in rows],
    "seconds": time.perf_counter() - begin,
    "accuracy": rows[-1].metrics["accuracy"],
    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""
FASTAI = str(Path(__file__).parent / "fastai_epochs.py")


def main() -> None:
    """Measure all contenders and print the table."""
    parser = parser_of(__doc__, epochs=5)
    add_peers(parser)
    args = parser.parse_args()
    options = [str(args.photos), str(efficientnet_lite0_weights()), str(args.size)]
    options.append(str(args.epochs))
    found = {
        "layergroups": measure(sys.executable, "-c", OURS, *options, "1"),
        "layergroups, feature_cache=False": measure(sys.executable, "-c", OURS, *options, "0"),
    }
    if args.peers:
        found["fastai 2.8.12"] = measure(args.peers, FASTAI, *options, "frozen")
    print("| | seconds of each epoch | phase | accuracy | peak memory, MB |")
    print("| --- | --- | --- | --- | --- |")
    for name, result in found.items():
        epochs = ", ".join(f"{seconds:.1f}" for seconds in result["epochs"])
        print(
            f"| {name} | {epochs} | {result['seconds']:.1f} | {result['accuracy']:.3f} "
            f"| {result['peak_mb']:.0f} |"
        )


if __name__ == "__main__":
    main()
