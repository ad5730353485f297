"""A few photos of noise in two classes."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("photos")
    random = numpy.random.default_rng(0)
    for index, name in enumerate(("blue", "red")):
        (root / name).mkdir()
        for number in range(10):
            pixels = random.integers(0, 120, (40, 40, 3), dtype=numpy.uint8)
            pixels[..., 2 - 2 * index] += 120
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root
