from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from layergroups.data import ImageDataLoaders
from layergroups.errors import BrokenImagesError, DataError

Folder = Callable[..., Path]


@pytest.fixture
def root(folder: Folder) -> Path:
    return folder(cat=13, dog=7)


def loaders(root: Path, **options: Any) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(root, size=8, batch_size=4, cache=False, **options)


def test_each_photo_is_for_validation_once(root: Path) -> None:
    dls = loaders(root)
    folds = list(dls.folds(5))
    assert len(folds) == 5
    valid = [file for fold in folds for file in fold.valid_photos.files]
    assert sorted(valid) == sorted(dls.train_photos.files + dls.valid_photos.files)
    for fold in folds:
        assert set(fold.train_photos.files).isdisjoint(fold.valid_photos.files)
        assert len(fold.train_photos) == 16
        counted = Counter(fold.valid_photos.classes())
        assert counted[0] in (2, 3)
        assert counted[1] in (1, 2)
        assert fold.one_batch()[0].shape == (4, 3, 8, 8)


def test_folds_depend_on_the_seed_alone(root: Path) -> None:
    def valid(dls: ImageDataLoaders, **options: Any) -> list[Any]:
        return [fold.valid_photos for fold in dls.folds(3, **options)]

    assert valid(loaders(root)) == valid(loaders(root, valid_pct=0.5))
    assert valid(loaders(root)) == valid(loaders(root, seed=1), seed=42)
    assert valid(loaders(root)) != valid(loaders(root), seed=1)


def test_numbers_and_labels_are_folded_too(root: Path) -> None:
    files = sorted(root.glob("*/*.jpg"))
    dls = ImageDataLoaders.from_lists(files, [i / 3 for i in range(20)], size=8, bs=4)
    assert [len(fold.valid_photos) for fold in dls.folds(3)] == [7, 7, 6]


@pytest.mark.parametrize("n", [1, 21, 2.5, "5", True])
def test_impossible_numbers_of_folds_are_refused(root: Path, n: Any) -> None:
    with pytest.raises(DataError, match=r"expected a whole number from 2 to .*20"):
        loaders(root).folds(n)


def test_batches_of_other_photos_with_labels(root: Path, folder: Folder) -> None:
    dls = loaders(root)
    new = folder("new", dog=2, cat=1)
    test = dls.test_dl(new, with_labels=True)
    assert torch.cat([y for _, y in test]).tolist() == [0, 1, 1]
    files = [new / "dog" / "000.jpg", new / "cat" / "000.jpg"]
    ((x, y),) = dls.test_dl(files, ["dog", "cat"])
    assert y.tolist() == [1, 0]
    (plain,) = dls.test_dl(files)
    assert torch.equal(plain, x)
    several = ImageDataLoaders.from_lists(
        sorted(root.glob("*/*.jpg")), [["a"], ["b", "a"]] * 10, size=8, bs=4
    )
    ((_, y),) = several.test_dl(files, [["b"], []])
    assert y.tolist() == [[0, 1], [0, 0]]


def test_broken_photos_and_their_labels_are_skipped_together(root: Path, folder: Folder) -> None:
    new = folder("new", dog=3)
    (new / "dog" / "001.jpg").write_bytes(b"")
    files, labels = sorted(new.glob("*/*.jpg")), ["dog", "cat", "cat"]
    with pytest.raises(BrokenImagesError, match="empty"):
        loaders(root).test_dl(files, labels)
    ((_, y),) = loaders(root, on_error="skip").test_dl(files, labels)
    assert y.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda dls, f: dls.test_dl(f, ["cat"]), "2 images, but 1 labels"),
        (lambda dls, f: dls.test_dl(f, ["cat", "cow"]), "lacks 'cow'"),
        (lambda dls, f: dls.test_dl(f, with_labels=True), "a label for each"),
        (lambda dls, f: dls.test_dl(3), "neither a path nor a list"),
    ],
)
def test_mistakes_are_explained(give: Any, message: str, root: Path) -> None:
    files = sorted(root.glob("cat/*.jpg"))[:2]
    with pytest.raises(DataError, match=message):
        give(loaders(root), files)
