from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layergroups.data import ImageDataLoaders, Samples
from layergroups.errors import BrokenImagesError, DataError
from layergroups.tasks import stratified_split

LABELS = st.lists(st.integers(0, 5), max_size=120)
SHARES = st.floats(0.01, 0.99)
SEEDS = st.integers(0, 2**32)


@given(labels=LABELS, share=SHARES, seed=SEEDS)
def test_the_split_covers_all_photos_once(labels: list[int], share: float, seed: int) -> None:
    train, valid = stratified_split(labels, share, seed)
    assert sorted([*train, *valid]) == list(range(len(labels)))
    assert list(train) == sorted(train)
    assert list(valid) == sorted(valid)


@given(labels=LABELS, share=SHARES, seed=SEEDS)
def test_each_class_keeps_its_share_in_both_parts(
    labels: list[int], share: float, seed: int
) -> None:
    train, valid = stratified_split(labels, share, seed)
    in_train, in_valid = (Counter(labels[i] for i in part) for part in (train, valid))
    for label, n in Counter(labels).items():
        if n == 1:
            assert (in_train[label], in_valid[label]) == (1, 0)
            continue
        assert in_train[label] >= 1
        assert in_valid[label] >= 1
        assert abs(in_valid[label] - n * share) <= 1


@given(labels=LABELS, share=SHARES, seed=SEEDS)
def test_the_split_depends_on_the_seed_only(labels: list[int], share: float, seed: int) -> None:
    assert stratified_split(labels, share, seed) == stratified_split(labels, share, seed)


def test_another_seed_gives_another_split() -> None:
    labels = [0] * 50 + [1] * 50
    assert stratified_split(labels, 0.2, 1) != stratified_split(labels, 0.2, 2)


def test_photos_of_another_class_change_nothing() -> None:
    _, small = stratified_split([0] * 10 + [1] * 10, 0.3, 7)
    _, large = stratified_split([0] * 10 + [1] * 30, 0.3, 7)
    assert [i for i in small if i < 10] == [i for i in large if i < 10]


def test_photos_can_be_taken_and_counted() -> None:
    photos = Samples(("a.jpg", "b.jpg", "c.jpg"), (0, 1, 1))
    assert photos.take([2, 0]) == Samples(("c.jpg", "a.jpg"), (1, 0))
    assert photos.counts(3) == (1, 2, 0)
    assert photos.paths[1] == Path("b.jpg")
    assert Samples(("a.jpg",)).take([0]).labels is None


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
    valid = [file for fold in folds for file in fold.valid_images.files]
    assert sorted(valid) == sorted(dls.train_images.files + dls.valid_images.files)
    for fold in folds:
        assert set(fold.train_images.files).isdisjoint(fold.valid_images.files)
        assert len(fold.train_images) == 16
        counted = Counter(fold.valid_images.classes())
        assert counted[0] in (2, 3)
        assert counted[1] in (1, 2)
        assert fold.one_batch()[0].shape == (4, 3, 8, 8)


def test_folds_depend_on_the_seed_alone(root: Path) -> None:
    def valid(dls: ImageDataLoaders, **options: Any) -> list[Any]:
        return [fold.valid_images for fold in dls.folds(3, **options)]

    assert valid(loaders(root)) == valid(loaders(root, valid_pct=0.5))
    assert valid(loaders(root)) == valid(loaders(root, seed=1), seed=42)
    assert valid(loaders(root)) != valid(loaders(root), seed=1)


def test_numbers_and_labels_are_folded_too(root: Path) -> None:
    files = sorted(root.glob("*/*.jpg"))
    dls = ImageDataLoaders.from_lists(files, [i / 3 for i in range(20)], size=8, bs=4)
    assert [len(fold.valid_images) for fold in dls.folds(3)] == [7, 7, 6]


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
