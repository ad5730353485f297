"""Batches of texts: bounded, of similar length, the same for the same seed, seekable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.texts import model_folder, reviews

from layergroups.data import TextDataLoaders


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def data(folder: Path, n: int = 101, **options: Any) -> TextDataLoaders:
    return TextDataLoaders.from_lists(*reviews(n), model=folder, **options)


def content(batches: Any) -> list[tuple[Any, Any]]:
    return [({name: v.tolist() for name, v in x.items()}, y.tolist()) for x, y in batches]


@pytest.mark.parametrize("options", [{}, {"batch_size": 3}, {"max_tokens": 40}, {"balance": True}])
def test_every_epoch_has_as_many_batches_within_the_limits(
    folder: Path, options: dict[str, Any]
) -> None:
    dls = data(folder, **options)
    n = len(dls.train_texts)
    for epoch in range(3):
        positions = dls.train.positions(epoch)
        batches = list(dls.train)
        assert len(batches) == len(dls.train) == len(positions)
        for inputs, targets in batches:
            assert len(targets) <= dls.batch_size
            tokens = inputs["input_ids"]
            assert tokens.numel() <= max(dls.max_tokens, 2 * tokens.shape[1])
        used = sorted(i for batch in positions for i in batch)
        assert len(used) == n
        assert "balance" in options or used == list(range(n))


def test_batches_hold_texts_of_similar_length(folder: Path) -> None:
    dls = data(folder, n=800, batch_size=4)
    padded = sum(int((x["attention_mask"] == 0).sum()) for x, _ in dls.train)
    tokens = int(dls.train.items.lengths.sum())
    assert padded < 0.15 * tokens


def test_no_batch_has_a_single_text_where_there_are_more(folder: Path) -> None:
    for n in range(5, 40):
        for options in ({"batch_size": 4}, {"batch_size": 2}, {"max_tokens": 10}):
            dls = data(folder, n=n, valid_pct=0.3, **options)
            assert min(map(len, dls.train.positions(0))) > 1
    assert max(map(len, data(folder, n=9, batch_size=1).train.positions(0))) == 1


def test_a_pass_can_start_anywhere(folder: Path) -> None:
    train = data(folder, batch_size=8).train
    train.set_epoch(3)
    whole = content(train)
    train.set_epoch(3)
    assert content(train.starting_at(5)) == whole[5:]
    train.set_epoch(4)
    assert content(train) != whole


def test_order_depends_on_the_seed_alone(folder: Path) -> None:
    torch.manual_seed(1)
    one = content(data(folder, seed=7).train)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert content(data(folder, seed=7).train) == one
    assert torch.equal(torch.get_rng_state(), state)


def test_processes_share_each_batch(folder: Path) -> None:
    train = data(folder, batch_size=8).train
    train.set_epoch(0)
    targets = [y for _, y in train]
    parts = []
    for rank in (0, 1):
        train.set_epoch(0)
        parts.append(list(train.shards(rank, 2)))
    for whole, one, two in zip(targets, *parts, strict=True):
        assert torch.equal(one.batch[1], whole[0::2])
        assert torch.equal(two.batch[1], whole[1::2])
        assert one.check == two.check


def test_validation_comes_by_length_and_says_so(folder: Path) -> None:
    dls = data(folder, batch_size=4)
    lengths = [int(x["attention_mask"].sum(1).max()) for x, _ in dls.valid]
    assert lengths == sorted(lengths)
    found = torch.cat([y for _, y in dls.valid])
    targets = dls.valid_texts.targets()
    assert torch.equal(found, targets[dls.valid.order])
    assert dls.test_dl(list(dls.valid_texts.files)).order == list(range(len(targets)))
    inputs, found = dls.valid.at([5, 0])
    assert torch.equal(found, targets[[5, 0]])
    assert inputs["input_ids"].shape[0] == 2


def test_items_left_out_are_in_no_batch(folder: Path) -> None:
    train = data(folder).training(batch_size=5, left_out=[0, 7])
    assert train is not None
    used = sorted(i for batch in train.positions(1) for i in batch)
    assert used == [i for i in range(train.n_items) if i not in (0, 7)]
