"""Map-style datasets become the same loaders as files do."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Subset, TensorDataset

from layergroups.data import ImageDataLoaders
from layergroups.errors import BrokenImagesError, DataError

from .conftest import picture

# From Python 3.12 on, the start of workers by fork is remarked on.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SMALL: dict[str, Any] = {"size": 8, "batch_size": 4}


class Pairs:
    """As the datasets of torchvision: (image, class), and the names of the classes."""

    def __init__(self, n: int = 12, classes: Any = ("ant", "bee", "cow")) -> None:
        self.n = n
        self.classes = classes

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> Any:
        return picture(i), i % 2


class Dicts(Pairs):
    """As a dataset of Hugging Face."""

    def __init__(self, n: int = 12, multi: bool = False) -> None:
        super().__init__(n, None)
        names = SimpleNamespace(names=["ant", "bee", "cow"])
        self.features = {"image": None, "label": SimpleNamespace(feature=names) if multi else names}
        self.multi = multi

    def __getitem__(self, i: int) -> Any:
        return {"id": i, "image": picture(i), "label": [0, 2][: i % 3] if self.multi else i % 2}


class Drawing(Pairs):
    """Varies its images by the global random generators."""

    def __getitem__(self, i: int) -> Any:
        return picture(i).rotate(random.random() * 90 + float(torch.rand(()))), i % 2


def together(batches: Any) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = list(batches)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


@pytest.mark.parametrize("dataset", [Pairs(), Dicts(), Subset(Pairs(20), range(12))])
def test_a_dataset_becomes_batches(dataset: Any) -> None:
    dls = ImageDataLoaders.from_dataset(dataset, size=32, bs=4)
    assert (dls.task, dls.vocab) == ("multiclass", ("ant", "bee", "cow"))
    assert (len(dls.train_images), len(dls.valid_images)) == (10, 2)
    assert next(iter(dls.train))[0].shape == (4, 3, 32, 32)
    x, y = together(dls.train_eval)
    for name, image, label in zip(dls.train_images.files, x, y.tolist(), strict=True):
        number = int(name.removeprefix("train[").removesuffix("]"))
        assert label == number % 2
        assert torch.equal(image, dls.load(picture(number)))


def test_a_dataset_for_validation() -> None:
    dls = ImageDataLoaders.from_dataset(Pairs(8), Pairs(5), **SMALL)
    assert [str(path) for path in dls.valid.paths] == [f"valid[{i}]" for i in range(5)]
    assert len(dls.train_images) == 8


def test_several_labels_and_numbers() -> None:
    dls = ImageDataLoaders.from_dataset(Dicts(multi=True), **SMALL)
    assert (dls.task, dls.vocab) == ("multilabel", ("ant", "bee", "cow"))
    rows = {(0, 0, 0), (1, 0, 0), (1, 0, 1)}
    assert {tuple(map(int, row)) for row in together(dls.train_eval)[1].tolist()} == rows
    images = torch.randint(0, 256, (12, 3, 9, 9), dtype=torch.uint8)
    dls = ImageDataLoaders.from_dataset(TensorDataset(images, torch.rand(12, 2)), **SMALL)
    assert (dls.task, dls.c) == ("regression", 2)
    flags = TensorDataset(images, torch.randint(0, 2, (12, 3)))
    assert ImageDataLoaders.from_dataset(flags, vocab=["a", "b", "c"], **SMALL).task == "multilabel"


@pytest.mark.parametrize("augment", [True, False])
def test_what_a_dataset_draws_follows_the_seeds(augment: bool) -> None:
    state = torch.get_rng_state()
    passes = []
    for workers in (0, 2):
        random.seed(workers)
        dls = ImageDataLoaders.from_dataset(
            Drawing(), num_workers=workers, augment=augment, **SMALL
        )
        passes.append([together(dls.train)[0], together(dls.valid)[0], together(dls.valid)[0]])
    assert all(map(torch.equal, *passes))
    assert torch.equal(passes[0][1], passes[0][2])
    assert torch.equal(torch.get_rng_state(), state)


def test_views_of_items_are_those_of_the_epochs() -> None:
    dls = ImageDataLoaders.from_dataset(Drawing(), **SMALL)
    order = [i for batch in dls.train.positions(2) for i in batch]
    dls.train.set_epoch(2)
    assert torch.equal(together(dls.views(2))[0][order], together(dls.train)[0])


class Broken(Pairs):
    def __getitem__(self, i: int) -> Any:
        if i == 0:
            raise OSError("the disk is gone")
        return (None if i == 7 else picture(i)), i % 2


def test_broken_items_are_all_listed_or_skipped() -> None:
    expected = r"(?s)2 images.*train\[0\]: the disk is gone.*train\[7\]: NoneType is not an image"
    with pytest.raises(BrokenImagesError, match=expected):
        ImageDataLoaders.from_dataset(Broken(), **SMALL)
    dls = ImageDataLoaders.from_dataset(Broken(), on_error="skip", **SMALL)
    assert len(dls.train_images) + len(dls.valid_images) == 10
    assert [str(image.path) for image in dls.broken] == ["train[0]", "train[7]"]
    assert len(together(dls.train)[1]) == len(dls.train_images)


class Unlabelled(Pairs):
    def __getitem__(self, i: int) -> Any:
        return picture(i), None if i == 3 else i % 2


def test_items_without_a_label_are_left_out_if_asked() -> None:
    with pytest.raises(DataError, match=r"train\[3\]"):
        ImageDataLoaders.from_dataset(Unlabelled(), **SMALL)
    dls = ImageDataLoaders.from_dataset(Unlabelled(), on_error="skip", **SMALL)
    assert [str(image.path) for image in dls.broken] == ["train[3]"]
    assert len(dls.train_images) + len(dls.valid_images) == 11


def test_images_may_be_paths_bytes_arrays_and_grey(photo: Callable[..., Path]) -> None:
    path = photo("a.png")
    buffer = io.BytesIO()
    picture(0).save(buffer, "PNG")
    array = np.array(picture(0))
    images: list[Any] = [path, str(path), array, torch.tensor(array).permute(2, 0, 1),
                         {"bytes": buffer.getvalue(), "path": None}, picture(0)]  # fmt: skip

    class Mixed(Pairs):
        def __getitem__(self, i: int) -> Any:
            return images[i], i % 2

    dls = ImageDataLoaders.from_dataset(Mixed(6), augment=False, size=32, batch_size=6)
    x = torch.cat([together(dls.train)[0], together(dls.valid)[0]])
    assert torch.equal(x, x[:1].expand_as(x))
    grey = ImageDataLoaders.from_dataset(Mixed(6), channels=1, **SMALL)
    assert grey.one_batch()[0].shape == (4, 1, 8, 8)


def test_another_dataset_is_predicted_or_measured() -> None:
    dls = ImageDataLoaders.from_dataset(Dicts(), **SMALL)
    images = list(dls.test_dl(Dicts(5)))
    assert [len(x) for x in images] == [4, 1]
    x, y = together(dls.test_dl(Dicts(5), with_labels=True))
    assert torch.equal(x, torch.cat(images))
    assert y.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ImageDataLoaders.from_dataset(iter([])), "is not a map-style dataset"),
        (lambda: ImageDataLoaders.from_dataset(Pairs(0)), "the dataset is empty"),
        (lambda: ImageDataLoaders.from_dataset(Dicts(), image="x"), "image='x': the items have"),
        (lambda: ImageDataLoaders.from_dataset(Subset([3, 4], [0, 1])), "is a int; expected"),
        (lambda: ImageDataLoaders.from_dataset(Subset([{"a": 1}], [0])), "Which of 'a' is the im"),
        (lambda: ImageDataLoaders.from_dataset(Subset([{"img": 1}], [0])), "has no label"),
        (lambda: ImageDataLoaders.from_dataset(Pairs(), vocab=["ant"]), "no class for"),
    ],
)
def test_mistakes_are_explained(make: Callable[[], object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


class AllBroken(Pairs):
    def __getitem__(self, i: int) -> Any:
        raise OSError("the disk is gone")


def test_a_dataset_that_cannot_be_read_tells_its_own_error() -> None:
    with pytest.raises(DataError, match="OSError: the disk is gone") as caught:
        ImageDataLoaders.from_dataset(AllBroken())
    assert isinstance(caught.value.__cause__, OSError)


def test_equal_names_of_classes_are_told_apart() -> None:
    dls = ImageDataLoaders.from_dataset(Pairs(classes=(("crane", "bird"), "crane", "crane")))
    assert dls.vocab == ("crane, bird", "crane (1)", "crane (2)")
