"""Photos decoded once: the same pixels, bounded, shared, never a broken entry."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from layergroups import ImageDataLoaders
from layergroups._paths import cache_folder
from layergroups.data.image import _decoded_cache as cache_module
from layergroups.data.image._decoded_cache import DecodedCache
from layergroups.data.image._opening import open_image

ROOT = Path(__file__).parents[2]


def photo(path: Path, size: tuple[int, int] = (90, 60), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def entries(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("ending", ["jpg", "png"])
@pytest.mark.parametrize("min_size", [20, 50, 500])
def test_the_pixels_are_the_same_from_file_and_from_cache(
    tmp_path: Path, ending: str, min_size: int
) -> None:
    file = photo(tmp_path / f"a.{ending}", (400, 300))
    cache = DecodedCache(tmp_path / "cache")
    plain = np.asarray(open_image(file, min_size=min_size))
    for _ in range(2):
        assert np.array_equal(np.asarray(cache.open(file, min_size=min_size)), plain)
    assert len(entries(tmp_path / "cache")) == 1


def test_the_second_time_the_file_is_not_read(tmp_path: Path) -> None:
    file = photo(tmp_path / "a.png")
    cache = DecodedCache(tmp_path / "cache")
    first = np.asarray(cache.open(file, min_size=30))
    before = file.stat()
    file.write_bytes(b"x" * before.st_size)  # no image any more, but it looks unchanged
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert np.array_equal(np.asarray(cache.open(file, min_size=30)), first)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = photo(tmp_path / "a.png", seed=1)
    cache = DecodedCache(tmp_path / "cache")
    first = np.asarray(cache.open(file, min_size=30))
    photo(file, seed=2)
    os.utime(file, ns=(1, 1))
    assert not np.array_equal(np.asarray(cache.open(file, min_size=30)), first)


@pytest.mark.parametrize("damage", [b"", b"lgpx2", b"lgpx2" + bytes(500), b"\x93NUMPY\x01\x00"])
def test_a_damaged_entry_is_written_anew(tmp_path: Path, damage: bytes) -> None:
    file = photo(tmp_path / "a.png")
    cache = DecodedCache(tmp_path / "cache")
    first = np.asarray(cache.open(file, min_size=30))
    (entry,) = entries(tmp_path / "cache")
    whole = entry.read_bytes()
    entry.write_bytes(damage)
    assert np.array_equal(np.asarray(cache.open(file, min_size=30)), first)
    assert entry.read_bytes() == whole


def test_it_never_takes_more_than_its_limit(tmp_path: Path) -> None:
    files = [photo(tmp_path / f"{i}.png", seed=i) for i in range(8)]
    limit = 3 * (90 * 60 * 3 + 128)
    cache = DecodedCache(tmp_path / "cache", limit=limit)
    for file in files:
        cache.open(file, min_size=60)
    assert sum(path.stat().st_size for path in entries(tmp_path / "cache")) == limit


def test_a_large_folder_is_not_read_again_for_every_few_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its size is read when it may have doubled, so filling it costs the same for each image."""
    monkeypatch.setattr(cache_module, "_LEAST_WRITES", 4)
    folder, reads = tmp_path / "cache", []
    read = cache_module._entries
    monkeypatch.setattr(cache_module, "_entries", lambda path: reads.append(1) or read(path))
    (folder / "ab").mkdir(parents=True)
    for index in range(50):
        (folder / "ab" / str(index)).write_bytes(b"old")
    cache = DecodedCache(folder)
    for index in range(60):
        cache.open(photo(tmp_path / f"{index}.png", size=(20, 20), seed=index), min_size=20)
    assert len(entries(folder)) == 110
    assert len(reads) == 2


def test_the_oldest_go_when_a_new_cache_finds_too_much(tmp_path: Path) -> None:
    files = [photo(tmp_path / f"{i}.png", seed=i) for i in range(6)]
    folder = tmp_path / "cache"
    for age, file in enumerate(files):
        known = set(entries(folder))
        DecodedCache(folder).open(file, min_size=60)
        (new,) = set(entries(folder)) - known
        os.utime(new, (age, age))
    newest = max(entries(folder), key=lambda path: path.stat().st_mtime)
    cache = DecodedCache(folder, limit=3 * (90 * 60 * 3 + 128))
    cache.open(photo(tmp_path / "new.png", seed=9), min_size=60)
    assert newest.exists()
    assert len(entries(folder)) == 3


def test_what_a_killed_writer_left_goes_after_an_hour(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    (folder / "ab").mkdir(parents=True)
    for name, age in (("old.part", 2 * cache_module._STALE), ("new.part", 0)):
        (folder / "ab" / name).write_bytes(b"half")
        then = time.time() - age
        os.utime(folder / "ab" / name, (then, then))
    DecodedCache(folder).open(photo(tmp_path / "a.png"), min_size=30)
    assert [p.name for p in entries(folder) if p.suffix == ".part"] == ["new.part"]


def test_a_folder_that_cannot_be_written_to_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in its place", encoding="utf-8")
    file = photo(tmp_path / "a.png")
    opened = DecodedCache(tmp_path / "cache").open(file, min_size=30)
    assert np.array_equal(np.asarray(opened), np.asarray(open_image(file, min_size=30)))


def test_its_place_can_be_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LAYERGROUPS_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("LAYERGROUPS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "layergroups"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_folder() == Path.home() / ".cache" / "layergroups"


WRITERS = """
import os, shutil, sys, time
from layergroups.data.image._decoded_cache import DecodedCache
end = time.monotonic() + 60  # they end by themselves if the test is killed
os.fork()  # from here on there are two
cache = DecodedCache(sys.argv[1])
os.write(1, b"g")  # one byte each: what print writes in two parts may mingle
while time.monotonic() < end:
    for file in sys.argv[2:]:
        for size in range(1, 60):
            cache.open(file, min_size=size)
    shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


def test_killed_writers_leave_no_broken_entry(tmp_path: Path) -> None:
    files = [str(photo(tmp_path / f"{i}.png", (300, 300), seed=i)) for i in range(3)]
    folder = tmp_path / "cache"
    command = [sys.executable, "-c", WRITERS, str(folder), *files]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True
    ) as writers:
        assert writers.stdout is not None
        try:
            assert writers.stdout.read(2) == b"gg"
            time.sleep(0.5)
        finally:
            os.killpg(writers.pid, signal.SIGKILL)
        assert writers.stdout.read() == b""  # both are dead
    cache = DecodedCache(folder)
    for file in files:
        for size in (10, 30, 59):
            opened = np.asarray(cache.open(file, min_size=size))
            assert np.array_equal(opened, np.asarray(open_image(file, min_size=size)))


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_with_and_without_it(tmp_path: Path, workers: int) -> None:
    for label in ("a", "b"):
        for i in range(6):
            photo(tmp_path / "photos" / label / f"{i}.jpg", (70, 50), seed=i)
    made = [
        ImageDataLoaders.from_folder(
            tmp_path / "photos", size=16, bs=4, num_workers=workers, cache=cache
        )
        for cache in (False, tmp_path / "cache", tmp_path / "cache")
    ]
    assert made[0].cache is None
    passes = [[*dls.train, *dls.valid] for dls in made]
    assert entries(tmp_path / "cache")
    for one, two, three in zip(*passes, strict=True):
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[0], three[0])


def test_one_line_says_what_is_written_before_the_folder_is_made(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for label in ("a", "b"):
        for i in range(2):
            photo(tmp_path / "photos" / label / f"{i}.png", (20, 20), seed=i)
    place = tmp_path / "place"
    for _ in range(2):
        list(ImageDataLoaders.from_folder(tmp_path / "photos", size=8, bs=2, cache=place).train)
    list(ImageDataLoaders.from_folder(tmp_path / "photos", size=8, bs=2, cache=False).train)
    (line,) = [record.getMessage() for record in caplog.records if "stored" in record.message]
    assert str(place) in line
    assert "cache=False" in line
    assert "GB" in line or "MB" in line
