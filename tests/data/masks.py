"""Small images of coloured shapes with masks, for the tests of segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from layergroups.data import SegmentationDataLoaders

SMALL: dict[str, Any] = {"size": (24, 32), "batch_size": 4, "num_workers": 0, "cache": False}
NAMES = ("background", "square", "disc")
_COLOURS = ((40, 40, 40), (200, 60, 40), (50, 90, 220))


def shapes(
    root: Path, n: int = 12, *, size: tuple[int, int] = (48, 64), values: Sequence[int] = (0, 1, 2)
) -> tuple[Path, Path]:
    """Folders `images` and `masks`: a square and a disc in each image, at places of its own."""
    random = np.random.default_rng(0)
    height, width = size
    rows, columns = np.mgrid[:height, :width]
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for number in range(n):
        mask = np.zeros(size, np.uint8)
        top, left = random.integers(2, height // 2), random.integers(2, width // 3)
        mask[top : top + height // 3, left : left + height // 3] = 1
        y, x = random.integers(height // 3, height - 8), random.integers(width // 2, width - 8)
        mask[(rows - y) ** 2 + (columns - x) ** 2 < (height // 6) ** 2] = 2
        pixels = np.array(_COLOURS)[mask] + random.integers(-20, 20, (*size, 3))
        name = f"{number:02d}"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"images/{name}.jpg")
        Image.fromarray(np.array(values, np.uint8)[mask]).save(root / f"masks/{name}.png")
    return root / "images", root / "masks"


LABELS = ("square", "disc")


def layers(root: Path, n: int = 12, *, form: str = "tif") -> tuple[Path, Path]:
    """As `shapes`, but square and disc are labels that may overlap.

    Args:
        root: where the folders are written.
        n: images.
        form: "folders", a folder of masks for each label; else the ending of files with a layer for
            each: "tif", "png" or "npy".
    """
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :64]
    (root / "images").mkdir(parents=True, exist_ok=True)
    for number in range(n):
        top, left = random.integers(2, 20), random.integers(2, 30)
        y, x = top + random.integers(6, 20), left + random.integers(6, 20)
        square = (rows >= top) & (rows < top + 20) & (columns >= left) & (columns < left + 20)
        masks = np.stack([square, (rows - y) ** 2 + (columns - x) ** 2 < 100])
        pixels = 40 + 160 * np.stack([masks[0], np.zeros_like(square), masks[1]], -1)
        pixels = pixels + random.integers(-20, 20, pixels.shape)
        name = f"{number:02d}"
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(root / f"images/{name}.jpg")
        _save_layers(root / "masks", name, 255 * masks.astype(np.uint8), form)
    return root / "images", root / "masks"


def _save_layers(folder: Path, name: str, masks: np.ndarray, form: str) -> None:
    pages = [Image.fromarray(mask) for mask in masks]
    for label in LABELS if form == "folders" else (".",):
        (folder / label).mkdir(parents=True, exist_ok=True)
    if form == "folders":
        for label, page in zip(LABELS, pages, strict=True):
            page.save(folder / label / f"{name}.png")
    elif form == "tif":
        pages[0].save(folder / f"{name}.tif", save_all=True, append_images=pages[1:])
    elif form == "png":
        Image.merge("LA", pages).save(folder / f"{name}.png")
    else:
        np.save(folder / f"{name}.npy", masks.transpose(1, 2, 0) // 255)


def loaders(folders: tuple[Path, Path], **options: Any) -> SegmentationDataLoaders:
    """Of the folders of `shapes`."""
    return SegmentationDataLoaders.from_folders(*folders, **{"classes": NAMES, **SMALL, **options})


def overlapping(folders: tuple[Path, Path], **options: Any) -> SegmentationDataLoaders:
    """Of the folders of `layers`."""
    options = {"classes": LABELS, "overlapping": True, **SMALL, **options}
    return SegmentationDataLoaders.from_folders(*folders, **options)
