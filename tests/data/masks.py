"""Small images of coloured shapes with masks, for the tests of segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

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
