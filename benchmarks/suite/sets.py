"""The data sets: files and targets of a folder, the score of predictions, and shifted images."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Kind = Literal["classes", "tags", "number"]
Values = NDArray[Any]


@dataclass(frozen=True)
class Part:
    """Files with their targets: int64 (N,) of classes, else float32 (N, outputs)."""

    files: list[Path]
    targets: Values


@dataclass(frozen=True)
class ImageSet:
    """One class, several tags or a number for each image."""

    folder: Path
    kind: Kind
    vocab: list[str]
    train: Part
    valid: Part

    @property
    def numbers(self) -> tuple[float, float]:
        """Mean and deviation of the training targets, where they are numbers, else 0 and 1."""
        if self.kind != "number":
            return 0.0, 1.0
        return float(self.train.targets.mean()), float(self.train.targets.std())

    def score(self, predicted: Values) -> tuple[float, float]:
        """Of the validation images: (accuracy, cross-entropy), (mAP, same) or (R2, MAE)."""
        truth = self.valid.targets
        if self.kind == "number":
            error = predicted - truth
            return float(1 - (error**2).sum() / ((truth - truth.mean()) ** 2).sum()), float(
                np.abs(error).mean()
            )
        likely = np.clip(predicted.astype(np.float64), 1e-7, 1 - 1e-7)
        if self.kind == "tags":
            logs = truth * np.log(likely) + (1 - truth) * np.log(1 - likely)
            return mean_average_precision(predicted, truth), float(-logs.mean())
        loss = -np.log(likely[np.arange(len(truth)), truth]).mean()
        return float((predicted.argmax(1) == truth).mean()), float(loss)


def mean_average_precision(scores: Values, truth: Values) -> float:
    """The mean over all tags that occur."""
    found = []
    for score, true in zip(scores.T, truth.T, strict=True):
        hits = true[np.argsort(-score, kind="stable")]
        if hits.sum():
            precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
            found.append((precision * hits).sum() / hits.sum())
    return float(np.mean(found))


def read_set(folder: Path) -> ImageSet:
    """Of `{train,valid}/CLASS/*`, or of `images/` and labels.csv with file, label and split."""
    if (folder / "labels.csv").is_file():
        return _read_table(folder)
    vocab = sorted(path.name for path in (folder / "train").iterdir())
    parts = []
    for name in ("train", "valid"):
        found = [(p, i) for i, c in enumerate(vocab) for p in sorted((folder / name / c).iterdir())]
        parts.append(Part([path for path, _ in found], np.array([i for _, i in found])))
    return ImageSet(folder, "classes", vocab, *parts)


def _read_table(folder: Path) -> ImageSet:
    with (folder / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    number = all(row["label"].replace(".", "", 1).isdigit() for row in rows)
    tags = sorted({tag for row in rows for tag in row["label"].split()})
    parts = []
    for name in ("train", "valid"):
        own = [row for row in rows if row["split"] == name]
        if number:
            values = [[float(row["label"])] for row in own]
        else:
            values = [[float(tag in row["label"].split()) for tag in tags] for row in own]
        files = [folder / "images" / row["file"] for row in own]
        parts.append(Part(files, np.array(values, dtype=np.float32)))
    return ImageSet(folder, "number" if number else "tags", ["number"] if number else tags, *parts)


def _noisy(image: Image.Image) -> Image.Image:
    random = np.random.default_rng(image.width * image.height)
    values = np.asarray(image) + random.normal(0, 30, (image.height, image.width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


SHIFTS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "grey": lambda image: image.convert("L").convert("RGB"),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(max(image.size) / 80)),
    "noisy": _noisy,
}


def write_shifted(files: list[Path], shift: str, folder: Path) -> list[Path]:
    """Write a changed copy of each image, without loss."""
    folder.mkdir()
    copies = [folder / f"{index:05}.png" for index in range(len(files))]
    for file, copy in zip(files, copies, strict=True):
        SHIFTS[shift](Image.open(file).convert("RGB")).save(copy, compress_level=1)
    return copies
