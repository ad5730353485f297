"""Images of every format with changed bytes: found and named, or read; never a crash or a hang."""

from __future__ import annotations

import io
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from tests.attack.conftest import mutations

from layergroups import ImageDataLoaders, vision_learner
from layergroups.errors import DataError

FORMATS: dict[str, dict[str, Any]] = {
    "jpg": {"format": "JPEG", "quality": 90}, "png": {"format": "PNG"}, "gif": {"format": "GIF"},
    "bmp": {"format": "BMP"}, "tif": {"format": "TIFF"}, "ppm": {"format": "PPM"},
    "webp": {"format": "WEBP"},
}  # fmt: skip
if features.check("avif"):
    FORMATS["avif"] = {"format": "AVIF"}


def picture(rng: random.Random, side: int = 24) -> Image.Image:
    noise = np.frombuffer(rng.randbytes(side * side * 3), np.uint8)
    return Image.fromarray(noise.reshape(side, side, 3))


def encoded(rng: random.Random, ending: str) -> bytes:
    file = io.BytesIO()
    picture(rng).save(file, **FORMATS[ending])
    return file.getvalue()


def good_photos(folder: Path, rng: random.Random) -> Path:
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for i in range(6):
            picture(rng).save(folder / label / f"good{i}.png")
    return folder


@pytest.mark.parametrize("ending", FORMATS)
def test_changed_images_are_skipped_or_read(
    ending: str, rng: random.Random, times: int, tmp_path: Path
) -> None:
    folder = good_photos(tmp_path / "photos", rng)
    data = encoded(rng, ending)
    for i, changed in enumerate(mutations(rng, data, 30 * times)):
        (folder / rng.choice(("cat", "dog")) / f"{i}.{ending}").write_bytes(changed)
    options = {"size": 16, "batch_size": 8, "num_workers": 0, "augment": False}
    for channels in (3, 1):
        data_of = ImageDataLoaders.from_folder(
            folder, on_error="skip", channels=channels, seed=0, **options
        )
        read = sum(len(y) for batches in (data_of.train, data_of.valid) for _, y in batches)
        assert read >= 10


@pytest.mark.parametrize("ending", FORMATS)
def test_changed_images_are_predicted_or_named(
    ending: str, rng: random.Random, times: int, tmp_path: Path
) -> None:
    folder = good_photos(tmp_path / "photos", rng)
    loaders = ImageDataLoaders.from_folder(folder, size=16, batch_size=4, num_workers=0)
    learn = vision_learner(loaders, "timm:test_resnet", pretrained=False, progress=False)
    file = tmp_path / f"one.{ending}"
    for changed in mutations(rng, encoded(rng, ending), 15 * times):
        file.write_bytes(changed)
        with suppress(DataError):
            assert learn.predict(file).probabilities.isfinite().all()


def test_arrays_of_any_form_are_predicted_or_refused(
    rng: random.Random, times: int, tmp_path: Path
) -> None:
    folder = good_photos(tmp_path / "photos", rng)
    loaders = ImageDataLoaders.from_folder(folder, size=16, batch_size=4, num_workers=0)
    learn = vision_learner(loaders, "timm:test_resnet", pretrained=False, progress=False)
    kinds = ("uint8", "int16", "int64", "float16", "float32", "float64", "bool", "complex64", "U3")
    for _ in range(60 * times):
        shape = [rng.choice((0, 1, 2, 3, 4, 17)) for _ in range(rng.randrange(5))]
        values = np.array([rng.choice((0, 1, -1, 255, 1e30, float("nan"))) for _ in range(3)])
        with np.errstate(all="ignore"):
            array = np.resize(values.real, shape).astype(rng.choice(kinds))
        with suppress(DataError):
            assert learn.predict(array).probabilities.isfinite().all()
