from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

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


def test_arrays_are_measured(tmp_path: Path) -> None:
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.full((5, 9, 7), i, np.uint16))
    files = sorted(tmp_path.glob("*.npy"))
    dls = ImageDataLoaders.from_lists(files, ["a", "b"] * 2, channels=5, size=4, bs=2)
    found = dls.summary()
    assert found.kinds == (("NumPy, 5 x uint16", 4),)
    assert (found.width, found.height) == (Quartiles(7, 7, 7, 7), Quartiles(9, 9, 9, 9))


def test_many_classes_are_not_all_printed(folder: Folder) -> None:
    text = str(loaders(folder(**{f"class{i:02d}": 2 for i in range(33)})).summary())
    assert "class29" in text
    assert "class30" not in text
    assert "and 3 more, from 1 training images" in text


def test_a_batch_is_drawn(folder: Folder, tmp_path: Path) -> None:
    dls = loaders(folder(cat=6, dog=6))
    before = dls.train.epoch
    shown = dls.show_batch(tmp_path / "new" / "batch.png", n=5)
    x, y = dls.one_batch()
    assert shown.labels[:4] == tuple(dls.vocab[label] for label in y)
    assert len(shown.figure.axes) == 5
    spec = dls.input
    for i, axes in enumerate(shown.figure.axes[:4]):
        drawn = axes.images[0].get_array()
        normal = (np.asarray(drawn) - spec.mean) / spec.std
        np.testing.assert_allclose(normal, x[i].permute(1, 2, 0), atol=1e-4)
    with Image.open(tmp_path / "new" / "batch.png") as image:
        assert min(image.size) > 200
    assert dls.train.epoch == before
    assert shown._repr_png_()[:4] == b"\x89PNG"


def test_a_batch_of_validation_photos_or_of_one_photo(folder: Folder) -> None:
    dls = loaders(folder(cat=6, dog=6))
    assert len(dls.show_batch(n=50, valid=True).labels) == len(dls.valid_photos)
    one = dls.show_batch(n=4, unique=True)
    assert len(set(one.labels)) == 1
    arrays = [axes.images[0].get_array() for axes in one.figure.axes]
    assert len(arrays) == 4
    assert not any(np.array_equal(arrays[0], other) for other in arrays[1:])


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([["a", "$x^2"], []] * 6, {"$x^2, a", "(no label)"}),
        ([[0.5, 2.0], [1.25, -3.0]] * 6, {"value 0 0.5, value 1 2", "value 0 1.25, value 1 -3"}),
        ([[str(i) for i in range(6)], ["0"]] * 6, {"0, 1, 2, 3 +2", "0"}),
    ],
)
def test_labels_stand_above_photos_in_words(folder: Folder, labels: Any, expected: Any) -> None:
    files = sorted(folder(cat=6, dog=6).glob("*/*.jpg"))
    dls = ImageDataLoaders.from_lists(files, labels, size=8, bs=4, valid_pct=0.1)
    assert set(dls.show_batch(n=11).labels) == expected


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_any_channels_are_drawn(tmp_path: Path, channels: int) -> None:
    for i in range(4):
        np.save(tmp_path / f"{i}.npy", np.random.default_rng(i).random((9, 9, channels)))
    files = sorted(tmp_path.glob("*.npy"))
    dls = ImageDataLoaders.from_lists(files, ["a", "b"] * 2, channels=channels, size=8, bs=2)
    drawn = dls.show_batch(n=2).figure.axes[0].images[0].get_array()
    assert drawn.shape == ((8, 8, 3) if channels == 5 else (8, 8))
