from __future__ import annotations

from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from layergroups.data import Samples
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
