"""Shares of batches: one for each process, together the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from tests.data.feeding import fed, training
from tests.training.tiny import TinyLoaders
from torch.utils.data import DataLoader, DistributedSampler

from layergroups.data import (
    EvalLoader,
    Samples,
)
from layergroups.data import _batches as batches
from layergroups.data._shards import _cut as cut
from layergroups.data._shards import shard_positions, shards_of
from layergroups.errors import TrainingError
from layergroups.training.distributed._processes import Processes

# From Python 3.12 on, the start of workers by fork is remarked on.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.parametrize("n", [1, 2, 3, 7, 8, 64])
@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("least", [1, 2])
def test_shares_cover_a_batch_exactly(n: int, world: int, least: int) -> None:
    parts = [shard_positions(n, rank, world, least) for rank in range(world)]
    counted = [i for mine, own in parts for i in mine[:own]]
    assert sorted(counted) == list(range(n))
    assert all(len(mine) >= min(least, n) for mine, _ in parts)


def test_a_share_cuts_every_tensor_of_the_batch() -> None:
    batch = ({"a": torch.arange(5), "b": [torch.arange(10).view(5, 2)]}, torch.arange(5) * 10)
    share = cut(batch, Processes(1, 2), 1)
    assert share.batch[0]["a"].tolist() == [1, 3]
    assert share.batch[0]["b"][0].tolist() == [[2, 3], [6, 7]]
    assert share.batch[1].tolist() == [10, 30]
    assert (share.n_counted, share.n_items, share.weight) == (2, 5, 0.4)
    assert share.check == cut(batch, Processes(0, 2), 1).check
    assert share.check != cut((batch[0], batch[1] + 1), Processes(0, 2), 1).check


def test_batches_that_are_shared_out_already_are_refused() -> None:
    data = TinyLoaders().train
    sampler = DistributedSampler(data.y, num_replicas=2, rank=0)
    loader = DataLoader(list(zip(data.x, data.y, strict=True)), sampler=sampler)
    with pytest.raises(TrainingError, match=r"DistributedSampler.*the whole data"):
        next(shards_of(loader, Processes(0, 2)))


PICTURE = Image.new("RGB", (20, 16))


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_shares_of_all_processes_are_the_batch(photos: Samples, world: int, workers: int) -> None:
    whole = list(training(photos))
    shares = [list(training(photos, workers).shards(rank, world)) for rank in range(world)]
    for number, (x, y) in enumerate(whole):
        seen = torch.zeros(len(y))
        for share in (own[number] for own in shares):
            assert (share.n_items, share.check) == (len(y), shares[0][number].check)
            counted = list(share.positions)[: share.n_counted]
            assert torch.equal(share.batch[0][: share.n_counted], x[counted])
            assert torch.equal(share.batch[1][: share.n_counted], y[counted])
            seen[counted] += 1
        assert (seen == 1).all()


def test_a_process_opens_its_own_photos_only(photos: Samples, monkeypatch: Any) -> None:
    opened = []
    monkeypatch.setattr(batches, "open_picture", lambda file, **_: opened.append(file) or PICTURE)
    list(EvalLoader(fed(photos, augment=None), 4).shards(1, 2))
    assert opened == [str(photos.files[i]) for i in (1, 3, 5, 7, 9)]


def test_shares_of_photos_without_labels_are_images(photos: Samples) -> None:
    unlabelled = EvalLoader(fed(Samples(photos.files, None), augment=None), 4)
    assert [len(share.batch) for share in unlabelled.shards(0, 2)] == [2, 2, 2]


def test_each_pass_of_shares_is_another_epoch(photos: Samples) -> None:
    batches_ = training(photos)
    first, second = ([s.check for s in batches_.shards(0, 2)] for _ in range(2))
    assert first != second
    assert batches_.epoch == 2
