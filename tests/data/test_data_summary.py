from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from layergroups.data import ImageDataLoaders
from layergroups.data.inspect._data_summary import Quartiles

from .conftest import picture
from .test_datasets import Pairs

Folder = Callable[..., Path]


def loaders(root: Path, **options: Any) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(root, size=8, batch_size=4, cache=False, **options)


def test_it_counts_and_measures(folder: Folder, photo: Callable[..., Path]) -> None:
    root = folder(cat=8, dog=4)
    photo("photos/cat/high.png", seed=7, size=(6, 30))
    found = loaders(root, valid_pct=0.25).summary()
    assert (found.train, found.valid, found.task) == (10, 3, "multiclass")
    assert [(t.name, t.train, t.valid) for t in found.targets] == [("cat", 7, 2), ("dog", 3, 1)]
    assert found.width == Quartiles(6, 48, pytest.approx((12 * 48 + 6) / 13), 48)
    assert found.height is not None
    assert (found.height.min, found.height.max) == (30, 40)
    assert (found.landscape, found.portrait, found.square, found.upscaled) == (12, 1, 0, 1)
    assert found.kinds == (("JPEG, RGB", 12), ("PNG, RGB", 1))
    files = [p for p in root.rglob("*") if p.is_file()]
    assert found.total_bytes == sum(p.stat().st_size for p in files)
    assert found.imbalance == pytest.approx(7 / 3)
    assert (found.broken, found.duplicates) == ((), ())


def test_photos_are_measured_upright(folder: Folder) -> None:
    root = folder(cat=2, dog=2)
    turned = picture(9)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(root / "cat" / "turned.jpg", exif=exif)
    found = loaders(root).summary()
    assert (found.landscape, found.portrait) == (4, 1)


def test_it_tells_what_is_broken_and_why(folder: Folder) -> None:
    root = folder(cat=6, dog=6)
    (root / "cat" / "000.jpg").write_bytes(b"")
    dls = loaders(root, on_error="skip")
    dls.train.paths[0].write_bytes(b"no image")
    found = dls.summary()
    assert [image.reason for image in found.broken] == [
        "empty, 0 bytes", "not an image that Pillow can read",
    ]  # fmt: skip
    assert "2 broken images" in str(found)
    assert "000.jpg:empty,0bytes" in "".join(str(found).split())  # a long path is wrapped


def test_it_finds_copies(folder: Folder) -> None:
    root = folder("all")
    train, valid = folder("all/train", cat=4, dog=4), folder("all/valid", cat=2, dog=2)
    for number, kind in enumerate(("cat", "dog")):  # equal numbers are made of equal photos
        for i, file in enumerate((valid / kind).iterdir()):
            picture(5000 + 10 * number + i).save(file)
    shutil.copy(train / "cat" / "001.jpg", valid / "cat" / "again.jpg")
    shutil.copy(train / "dog" / "001.jpg", train / "cat" / "wrong.jpg")
    found = loaders(root).summary()
    kinds = {(len(t.files), t.both_parts, t.labels_differ) for t in found.duplicates}
    assert kinds == {(2, True, False), (2, False, True)}
    assert "2 images are there more than once; copies of 1 are in both parts" in " ".join(
        str(found).split()
    )


def test_it_is_plain_data(folder: Folder) -> None:
    found = loaders(folder(cat=4, dog=4)).summary()
    again = json.loads(json.dumps(found.to_dict()))
    assert again["targets"][0]["name"] == "cat"
    assert again["width"]["max"] == 48
    assert found == loaders(folder("again", cat=4, dog=4)).summary()


def test_labels_numbers_and_datasets(folder: Folder) -> None:
    files = sorted(folder(cat=6, dog=6).glob("*/*.jpg"))
    several = ImageDataLoaders.from_lists(files, [["a"], [], ["a", "b"]] * 4, size=8, bs=4)
    found = several.summary()
    assert [t.train + t.valid for t in found.targets] == [8, 4]
    assert found.unlabelled == 4
    numbers = ImageDataLoaders.from_lists(files, [i / 2 for i in range(12)], size=8, bs=4).summary()
    assert numbers.targets[0].values == Quartiles(0, 2.75, 2.75, 5.5)
    assert numbers.imbalance is None
    items = ImageDataLoaders.from_dataset(Pairs(6), size=8, bs=4).summary()
    assert (items.file_bytes, items.kinds) == (None, (("RGB", 6),))
    for summary in (found, numbers, items):
        assert "validation images" in str(summary)


@pytest.mark.parametrize(("height", "width"), [(9, 7), (4, 3)])
def test_arrays_are_measured(height: int, width: int, tmp_path: Path) -> None:
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.full((5, height, width), i, np.uint16))
    files = sorted(tmp_path.glob("*.npy"))
    dls = ImageDataLoaders.from_lists(files, ["a", "b"] * 2, channels=5, size=4, bs=2)
    found = dls.summary()
    assert found.kinds == (("NumPy, 5 x uint16", 4),)
    assert (found.width, found.height) == (Quartiles(*[width] * 4), Quartiles(*[height] * 4))


def test_many_classes_are_not_all_printed(folder: Folder) -> None:
    text = str(loaders(folder(**{f"class{i:02d}": 2 for i in range(33)})).summary())
    assert "class29" in text
    assert "class30" not in text
    assert "and 3 more, from 1 training images" in text
