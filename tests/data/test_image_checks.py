from __future__ import annotations

import io
import logging
import random
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from layergroups.data import BrokenImage, check_images, open_image
from layergroups.data.image._image_checks import drop_broken
from layergroups.errors import BrokenImagesError, DataError

from .conftest import picture


@pytest.fixture
def broken(photo: Callable[..., Path], tmp_path: Path) -> dict[str, Path]:
    """A broken image of each kind."""
    whole = photo("whole.jpg", size=(200, 160)).read_bytes()
    png = photo("whole.png", size=(200, 160)).read_bytes()
    files = {
        "truncated.jpg": whole[: len(whole) // 2],
        "truncated.png": png[: len(png) // 2],
        "empty.jpg": b"",
        "text.jpg": b"this is a letter, not a photo\n" * 20,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    Image.new("1", (400, 300)).save(tmp_path / "bomb.png")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    return {name: tmp_path / name for name in [*files, "bomb.png", "gone.jpg"]}


@pytest.mark.parametrize(
    "limit", [100_000, 50_000]
)  # Pillow warns of the first, refuses the second
def test_each_broken_image_is_found_with_its_reason(
    broken: dict[str, Path],
    photo: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    limit: int,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    good = [photo(f"good{i}.JPG", seed=i) for i in range(40)]
    found = check_images([*good[:20], *broken.values(), *good[20:]])
    assert [b.path for b in found] == list(broken.values())
    reasons = {b.path.name: b.reason for b in found}
    assert "truncated" in reasons["truncated.jpg"]
    assert reasons["empty.jpg"] == "empty, 0 bytes"
    assert reasons["text.jpg"] == "not an image that Pillow can read"
    assert str(limit) in reasons["bomb.png"]
    assert reasons["gone.jpg"] == "the file does not exist"


def test_nothing_is_found_where_nothing_is_broken(photo: Callable[..., Path]) -> None:
    assert check_images([photo("a.jpg"), str(photo("b.png"))]) == ()
    assert check_images([]) == ()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
def test_the_quick_check_agrees_with_a_full_decode(options: dict[str, int], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    picture(5, (150, 120)).save(buffer, "JPEG", **options)
    data = buffer.getvalue()
    rng = random.Random(0)
    lengths = [len(data) - n for n in (0, 1, 2, 3, 8)] + rng.sample(range(len(data)), 20)
    paths = [tmp_path / f"{length}.jpg" for length in lengths]
    for path, length in zip(paths, lengths, strict=True):
        path.write_bytes(data[:length])
    quick = {b.path for b in check_images(paths)}
    full = {path for path in paths if not _opens(path)}
    assert quick == full
    assert len(full) >= 20


def _opens(path: Path) -> bool:
    try:
        open_image(path)
    except OSError:
        return False
    return True


def test_threads_and_warnings_leave_no_trace(photo: Callable[..., Path]) -> None:
    paths = [photo(f"{i}.jpg", seed=i) for i in range(50)]
    before = list(warnings.filters)
    assert check_images(paths, threads=4) == check_images(paths, threads=1) == ()
    assert warnings.filters == before


def test_broken_images_raise_with_their_paths(broken: dict[str, Path]) -> None:
    with pytest.raises(BrokenImagesError) as caught:
        drop_broken({"a": [str(broken["empty.jpg"])], "b": [str(broken["text.jpg"])]}, "raise")
    message = str(caught.value)
    assert str(broken["empty.jpg"]) in message
    assert str(broken["text.jpg"]) in message
    assert 'on_error="skip"' in message


def test_broken_images_are_skipped_in_one_line(
    broken: dict[str, Path], photo: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    good = str(photo("good.jpg"))
    with caplog.at_level(logging.WARNING, "layergroups"):
        kept, _ = drop_broken({"a": [good, str(broken["empty.jpg"])], "b": [good]}, "skip")
    assert kept == {"a": (good,), "b": (good,)}
    (record,) = caplog.records
    assert record.getMessage() == f"Left out 1 image: {broken['empty.jpg']}: empty, 0 bytes."


def test_another_word_for_on_error_is_refused() -> None:
    with pytest.raises(DataError, match='"raise" or "skip"'):
        drop_broken({}, "ignore")


def test_a_broken_image_prints_as_path_and_reason() -> None:
    assert str(BrokenImage(Path("a/b.jpg"), "empty, 0 bytes")) == "a/b.jpg: empty, 0 bytes"
