"""Any object with batches `train` and `valid` is data; what it cannot do is told, or None."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from layergroups.data import (
    DataSource,
    PlainSource,
    SeekableBatches,
    batches_of,
    data_source,
    generators_of,
    items_in,
    set_epoch,
    starting_at,
)
from layergroups.errors import TrainingError

X, Y = torch.randn(10, 4), torch.arange(10) % 3


def pair(**more: Any) -> SimpleNamespace:
    loader = DataLoader(TensorDataset(X, Y), batch_size=4, generator=torch.Generator())
    return SimpleNamespace(train=loader, valid=loader, **more)


def test_a_plain_pair_of_data_loaders_has_defaults_for_all_that_is_asked() -> None:
    dls = pair()
    source = data_source(dls)
    assert isinstance(source, PlainSource)
    assert (source.given, source.train, source.valid) == (dls, dls.train, dls.valid)
    assert (source.vocab, source.n_outputs, source.seed, source.batch_size) == ((), 0, 0, 4)
    assert (source.task, source.input, source.size, source.example()) == (None,) * 4
    assert source.targets() is not None
    assert torch.equal(source.targets(), Y)  # type: ignore[arg-type] # it is not None
    assert source.views(0) is None
    assert source.facts().train == 10
    assert torch.equal(source.load(X[0]), X[0])
    assert set(generators_of(dls.train)) == {"loader"}
    assert [len(x) for x, _ in starting_at(dls.train, 1)] == [4, 2]
    set_epoch(dls.train, 3)  # it has none, which is no error
    assert not isinstance(dls.train, SeekableBatches)
    assert items_in(dls.train) is None


def test_what_the_object_has_is_taken_as_it_is_now() -> None:
    dls = pair(vocab=["a", "b", "c"], seed=3, task="multiclass", load=lambda item: X[item])
    source = data_source(dls)
    assert (source.vocab, source.n_outputs, source.seed) == (("a", "b", "c"), 3, 3)
    assert source.task == "multiclass"
    assert torch.equal(source.load(2), X[2])
    dls.valid = None
    assert source.valid is None
    assert list(batches_of(source, None)) == []


def test_targets_named_by_class_become_positions() -> None:
    dls = pair(vocab=("a", "b"))
    dls.train = SimpleNamespace(labels=["b", "a", "b"])
    assert data_source(dls).targets().tolist() == [1, 0, 1]  # type: ignore[union-attr] # as above


def test_a_source_is_its_own() -> None:
    class Mine(DataSource):
        vocab, seed, batch_size, input, size = ("a",), 1, 2, None, None

    mine = Mine()
    assert data_source(mine) is mine
    assert (mine.given, mine.c, mine.classes) == (mine, 1, ("a",))


@pytest.mark.parametrize(
    "ask",
    [
        lambda source: source.load("a.jpg"),
        lambda source: source.test_batches(["a.jpg"]),
        lambda source: source.tta_views([], 2),
        lambda source: source.transform_config(),
        lambda source: batches_of(source, "a.jpg"),
        lambda source: data_source(object()),
    ],
)
def test_what_data_cannot_do_is_an_error_with_the_right_call(ask: Any) -> None:
    with pytest.raises(TrainingError, match=r"ImageDataLoaders|tensor|test_dl|DataLoader"):
        ask(data_source(pair()))
