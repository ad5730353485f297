"""Fine-tune a network on a folder of photos: `python examples/fine_tune_folder.py photos`.

Without a folder it takes the demo's photos and the demo's weights, so it runs from a clone as it
is. The folder has a sub-folder for each class, or `train` and `valid` with those in them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from layergroups import ImageDataLoaders, load_learner, vision_learner
from layergroups.demo import efficientnet_lite0_weights
from layergroups.demo._demo_weights import ARCHITECTURE
from layergroups.demo._run import PHOTOS
from layergroups.reports import confusion_matrix, network_picture, write_run


def main(arguments: Sequence[str] | None = None) -> None:
    options = read_options(arguments)
    weights = options.weights
    if options.arch == ARCHITECTURE and weights is None:
        weights = efficientnet_lite0_weights()

    dls = ImageDataLoaders.from_folder(
        options.folder, size=options.size, batch_size=options.batch_size
    )
    print(dls)
    learn = vision_learner(
        dls,
        options.arch,
        weights=weights,
        pretrained=not options.from_noise,
        metrics=["accuracy"],
        seed=0,
    )
    print(learn.layer_groups)

    learn.fine_tune(options.epochs)

    confusion = confusion_matrix(learn)
    print(f"accuracy {confusion.accuracy:.3f}")
    for mistake in confusion.most_confused(3):
        print(f"  {mistake.count} x {mistake.actual} predicted as {mistake.predicted}")
    files = write_run(learn, options.out, confusion)
    network_picture(learn.layer_groups, options.out / "network.png", title=options.arch)

    again = load_learner(files.folder)  # needs neither the photos nor this script
    photo = dls.valid.paths[0]
    print(f"{photo.parent.name}/{photo.name} is {again.predict(photo).label}")


def read_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Fine-tune a network on a folder of photos.")
    parser.add_argument("folder", nargs="?", type=Path, default=PHOTOS)
    parser.add_argument("--arch", default=ARCHITECTURE, help="resnet18, torchvision:..., timm:...")
    parser.add_argument("--weights", type=Path, help="a local file, .safetensors or .pth")
    parser.add_argument("--from-noise", action="store_true", help="without pretrained weights")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("fine-tuned"))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
