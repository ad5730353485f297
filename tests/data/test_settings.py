"""Arguments that all ways to make loaders have in common."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from layergroups.data import (
    Augmentation,
    ImageDataLoaders,
)
from layergroups.errors import DataError

# From Python 3.12 on, the start of workers by fork is remarked on.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def dls(root: Path) -> ImageDataLoaders:
    return ImageDataLoaders.from_folder(root, size=(16, 12), batch_size=8)


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


@pytest.mark.parametrize(
    "augment", [True, False, Augmentation(flip=0), lambda image: image.rotate(90)]
)
def test_augment_takes_what_it_says(root: Path, augment: Any) -> None:
    dls = ImageDataLoaders.from_folder(root, size=8, batch_size=4, augment=augment)
    assert dls.one_batch()[0].shape == (4, 3, 8, 8)
    varied = torch.cat([x for x, _ in dls.views(0)])
    plain = torch.cat([x for x, _ in dls.train_eval])
    assert torch.equal(varied, plain) == (augment is False)


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
