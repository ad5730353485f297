from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.conftest import N
from tests.data.feeding import fed, same, together, training

from layergroups._random import derived_seed, private_randomness
from layergroups.data import (
    Augmentation,
    EvalLoader,
    ImageDataLoaders,
    Samples,
    TrainLoader,
)
from layergroups.data import _batches as batches
from layergroups.data._batches import (
    default_workers,
    item_weights,
    weighted_order,
)
from layergroups.errors import BrokenImagesError, DataError
from layergroups.input_spec import InputSpec

# From Python 3.12 on, the start of workers by fork is remarked on.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def global_state() -> list[Any]:
    return [random.getstate(), torch.get_rng_state().tolist(), repr(np.random.get_state())]


def random_rotation(image: Image.Image) -> Image.Image:
    """Draws from all three global generators."""
    return image.rotate(random.random() * 9 + np.random.rand() * 9 + float(torch.rand(())) * 9)


def test_a_batch_is_normalised_pixels_and_labels(photos: Samples) -> None:
    x, y = next(iter(training(photos)))
    assert (x.shape, x.dtype) == ((4, 3, 12, 12), torch.float32)
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert (y.shape, y.dtype) == ((4,), torch.int64)


def test_each_epoch_shows_every_photo_once_in_another_order(photos: Samples) -> None:
    batches = training(photos, size=3)
    orders = [[i for batch in batches.plan(epoch) for i, _ in batch] for epoch in range(5)]
    assert all(sorted(order) == list(range(N)) for order in orders)
    assert len({tuple(order) for order in orders}) == 5


def test_passes_move_the_epoch_on_and_set_epoch_takes_it_back(photos: Samples) -> None:
    batches = training(photos)
    first, second = together(batches), together(batches)
    assert batches.epoch == 2
    assert not torch.equal(first[0], second[0])
    batches.set_epoch(1)
    assert torch.equal(together(batches)[0], second[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_pass_may_start_at_any_batch(photos: Samples, workers: int) -> None:
    batches = TrainLoader(fed(photos, workers, random_rotation), 4, seed=5)
    whole = list(batches)
    for first in (1, len(whole) - 1, len(whole)):
        batches.set_epoch(0)
        rest = list(batches.starting_at(first))
        assert batches.epoch == 1
        assert len(rest) == len(whole) - first
        for (x, y), (x2, y2) in zip(rest, whole[first:], strict=True):
            assert torch.equal(x, x2)
            assert torch.equal(y, y2)


def test_another_seed_gives_other_batches(photos: Samples) -> None:
    assert not same(training(photos, seed=1), training(photos, seed=2))


@pytest.mark.parametrize("augment", [Augmentation(), random_rotation])
def test_batches_are_the_same_for_any_number_of_workers(photos: Samples, augment: Any) -> None:
    for epoch in (0, 3):
        passes = []
        for workers in (0, 1, 2):
            batches = TrainLoader(fed(photos, workers, augment), 4, seed=5)
            batches.set_epoch(epoch)
            passes.append(batches)
        assert same(passes[0], passes[1])
        passes[0].set_epoch(epoch)
        assert same(passes[0], passes[2])


@pytest.mark.parametrize("workers", [0, 2])
def test_no_pass_reads_or_changes_the_global_random_state(photos: Samples, workers: int) -> None:
    batches = TrainLoader(fed(photos, workers, random_rotation), 4, seed=5)
    torch.manual_seed(1)
    before = global_state()
    first = together(batches)
    assert global_state() == before
    torch.manual_seed(2)
    random.seed(2)
    np.random.seed(2)
    batches.set_epoch(0)
    assert torch.equal(together(batches)[0], first[0])


def test_the_same_photo_varies_alike_in_all_orders(photos: Samples) -> None:
    """The variation belongs to (seed, epoch, photo), not to the place in a batch."""
    small, large = (EvalLoader(fed(photos), n, lambda i: derived_seed(1, i)) for n in (2, 7))
    assert same(small, large)


@pytest.mark.parametrize("workers", [0, 1])
def test_passes_may_be_nested_and_broken_off(photos: Samples, workers: int) -> None:
    batches = EvalLoader(fed(photos, workers), 2)
    expected = together(EvalLoader(fed(photos), 2))
    for (x, _), (again, _) in zip(batches, batches, strict=True):
        assert torch.equal(x, again)
    for _ in batches:
        break
    held = iter(batches)
    next(held)
    assert torch.equal(together(batches)[0], expected[0])
    assert torch.equal(torch.cat([x for x, _ in held]), expected[0][2:])


def test_workers_stay_between_passes(photos: Samples) -> None:
    feed = fed(photos, 1)

    def pids(batches: EvalLoader) -> list[int]:
        list(batches)
        assert feed._pool is not None
        return [w.pid for w in feed._pool._iterator._workers]

    assert pids(EvalLoader(feed, 3)) == pids(EvalLoader(feed, 5))


@pytest.mark.parametrize(
    ("size", "lengths"),
    [(4, [4, 4, 3]), (5, [5, 5]), (10, [10]), (11, [11]), (20, [11]), (1, [1] * 11)],
)
def test_a_last_batch_of_one_photo_is_left_out(
    photos: Samples, size: int, lengths: list[int]
) -> None:
    batches = training(photos, size=size)
    assert [len(y) for _, y in batches] == lengths
    assert len(batches) == len(lengths)


def test_training_without_augmentation_is_shuffled_but_not_varied(photos: Samples) -> None:
    batches = TrainLoader(fed(photos, augment=None), 11, seed=0)
    order = [i for i, _ in next(batches.plan(0))]
    plain, _ = together(EvalLoader(fed(photos), 4))
    assert torch.equal(together(batches)[0], plain[order])


@pytest.mark.parametrize("workers", [0, 1])
def test_a_photo_that_breaks_later_is_named(photos: Samples, workers: int) -> None:
    photos.paths[6].write_bytes(b"")
    with pytest.raises(BrokenImagesError, match=r"6\.jpg: empty, 0 bytes"):
        list(EvalLoader(fed(photos, workers), 4))


def test_private_randomness_is_restored_after_an_error() -> None:
    before = global_state()
    with pytest.raises(ZeroDivisionError), private_randomness(3):
        _ = (random.random() + np.random.rand() + float(torch.rand(()))) / 0
    assert global_state() == before


def test_private_randomness_follows_its_seed() -> None:
    def draw(seed: int) -> tuple[float, float, float]:
        with private_randomness(seed):
            return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert draw(1) == draw(1)
    assert all(a != b for a, b in zip(draw(1), draw(2), strict=True))


def test_seeds_differ_for_all_numbers() -> None:
    seeds = {derived_seed(s, e, i) for s in range(5) for e in range(-5, 5) for i in range(20)}
    assert len(seeds) == 1000
    assert derived_seed(1, 23) != derived_seed(12, 3)


def test_small_sets_start_no_workers(photos: Samples) -> None:
    assert default_workers(photos) == 0


def test_many_large_photos_are_read_by_workers(photos: Samples, tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    large.write_bytes(photos.paths[0].read_bytes() + b"\0" * 1_000_000)
    workers = default_workers(Samples((str(large),) * 1000))
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert min(8, (cores or 1) // 2) <= workers <= 8


def test_memory_does_not_hold_the_photos(photos: Samples) -> None:
    """A plan over very many photos is made as it is followed."""
    many = Samples(photos.files * 100_000, (photos.labels or ()) * 100_000)
    passes: Iterator[Any] = iter(EvalLoader(fed(many), 2))
    assert len(next(passes)[1]) == 2


def test_bytes_go_to_the_device_and_are_normalised_there(photos: Samples) -> None:
    loaders = ImageDataLoaders(photos, photos, ("a", "b", "c"), (8, 8), 4).to("meta")
    for x, y in (next(iter(loaders.train)), next(iter(loaders.valid)), loaders.one_batch()):
        assert (x.device.type, y.device.type) == ("meta", "meta")
        assert x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)
    assert loaders.bind(InputSpec()).one_batch()[0].is_meta
    loaders.to("cpu").train.set_epoch(0)
    fresh = ImageDataLoaders(photos, photos, ("a", "b", "c"), (8, 8), 4)
    assert same([next(iter(loaders.train))], [fresh.one_batch()])


def test_training_processes_of_a_machine_divide_its_cores(
    monkeypatch: pytest.MonkeyPatch, photos: Samples
) -> None:
    monkeypatch.setattr(batches, "_reading_seconds", lambda _: 1.0)
    monkeypatch.setattr(batches, "available_cores", lambda: 16)
    assert default_workers(photos) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert default_workers(photos) == (3 if torch.accelerator.is_available() else 2)


VOCAB = ("cat", "dog", "owl")
LABELS = (0,) * 60 + (1,) * 25 + (2,) * 5
PHOTOS = Samples(tuple(map(str, range(90))), LABELS)


def drawn(balance: object, seed: int = 0) -> list[int]:
    weights = item_weights(balance, PHOTOS, VOCAB)
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
def test_samples_of_a_class_come_equally_often_within_one(seed) -> None:
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
    labels = dls.train_images.labels
    assert [y.tolist() for _, y in batches] == [[labels[i] for i in batch] for batch in again]
    assert Counter(labels[i] for batch in again for i in batch) == {0: 10, 1: 10}
    assert again == dls.train.positions(3) != dls.train.positions(4)
    assert len(batches) == len(dls.train) == 3
    assert len(dls.valid_images) == 5  # measured as they are


def test_a_photo_that_comes_again_is_varied_otherwise(folder) -> None:
    dls = loaders(folder, balance=True)
    plan = [item for batch in dls.train.plan(0) for item in batch]
    assert len(set(plan)) == len(plan) > len({position for position, _ in plan})
    plain = loaders(lambda **counts: dls.train_images.paths[0].parents[1], augment=False)
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
        ([1.0, 2.0], "2 weights for 20 training items"),
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
    with pytest.raises(DataError, match="a weight for each training item"):
        item_weights(True, photos, VOCAB)
    assert item_weights([1, 3], photos, VOCAB).tolist() == [0.25, 0.75]


def test_a_small_shared_memory_is_not_used(
    photos: Samples, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usual = list(training(photos))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 12))
    loader = training(photos, workers=2)
    first = list(loader)
    loader.set_epoch(0)
    assert all(same(usual, each) for each in (first, list(loader)))
    (line,) = [record.getMessage() for record in caplog.records]
    assert "--shm-size" in line
    assert isinstance(batches._piped([(torch.zeros(2, 2, 3, dtype=torch.uint8), 0)])[0], np.ndarray)


def test_without_shared_memory_there_are_no_workers(
    photos: Samples, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(batches, "_SHARED_MEMORY", "/no/such/folder")
    loader = training(photos, workers=2)
    assert same(training(photos), loader)
    assert loader.maker.num_workers == 0
    assert len(caplog.records) == 1


@pytest.mark.parametrize("workers", [-1, 10_000, 1.5, True, "2"])
def test_a_number_of_workers_that_no_machine_runs_is_refused(workers: Any, root: Path) -> None:
    with pytest.raises(DataError, match="num_workers"):
        ImageDataLoaders.from_folder(root, num_workers=workers)


WITHOUT_GUARD = """
import sys, multiprocessing
multiprocessing.set_start_method(sys.argv[1], force=True)
from layergroups import ImageDataLoaders
dls = ImageDataLoaders.from_folder(sys.argv[2], size=8, batch_size=4, num_workers=1, cache=False)
next(iter(dls.train))
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_a_script_without_the_main_guard_is_told_the_cause(
    method: str, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "train.py").write_text(WITHOUT_GUARD, encoding="utf-8")
    command = [sys.executable, str(tmp_path / "train.py"), method, str(root)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    lines = [line for line in ended.stderr.splitlines() if "errors.TrainingError" in line]
    assert '__name__ == "__main__"' in lines[-1]
