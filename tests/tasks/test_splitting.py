"""Photos with several labels, divided: each label is learned from, and measured if it can be."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergroups.data._samples import Samples, Split, divided
from layergroups.tasks import TASKS
from layergroups.tasks._splitting import multilabel_split, random_split

LABELS = st.lists(st.sets(st.integers(0, 6), max_size=4).map(sorted).map(tuple), max_size=60)
SHARES = st.floats(0.05, 0.6)


def counted(labels: Sequence[tuple[int, ...]], positions: Sequence[int]) -> Counter[int]:
    return Counter(chain.from_iterable(labels[i] for i in positions))


@given(labels=LABELS, share=SHARES, seed=st.integers(0, 99))
def test_all_photos_are_dealt_out_and_every_label_is_learned_from(
    labels: list[tuple[int, ...]], share: float, seed: int
) -> None:
    train, valid = multilabel_split(labels, share, seed)
    assert sorted([*train, *valid]) == list(range(len(labels)))
    assert (list(train), list(valid)) == (sorted(train), sorted(valid))
    assert (train, valid) == multilabel_split(labels, share, seed)
    assert len(train) > 0 or not labels
    assert len(valid) > 0 or len(labels) < 2
    numbers = counted(labels, range(len(labels)))
    if not all(any(numbers[label] == 1 for label in own) for own in labels):
        assert set(counted(labels, train)) == set(chain.from_iterable(labels))


@given(counts=st.lists(st.integers(2, 40), min_size=1, max_size=7), share=SHARES)
def test_labels_that_come_alone_keep_their_share_in_both_parts(
    counts: list[int], share: float
) -> None:
    labels = [(label,) for label, n in enumerate(counts) for _ in range(n)]
    train, valid = multilabel_split(labels, share, 3)
    learned, measured = counted(labels, train), counted(labels, valid)
    for label, n in enumerate(counts):
        assert min(learned[label], measured[label]) >= 1
        assert abs(measured[label] - n * share) <= 1


def test_rare_labels_are_measured_where_chance_forgets_them() -> None:
    labels = [(0, 1 + i // 3) if i < 18 else (0,) for i in range(200)]  # six labels of 3 photos
    forgotten = 0
    for seed in range(20):
        _, by_chance = random_split(200, 0.2, seed)
        forgotten += any(counted(labels, by_chance)[label] == 0 for label in range(1, 7))
        _, valid = multilabel_split(labels, 0.2, seed)
        assert all(counted(labels, valid)[label] == 1 for label in range(1, 7))
        assert len(valid) == 40
    assert forgotten > 10


def test_shares_are_kept_where_labels_come_together() -> None:
    labels = [tuple(k for k in range(6) if (i * (2 * k + 3)) % 11 < 6 - k) for i in range(600)]
    _, valid = multilabel_split(labels, 0.25, 0)
    assert len(valid) == pytest.approx(150, abs=3)
    for label, n in counted(labels, range(600)).items():
        assert counted(labels, valid)[label] == pytest.approx(n / 4, rel=0.15)


def test_something_is_measured_though_every_label_is_single() -> None:
    train, valid = multilabel_split([(0,), (1,), (2,), (3,)], 0.25, 0)
    assert (len(train), len(valid)) == (3, 1)


def test_another_seed_gives_another_split() -> None:
    labels = [(i % 3,) for i in range(60)]
    assert multilabel_split(labels, 0.2, 1) != multilabel_split(labels, 0.2, 2)


def divide(labels: list[tuple[float, ...]]) -> Split:
    files = tuple(f"{i}.jpg" for i in range(len(labels)))
    return divided(
        Samples(files, tuple(labels), TASKS["multilabel"], 3), "abc", 0.25, 0, source="The list"
    )


def test_labels_that_cannot_be_measured_are_told_in_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        found = divide([(0,), (0,), (0,), (0,), (1,), (0, 2), (0, 2)])
    assert found.valid.counts(3)[2] == 1
    (record,) = caplog.records
    assert "One item only of 'b'" in record.getMessage()
    caplog.clear()
    with caplog.at_level(logging.WARNING):  # both photos of 'c' are the only ones of a rarer label
        divide([(0, 2), (1, 2), (), (), (), ()])
    assert "One item only of 'a', 'b'" in caplog.records[0].getMessage()
    assert "No item of 'c' is for validation" in caplog.records[1].getMessage()


def test_a_split_of_one_class_each_is_what_it_was() -> None:
    photos = Samples(tuple(f"{i}.jpg" for i in range(20)), tuple(i % 3 for i in range(20)))
    found = divided(photos, "abc", 0.2, 42, source="The list")
    assert found.valid.files == ("6.jpg", "13.jpg", "14.jpg")
