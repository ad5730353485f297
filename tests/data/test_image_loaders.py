from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import layergroups.data
from layergroups.data import (
    Augmentation,
    ImageDataLoaders,
    labelled_batches,
    transform_from_config,
    unlabelled_batches,
)
from layergroups.errors import BrokenImagesError, DataError
from layergroups.input_spec import InputSpec

# From Python 3.12 on, the start of workers by fork is remarked on.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

Folder = Callable[..., Path]
HALF = InputSpec(mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", source="other weights")


@pytest.fixture
def root(folder: Folder) -> Path:
    return folder(cat=10, dog=15)


@pytest.fixture
def dls(root: Path) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(root, size=(16, 12), batch_size=8)


def test_the_public_names_are_sorted_and_there() -> None:
    names = layergroups.data.__all__
    assert sorted(names, key=lambda name: (not name.isupper(), name)) == names
    assert all(hasattr(layergroups.data, name) for name in names)


def test_a_folder_becomes_batches(dls: ImageDataLoaders) -> None:
    assert dls.vocab == dls.classes == ("cat", "dog")
    assert (dls.c, dls.size, dls.batch_size, dls.seed) == (2, (16, 12), 8, 42)
    assert (len(dls.train), len(dls.valid)) == (3, 1)
    x, y = next(iter(dls.train))
    assert x.shape == (8, 3, 16, 12)
    assert set(y.tolist()) <= {0, 1}
    assert sum(len(y) for _, y in dls.valid) == len(dls.valid_photos) == 5


def test_bs_is_another_name_of_batch_size(root: Path) -> None:
    assert ImageDataLoaders.from_folder(root, bs=5).batch_size == 5


def test_a_batch_larger_than_the_set_is_made_smaller_and_said(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "layergroups"):
        dls = ImageDataLoaders.from_folder(root, size=8)
    assert dls.batch_size == 20
    (record,) = caplog.records
    assert record.getMessage() == "Only 20 training images: batch_size is 20 instead of 64."


def test_one_batch_changes_nothing(dls: ImageDataLoaders) -> None:
    state = torch.get_rng_state()
    x, y = dls.one_batch()
    again, _ = dls.one_batch()
    assert torch.equal(x, again)
    assert dls.train.epoch == 0
    assert torch.equal(torch.get_rng_state(), state)
    first_x, first_y = next(iter(dls.train))
    assert torch.equal(first_x, x)
    assert torch.equal(first_y, y)


def test_views_have_one_order_and_variations_of_their_own(dls: ImageDataLoaders) -> None:
    def view(epoch: int) -> torch.Tensor:
        pairs = list(dls.views(epoch))
        assert tuple(torch.cat([y for _, y in pairs]).tolist()) == dls.train_photos.labels
        return torch.cat([x for x, _ in pairs])

    assert torch.equal(view(1), view(1))
    assert not torch.equal(view(1), view(2))
    assert dls.train.epoch == 0


def test_a_view_varies_each_photo_as_the_epoch_does(dls: ImageDataLoaders) -> None:
    order = [i for batch in dls.train.plan(4) for i, _ in batch]
    dls.train.set_epoch(4)
    shuffled = torch.cat([x for x, _ in dls.train])
    in_order = torch.cat([x for x, _ in dls.views(4)])
    torch.testing.assert_close(in_order[order], shuffled)


def test_train_eval_is_neither_shuffled_nor_varied(dls: ImageDataLoaders) -> None:
    x = torch.cat([x for x, _ in dls.train_eval])
    torch.testing.assert_close(x, torch.stack([dls.load(p) for p in dls.train_eval.paths]))
    assert dls.train_eval.photos == dls.train_photos


@pytest.mark.parametrize(
    "augment", [True, False, Augmentation(flip=0), lambda image: image.rotate(90)]
)
def test_augment_takes_what_it_says(root: Path, augment: Any) -> None:
    dls = ImageDataLoaders.from_folder(root, size=8, batch_size=4, augment=augment)
    assert dls.one_batch()[0].shape == (4, 3, 8, 8)
    varied = torch.cat([x for x, _ in dls.views(0)])
    plain = torch.cat([x for x, _ in dls.train_eval])
    assert torch.equal(varied, plain) == (augment is False)


def test_bind_takes_statistics_and_keeps_the_rest(dls: ImageDataLoaders) -> None:
    dls.train.set_epoch(3)
    bound = dls.bind(HALF)
    assert (dls.input.source, bound.input) == ("ImageNet defaults", HALF)
    assert (bound.size, bound.train.epoch, bound.input_is_default) == (dls.size, 3, True)
    assert bound.train_photos == dls.train_photos
    image = Image.new("RGB", (20, 20), (255, 0, 0))
    torch.testing.assert_close(bound.load(image)[:, 3, 3], torch.tensor([1.0, -1.0, -1.0]))


def test_given_statistics_are_the_users(root: Path) -> None:
    dls = ImageDataLoaders.from_folder(root, normalize=HALF)
    assert not dls.input_is_default
    assert dls.input == HALF


def test_bind_fits_statistics_to_the_channels_of_the_photos(dls: ImageDataLoaders) -> None:
    bound = dls.bind(InputSpec(mean=(0.4,), std=(0.2,), source="grey weights"))
    assert (bound.input.mean, bound.input.std) == ((0.4,) * 3, (0.2,) * 3)
    assert bound.input.source == "grey weights, 1 channels repeated for 3"


def test_photos_to_predict_come_in_order(dls: ImageDataLoaders, root: Path) -> None:
    test = dls.test_dl(root / "dog")
    batches = list(test)
    assert [len(x) for x in batches] == [8, 7]
    assert [p.name for p in test.paths] == [f"{i:03d}.jpg" for i in range(15)]
    torch.testing.assert_close(batches[0][2], dls.load(test.paths[2]))
    one = root / "cat" / "001.jpg"
    assert dls.test_dl([one, one]).paths == (one, one)
    assert len(dls.test_dl(one)) == 1


def test_broken_photos_to_predict_are_raised_or_skipped(root: Path, folder: Folder) -> None:
    new = folder("new", batch=3)
    (new / "batch" / "001.jpg").write_bytes(b"")
    with pytest.raises(BrokenImagesError, match=r"001\.jpg: empty"):
        ImageDataLoaders.from_folder(root, bs=4).test_dl(new)
    skipping = ImageDataLoaders.from_folder(root, bs=4, on_error="skip")
    assert len(skipping.test_dl(new).paths) == 2


def test_the_description_loads_photos_without_the_loaders(
    dls: ImageDataLoaders, root: Path
) -> None:
    bound = dls.bind(HALF)
    transform = transform_from_config(json.loads(json.dumps(bound.transform_config())))
    path = root / "cat" / "003.jpg"
    assert torch.equal(transform(path), bound.load(path))
    assert torch.equal(transform(np.array(Image.open(path))), bound.load(Image.open(path)))


def test_batches_for_an_exported_model(dls: ImageDataLoaders, root: Path) -> None:
    labelled = labelled_batches(root, ("ant", "cat", "dog"), dls.transform, batch_size=20)
    assert torch.cat([y for _, y in labelled]).tolist() == [1] * 10 + [2] * 15
    plain = unlabelled_batches(root, dls.transform, batch_size=20)
    assert torch.equal(torch.cat(list(plain)), torch.cat([x for x, _ in labelled]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"bs": 2.5}, "batch_size=2.5"),
        ({"size": -1}, "size=-1"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"augment": "strong"}, "augment='strong'"),
        ({"crop_pct": 0}, "crop_pct=0"),
        ({"on_error": "ignore"}, '"raise" or "skip"'),
        ({"valid_pct": 20}, "valid_pct=20"),
    ],
)
def test_impossible_arguments_are_refused(
    root: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        ImageDataLoaders.from_folder(root, **options)


def test_it_prints_what_it_holds(dls: ImageDataLoaders) -> None:
    text = str(dls.bind(HALF))
    assert text.splitlines()[0] == (
        "ImageDataLoaders: 20 training and 5 validation images of 2 classes"
    )
    assert "cat 8 + 2, dog 12 + 3" in text
    assert "16 x 12 pixels (height x width), in batches of 8" in text
    assert "mean (0.5, 0.5, 0.5), std (0.5, 0.5, 0.5), bicubic (other weights)" in text


def test_many_classes_are_not_all_printed(folder: Folder) -> None:
    root = folder(**{f"class{i:02d}": 2 for i in range(14)})
    text = str(ImageDataLoaders.from_folder(root, bs=4))
    assert "class09 1 + 1 and 4 more" in text


def test_workers_give_the_same_batches(root: Path) -> None:
    without, with_two = (
        ImageDataLoaders.from_folder(root, size=8, bs=4, num_workers=n) for n in (0, 2)
    )
    for _ in range(2):
        for (x, y), (other_x, other_y) in zip(without.train, with_two.train, strict=True):
            assert torch.equal(x, other_x)
            assert torch.equal(y, other_y)
    for (x, _), (other_x, _) in zip(without.valid, with_two.valid, strict=True):
        assert torch.equal(x, other_x)
