"""Any object with batches `train` and `valid` is data; what it cannot do is told, or None."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from layergroups import Learner
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
    assert (source.task, source.input, source.size) == (None,) * 3
    assert torch.equal(source.example(), X[:2])
    assert source.targets() is not None
    assert torch.equal(source.targets(), Y)
    assert source.views(0) is None
    assert source.facts().train == 10
    assert torch.equal(source.load(X[0]), X[0])
    assert set(generators_of(dls.train)) == {"loader"}
    assert [len(x) for x, _ in starting_at(dls.train, 1)] == [4, 2]
    set_epoch(dls.train, 3)  # it has none, which is no error
    assert not isinstance(dls.train, SeekableBatches)
    assert items_in(dls.train) is None


def test_classes_of_the_dataset_are_the_vocabulary() -> None:
    dls = pair()
    dls.train.dataset.classes = ["a", "b", "c"]  # as torchvision's datasets have them
    assert data_source(dls).vocab == ("a", "b", "c")
    dls.train = DataLoader(Subset(dls.train.dataset, range(6)), batch_size=4)
    assert data_source(dls).n_outputs == 3
    learn = Learner(dls, nn.Linear(4, 3), metrics=["accuracy"], split=1, progress=False)
    assert learn.predict(X[0]).label in "abc"


class Records(Dataset[Any]):
    """Items (dict of inputs, class); reading one draws random numbers."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> Any:
        return {"values": X[i % 10] + 0 * torch.randn(4), "mask": torch.ones(4)}, i % 2


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(4, 8), nn.Linear(8, 2)

    def forward(self, values: torch.Tensor, mask: torch.Tensor) -> Any:
        return self.head(self.encoder(values * mask))


def test_a_plain_pair_whose_inputs_are_a_dict_trains_without_groups() -> None:
    train = DataLoader(Records(), batch_size=4, shuffle=True, generator=torch.Generator())
    model = Masked()
    before = torch.get_rng_state(), train.generator.get_state()
    learn = Learner(SimpleNamespace(train=train, valid=train), model, progress=False)
    after = torch.get_rng_state(), train.generator.get_state()
    assert all(map(torch.equal, before, after))
    learn.fit(1)
    assert len(learn.history) == 1


def test_an_example_is_read_of_any_batches_and_moves_none_of_them() -> None:
    class Counted:
        passes = 0

        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Any:
            self.passes += 1
            yield (X, X + 1), Y

    counted = Counted()
    inputs = data_source(SimpleNamespace(train=counted, valid=None)).example()
    assert torch.equal(inputs[1], X + 1)
    assert counted.passes == 0
    once = iter([(X, Y)])
    assert data_source(SimpleNamespace(train=once, valid=None)).example() is None
    assert len(list(once)) == 1
    images = [(torch.zeros(2, 3, 8, 8), Y[:2])]  # of them the model itself shows the form
    assert data_source(SimpleNamespace(train=images, valid=None)).example() is None


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
    assert data_source(dls).targets().tolist() == [1, 0, 1]


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
