"""What `learn.predict` and `learn.iter_preds` cost beyond the bare work: -> two Markdown tables.

    python benchmarks/predict.py [--threads 1] [--repeats 300] [--peers PEERS/bin/python] [names]

Bare work is decoding, transform, forward and softmax of the same photo by the same model, which is
in eval mode already. The two take turns, call by call, so both meet the same machine; the
difference is the median of the differences of neighbours. The model is in training mode, its body
frozen, before each `predict`, so that every module's mode is changed and put back. With --peers
fastai predicts a photo of the same folder with the demo's network, in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from layergroups import ImageDataLoaders, Learner, vision_learner
from layergroups.demo import efficientnet_lite0_weights
from layergroups.demo._demo_weights import ARCHITECTURE
from layergroups.demo._run import PHOTOS

NAMES = ["resnet18", ARCHITECTURE, "resnet50"]


def seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def made(name: str, size: int) -> Learner:
    """A learner on the demo's photos, its body frozen; weights are random but for the demo's."""
    dls = ImageDataLoaders.from_folder(PHOTOS, size=size)
    weights = efficientnet_lite0_weights() if name == ARCHITECTURE else None
    learn = vision_learner(dls, name, weights=weights, pretrained=False, seed=0, progress=False)
    learn.freeze()
    return learn


def one_photo(learn: Learner, repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of the bare work and of `learn.predict`, in pairs."""
    model, transform = learn.model, learn.dls.transform
    path = learn.dls.valid.paths[0]

    def bare() -> torch.Tensor:
        with torch.no_grad():
            return model(transform(path)[None]).softmax(1)

    pairs = []
    for _ in range(repeats + 10):
        model.eval()
        took = seconds(bare)
        model.train()
        pairs.append((took, seconds(lambda: learn.predict(path))))
    first, second = zip(*pairs[10:], strict=True)
    return list(first), list(second)


def folder(learn: Learner, repeats: int) -> tuple[float, float, int]:
    """Median seconds for a folder, bare and by `iter_preds`, and how many photos it has."""
    batches = learn.dls.test_dl(Path(PHOTOS))

    def bare() -> None:
        with torch.no_grad():
            for x in batches:
                learn.model(x).softmax(1).argmax(1).tolist()

    pairs = []
    for _ in range(repeats):
        learn.model.eval()
        pairs.append((seconds(bare), seconds(lambda: list(learn.iter_preds(batches)))))
    first, second = zip(*pairs, strict=True)
    return statistics.median(first), statistics.median(second), len(batches.samples)


def fastai(options: argparse.Namespace) -> float:
    """Milliseconds of fastai's `learn.predict`, with the demo's network."""
    script, weights = Path(__file__).with_name("fastai_predict.py"), efficientnet_lite0_weights()
    figures = map(str, (PHOTOS, weights, options.size, options.repeats, options.threads))
    command = [options.peers, str(script), *figures]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return 1e3 * float(json.loads(done.stdout.strip().splitlines()[-1])["seconds"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--repeats", type=int, default=300)
    parser.add_argument("--folder-repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", help="python of the peers' environment; without it fastai rests")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    learners = {name: made(name, options.size) for name in options.names}
    print("| network | modules | bare, ms | learn.predict, ms | difference, ms |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    for name, learn in learners.items():
        bare, ours = one_photo(learn, options.repeats)
        apart = statistics.median(b - a for a, b in zip(bare, ours, strict=True))
        n = len(list(learn.model.modules()))
        print(
            f"| {name} | {n} | {1e3 * statistics.median(bare):.2f} "
            f"| {1e3 * statistics.median(ours):.2f} | {1e3 * apart:.2f} |",
            flush=True,
        )
    if options.peers:
        print(f"\nfastai's learn.predict with {ARCHITECTURE}: {fastai(options):.2f} ms")
    print("\n| network | bare, photos a second | iter_preds, photos a second | ratio of times |")
    print("| --- | --- | --- | --- |", flush=True)
    for name, learn in learners.items():
        plain, streamed, n = folder(learn, options.folder_repeats)
        print(f"| {name} | {n / plain:.0f} | {n / streamed:.0f} | {streamed / plain:.3f} |")


if __name__ == "__main__":
    main()
