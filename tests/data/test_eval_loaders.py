"""Batches of photos that are not trained on, in their order."""

from __future__ import annotations

import pytest
import torch
from tests.data.feeding import PLAIN, fed, together

from layergroups.data import (
    EvalLoader,
    Samples,
)

# From Python 3.12 on, the start of workers by fork is remarked on.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def test_photos_without_variation_are_in_their_order(photos: Samples) -> None:
    batches = EvalLoader(fed(photos), 4)
    x, y = together(batches)
    assert tuple(y.tolist()) == photos.labels
    torch.testing.assert_close(x, torch.stack([PLAIN(path) for path in photos.paths]))
    assert [len(y) for _, y in batches] == [4, 4, 3]
    assert len(batches) == 3
    assert batches.paths == photos.paths


def test_photos_without_labels_give_images_alone(photos: Samples) -> None:
    batches = list(EvalLoader(fed(Samples(photos.files)), 6))
    assert [x.shape for x in batches] == [(6, 3, 12, 12), (5, 3, 12, 12)]
