"""How often photos come where classes are not equally frequent: seeded, fair, told truly."""

from collections import Counter

import pytest
import torch

from layergroups.data import ImageDataLoaders
from layergroups.data._batches import photo_weights, weighted_order
from layergroups.data._samples import Samples
from layergroups.errors import DataError

VOCAB = ("cat", "dog", "owl")
LABELS = (0,) * 60 + (1,) * 25 + (2,) * 5
PHOTOS = Samples(tuple(map(str, range(90))), LABELS)


def drawn(balance: object, seed: int = 0) -> list[int]:
    weights = photo_weights(balance, PHOTOS, VOCAB)
    return weighted_order(weights, LABELS, seed).tolist()


@pytest.mark.parametrize(
    ("balance", "counts"),
    [
        (True, (30, 30, 30)),
        ({"cat": 1, "dog": 1, "owl": 1}, (30, 30, 30)),
        ({"cat": 2, "dog": 1, "owl": 0}, (60, 30, 0)),
        ([1.0] * 90, (60, 25, 5)),
        (torch.ones(90), (60, 25, 5)),
    ],
)
@pytest.mark.parametrize("seed", range(5))
def test_classes_come_as_often_as_asked(balance, counts, seed) -> None:
    order = drawn(balance, seed)
    found = Counter(LABELS[i] for i in order)
    assert len(order) == 90
    assert all(abs(found[label] - count) <= 1 for label, count in enumerate(counts))


@pytest.mark.parametrize("seed", range(5))
def test_photos_of_a_class_come_equally_often_within_one(seed) -> None:
    times = Counter(drawn(True, seed))
    for label in range(3):
        own = [times[i] for i in range(90) if LABELS[i] == label]
        assert max(own) - min(own) <= 1, own
    assert max(times.values()) in (6, 7)  # 30 owls from 5 photos


def test_over_many_epochs_each_photo_gets_its_part() -> None:
    times = Counter(i for seed in range(200) for i in drawn([1.0] * 45 + [3.0] * 45, seed))
    light, heavy = [times[i] for i in range(45)], [times[i] for i in range(45, 90)]
    assert sum(heavy) / sum(light) == pytest.approx(3.0, rel=0.02)
    assert min(light) > 70
    assert max(light) < 130


def loaders(folder, **options) -> ImageDataLoaders:
    path = folder(cat=20, dog=5)
    given = {"size": 16, "batch_size": 8, "valid_pct": 0.2, "num_workers": 0, "cache": False}
    return ImageDataLoaders.from_folder(path, **(given | options))


def test_batches_are_balanced_seeded_and_where_they_say(folder) -> None:
    dls = loaders(folder, balance=True)
    dls.train.set_epoch(3)
    batches = list(dls.train)
    again = dls.train.positions(3)
    labels = dls.train_photos.labels
    assert [y.tolist() for _, y in batches] == [[labels[i] for i in batch] for batch in again]
    assert Counter(labels[i] for batch in again for i in batch) == {0: 10, 1: 10}
    assert again == dls.train.positions(3) != dls.train.positions(4)
    assert len(batches) == len(dls.train) == 3
    assert len(dls.valid_photos) == 5  # measured as they are


def test_a_photo_that_comes_again_is_varied_otherwise(folder) -> None:
    dls = loaders(folder, balance=True)
    plan = [item for batch in dls.train.plan(0) for item in batch]
    assert len(set(plan)) == len(plan) > len({position for position, _ in plan})
    plain = loaders(lambda **counts: dls.train_photos.paths[0].parents[1], augment=False)
    assert {seed for batch in plain.train.plan(0) for _, seed in batch} == {None}


def test_without_balance_nothing_has_changed(folder) -> None:
    dls = loaders(folder)
    order = [i for batch in dls.train.positions(0) for i in batch]
    assert sorted(order) == list(range(20))


def test_workers_and_shares_give_the_same_photos(folder) -> None:
    dls = loaders(folder, balance=True)
    whole = [x for x, _ in dls.train]
    dls.train.set_epoch(0)
    halves = [list(dls.train.shards(rank, 2)) for rank in (0, 1) if not dls.train.set_epoch(0)]
    for x, *shares in zip(whole, *halves, strict=True):
        for share in shares:
            assert torch.equal(x[list(share.positions)], share.batch[0])


@pytest.mark.parametrize(
    ("balance", "says"),
    [
        ("classes", "expected True for all classes"),
        (3, "expected True"),
        ([1.0, 2.0], "2 weights for 20 training photos"),
        ([0.0] * 20, "expected True"),
        ([-1.0] + [1.0] * 19, "from 0"),
        (["a"] * 20, "from 0"),
        ({"cat": 1}, "for all of cat, dog"),
        ({"cat": 1, "dog": "much"}, "from 0"),
    ],
)
def test_what_makes_no_sense_is_refused_at_once(folder, balance, says) -> None:
    with pytest.raises(DataError, match=says):
        loaders(folder, balance=balance)


def test_balance_by_class_needs_classes() -> None:
    photos = Samples(("a", "b"), ((0, 1), (1,)))
    with pytest.raises(DataError, match="a weight for each training photo"):
        photo_weights(True, photos, VOCAB)
    assert photo_weights([1, 3], photos, VOCAB).tolist() == [0.25, 0.75]
