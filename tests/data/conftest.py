"""Tiny photos, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layergroups.data import (
    Samples,
)

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


N = 11


@pytest.fixture
def photos(photo: Callable[..., Path]) -> Samples:
    files = tuple(str(photo(f"{i}.jpg", seed=i, size=(20, 16))) for i in range(N))
    return Samples(files, tuple(i % 3 for i in range(N)))


Folder = Callable[..., Path]


@pytest.fixture
def root(folder: Folder) -> Path:
    return folder(cat=10, dog=15)


def bands(n: int, kind: Any = np.uint8, seed: int = 0) -> np.ndarray[Any, Any]:
    """Smooth bands (12, 10, n) that differ from each other."""
    across = np.linspace(0, 200, 10)[None, :, None] + np.linspace(0, 50, 12)[:, None, None]
    return (across / (1 + np.arange(n)) + seed % 5).astype(kind)


@pytest.fixture
def multispectral(tmp_path: Path) -> list[Path]:
    (tmp_path / "bands").mkdir()
    for i in range(12):
        np.save(tmp_path / "bands" / f"{i}.npy", bands(5, np.uint16, i) * 100)
    return sorted((tmp_path / "bands").glob("*.npy"))
