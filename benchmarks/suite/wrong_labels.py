"""A copy of data sets in which a part of the training labels is wrong; images are links.

    python wrong_labels.py DATA OUT --sets bloodcells4 textures10 --part 0.1

Give OUT to `run.py` as DATA. Each chosen image moves to another class, drawn with equal chances.
Validation labels stay right. Only data sets with a folder for each class can be copied.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument("--part", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    (args.out / "weights").symlink_to((args.data / "weights").resolve())
    for name in args.sets:
        changed = copy_set(args.data / "images" / name, args.out / "images" / name, args)
        print(f"{name}: {changed} wrong labels")


def copy_set(source: Path, target: Path, args: argparse.Namespace) -> int:
    """Link all images of a set; returns how many training images are in a wrong class."""
    classes = sorted(path.name for path in (source / "train").iterdir())
    for part in ("train", "valid"):
        for label in classes:
            (target / part / label).mkdir(parents=True)
    for path in source.glob("valid/*/*"):
        (target / "valid" / path.parent.name / path.name).symlink_to(path.resolve())
    images = sorted(source.glob("train/*/*"))
    draw = random.Random(f"{source.name}/{args.seed}")
    wrong = set(draw.sample(range(len(images)), round(args.part * len(images))))
    for index, path in enumerate(images):
        label = path.parent.name
        if index in wrong:
            label = draw.choice([other for other in classes if other != label])
        (target / "train" / label / f"{index:05}{path.suffix}").symlink_to(path.resolve())
    return len(wrong)


if __name__ == "__main__":
    main()
