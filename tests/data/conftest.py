"""Tiny photos, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PhotoMaker = Callable[..., Path]
FolderMaker = Callable[..., Path]


def picture(seed: int = 0, size: tuple[int, int] = (48, 40)) -> Image.Image:
    """A smooth coloured picture of a width and height that depends on the seed."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return small.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photo(tmp_path: Path) -> PhotoMaker:
    """Writes a photo to a path below tmp_path, and gives the path."""

    def make(name: str, seed: int = 0, size: tuple[int, int] = (48, 40)) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(seed, size).save(path)
        return path

    return make


@pytest.fixture
def folder(tmp_path: Path, photo: PhotoMaker) -> FolderMaker:
    """Writes photos of classes to tmp_path / name: folder(cat=3, dog=4) gives its path."""

    def make(name: str = "photos", /, **counts: int) -> Path:
        (tmp_path / name).mkdir(exist_ok=True)
        for label, (kind, count) in enumerate(counts.items()):
            (tmp_path / name / kind).mkdir()
            for i in range(count):
                photo(f"{name}/{kind}/{i:03d}.jpg", seed=1000 * label + i)
        return tmp_path / name

    return make
