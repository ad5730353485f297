"""A class for every pixel: from images and masks to a mask of a new image.

    python examples/segmentation.py                       # draws some images of its own
    python examples/segmentation.py --images images --masks masks --classes classes.txt

With your own images leave `--scratch` out, so that the body is pretrained.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from layergroups import SegmentationDataLoaders, segmentation_learner


def draw(folder: Path, n: int = 16) -> None:
    """Images of a bright disc on noise, and their masks of 0 and 255."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:64, :64]
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(n):
        y, x, radius = random.integers((12, 12, 8), (52, 52, 16))
        disc = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        pixels = random.integers(0, 90, (64, 64, 3)) + 120 * disc[..., None]
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/{number:02d}.jpg")
        Image.fromarray((255 * disc).astype(np.uint8)).save(folder / f"masks/{number:02d}.png")


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--classes", help="a file with a name in each line")
    parser.add_argument("--arch", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--scratch", action="store_true", help="without pretrained weights")
    parser.add_argument("--out", type=Path, default=Path("segmentation-run"))
    options = parser.parse_args(words)
    if options.images is None:
        draw(options.out)
        options.images, options.masks = options.out / "images", options.out / "masks"
    dls = SegmentationDataLoaders.from_folders(
        options.images, options.masks, classes=options.classes, size=options.size
    )
    learn = segmentation_learner(dls, options.arch, pretrained=not options.scratch, seed=0)
    learn.fine_tune(options.epochs)
    print(", ".join(f"{name} {value:.3f}" for name, value in learn.validate().items()))
    image = dls.valid_images.paths[0]
    predicted = learn.predict(image)
    print(f"{image.name}: {predicted}")
    predicted.save(options.out / "mask.png")
    learn.show_results(options.out / "results.png", n=3)
    learn.export(options.out / "model")


if __name__ == "__main__":
    main()
