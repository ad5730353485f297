from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from tests.data.conftest import bands

from layergroups.data import EvalTransform, check_images, open_image
from layergroups.data.image._opening import open_picture
from layergroups.errors import BrokenImagesError, DataError
from layergroups.input_spec import InputSpec

from .conftest import picture

RED, WHITE = (255, 0, 0), (255, 255, 255)


def halves(mode: str, left: object, right: object) -> Image.Image:
    """An image with one colour on the left and one on the right, 8 x 4 pixels."""
    image = Image.new(mode, (8, 4), left)
    image.paste(right, (4, 0, 8, 4))
    return image


def palette(transparent: bool) -> Image.Image:
    image = Image.new("P", (8, 4), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(1, (4, 0, 8, 4))
    if transparent:
        image.info["transparency"] = 1
    return image


def sixteen_bits() -> Image.Image:
    values = np.full((4, 8), 65535, dtype=np.uint16)
    values[:, 4:] = 32896
    return Image.fromarray(values)


def fractions() -> Image.Image:
    values = np.ones((4, 8), dtype=np.float32)
    values[:, 4:] = 0.5
    return Image.fromarray(values)


KINDS: dict[str, tuple[Callable[[], Image.Image], str, tuple[int, ...], tuple[int, ...]]] = {
    "rgb": (lambda: halves("RGB", RED, (0, 0, 255)), "png", RED, (0, 0, 255)),
    "grey": (lambda: halves("L", 255, 100), "png", WHITE, (100, 100, 100)),
    "one bit": (lambda: halves("1", 1, 0), "png", WHITE, (0, 0, 0)),
    "grey and alpha": (lambda: halves("LA", (90, 255), (0, 0)), "png", (90, 90, 90), WHITE),
    "rgb and alpha": (lambda: halves("RGBA", (*RED, 255), (9, 9, 9, 0)), "png", RED, WHITE),
    "palette": (lambda: palette(False), "png", RED, (0, 0, 255)),
    "palette with transparency": (lambda: palette(True), "png", RED, WHITE),
    "palette in a gif": (lambda: palette(True), "gif", RED, WHITE),
    "cmyk": (lambda: halves("CMYK", (0, 255, 255, 0), (0, 0, 0, 0)), "tif", RED, WHITE),
    "16 bits": (sixteen_bits, "png", WHITE, (128, 128, 128)),
    "fractions": (fractions, "tif", WHITE, (128, 128, 128)),
    "hsv": (lambda: halves("HSV", (0, 255, 255), (0, 0, 255)).convert("RGB"), "webp", RED, WHITE),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_becomes_rgb_with_the_right_colours(kind: str, tmp_path: Path) -> None:
    make, ending, left, right = KINDS[kind]
    path = tmp_path / f"image.{ending}"
    make().save(path, lossless=True)  # of those here only webp has another way
    opened = open_image(path)
    assert (opened.mode, opened.size) == ("RGB", (8, 4))
    assert opened.getpixel((1, 1)) == left
    assert opened.getpixel((6, 1)) == right


def test_a_cmyk_jpeg_is_read_as_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    opened = open_image(tmp_path / "a.jpg", min_size=8)
    assert opened.mode == "RGB"
    assert np.abs(np.array(opened, dtype=int) - RED).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_every_exif_orientation_is_turned_upright(
    orientation: int, ending: str, tmp_path: Path
) -> None:
    back = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    upright = picture(3, (48, 24))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = upright if back is None else upright.transpose(back)
    stored.save(tmp_path / f"a.{ending}", exif=exif)
    opened = open_image(tmp_path / f"a.{ending}")
    assert opened.size == upright.size
    difference = np.array(opened, dtype=int) - np.array(upright, dtype=int)
    assert np.abs(difference).mean() < 8
    if orientation > 1:
        assert opened.getexif().get(0x0112, 1) == 1  # nobody will turn it again


def test_an_odd_exif_block_does_not_make_a_photo_unreadable(tmp_path: Path) -> None:
    picture().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00not a tiff header at all")
    assert open_image(tmp_path / "a.jpg").size == (48, 40)


@pytest.mark.parametrize(
    ("min_size", "shorter"), [(None, 400), (400, 400), (201, 400), (200, 200), (60, 100), (1, 1)]
)
def test_jpegs_are_decoded_smaller_but_never_below_min_size(
    min_size: int | None, shorter: int, tmp_path: Path
) -> None:
    picture(1, (600, 400)).save(tmp_path / "a.jpg")
    opened = open_image(tmp_path / "a.jpg", min_size=min_size)
    assert min(opened.size) == shorter


def test_the_file_is_closed_and_pixels_stay(photo: Callable[..., Path]) -> None:
    path = photo("a.gif")
    opened = open_image(path)
    path.unlink()
    assert opened.resize((4, 4)).size == (4, 4)


def test_a_big_but_legal_photo_is_fine_and_a_bomb_is_not(
    photo: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = photo("a.png", size=(50, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    assert open_image(path).size == (50, 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(Image.DecompressionBombError):
        open_image(path)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: path.write_bytes(b""), "No data left"),
        (lambda path: np.save(path, np.array([["a", "b"]])), "an array of <U1|shape"),
        (lambda path: np.save(path, np.zeros((4, 4, 2), dtype="M8[s]")), "expected numbers"),
        (lambda path: np.save(path, np.zeros((0, 4, 2))), "expected .height, width, 2."),
    ],
)
def test_broken_arrays_are_found(write: Any, reason: str, tmp_path: Path) -> None:
    write(tmp_path / "a.npy")
    (found,) = check_images([tmp_path / "a.npy"], channels=2)
    assert re.search(reason, found.reason), found.reason


def test_alpha_and_pages_are_channels(tmp_path: Path) -> None:
    Image.fromarray(bands(4)).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.png", channels=4)), bands(4))
    pages = [Image.fromarray(bands(6)[..., i]) for i in range(6)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.tif", channels=6)), bands(6))


def test_a_tiff_of_deep_bands_is_read_where_tifffile_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = bands(6, np.uint16) * 200
    tifffile.imwrite(tmp_path / "a.tif", deep, photometric="minisblack", planarconfig="contig")
    opened = np.asarray(open_picture(tmp_path / "a.tif", channels=6))
    np.testing.assert_allclose(opened, deep / 65535, rtol=1e-6)
    monkeypatch.setitem(sys.modules, "tifffile", None)
    (found,) = check_images([tmp_path / "a.tif"], channels=6)
    assert "pip install tifffile" in found.reason


def test_deep_grey_keeps_its_bits(tmp_path: Path) -> None:
    deep = bands(1, np.uint16)[..., 0] * 5
    Image.fromarray(deep).save(tmp_path / "a.png")
    opened = np.asarray(open_picture(tmp_path / "a.png", channels=1))
    assert opened.dtype == np.float32
    np.testing.assert_allclose(opened[..., 0], deep / 65535, rtol=1e-6)


def test_large_arrays_are_made_smaller_before_they_are_kept(tmp_path: Path) -> None:
    large = np.kron(bands(5), np.ones((9, 9, 1), dtype=np.uint8))
    np.save(tmp_path / "a.npy", large)
    assert np.asarray(open_picture(tmp_path / "a.npy", channels=5, min_size=10)).shape == (
        12,
        10,
        5,
    )


def frames(path: Path, **options: Any) -> Path:
    first, second = picture(1), picture(2)
    first.save(path, save_all=True, append_images=[second], **options)
    return path


@pytest.mark.parametrize(("name", "kind"), [("a.jpg", "MPO"), ("a.webp", "WEBP"), ("a.gif", "GIF")])
def test_the_first_of_several_frames_is_taken_in_grey_as_in_colour(
    name: str, kind: str, tmp_path: Path
) -> None:
    path = frames(tmp_path / name, format=kind)
    with Image.open(path) as opened:
        assert getattr(opened, "n_frames", 1) == 2
    grey = open_picture(path, channels=1)
    assert np.array_equal(np.asarray(grey), np.asarray(open_image(path).convert("L")))
    assert np.abs(np.asarray(grey, int) - np.asarray(picture(1).convert("L"), int)).mean() < 9


@pytest.mark.parametrize(
    ("dtype", "value", "wanted"),
    [
        ("uint8", 200, 200 / 255), ("uint16", 20000, 20000 / 65535),
        ("int16", 20000, 20000 / 32767), ("int32", 20000, 20000 / 65535),
        ("uint32", 70000, 1.0), ("int32", 70000, 1.0), ("float32", 0.25, 0.25),
    ],
)  # fmt: skip
def test_numbers_are_scaled_by_the_type_of_the_file(
    dtype: str, value: float, wanted: float, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((20, 20), value, dtype))
    grey = np.asarray(open_picture(tmp_path / "a.tif", channels=1))
    grey = grey / 255 if grey.dtype == np.uint8 else grey
    np.testing.assert_allclose(grey.mean(), wanted, atol=1e-4)
    colour = np.asarray(open_image(tmp_path / "a.tif"))
    np.testing.assert_allclose(colour.mean() / 255, wanted, atol=2e-3)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -0.5])
def test_fractions_without_an_8_bit_form_are_named_and_not_dimmed(
    odd: float, tmp_path: Path
) -> None:
    values = np.full((20, 20), 0.5, "float32")
    values[0, 0] = odd
    tifffile.imwrite(tmp_path / "a.tif", values)
    (found,) = check_images([tmp_path / "a.tif"])
    assert "NaN" in found.reason


@pytest.mark.parametrize("channels", [1, 3])
def test_only_regular_files_are_opened(channels: int, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(OSError, match="regular file"):
        open_picture(tmp_path / "a.jpg", channels=channels)
    with pytest.raises(BrokenImagesError, match="regular file"):
        EvalTransform((8, 8))(tmp_path / "a.jpg")
    (found,) = check_images([tmp_path / "a.jpg"], channels=channels)
    assert found.path == tmp_path / "a.jpg"


def closed(path: Path) -> Image.Image:
    image = Image.open(path)
    image.close()
    return image


def truncated(path: Path) -> Image.Image:
    whole = path.read_bytes()
    return Image.open(io.BytesIO(whole[: len(whole) // 2]))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "make",
    [
        lambda path: np.full((40, 40, 3), np.nan, "float32"),
        lambda path: np.full((40, 40), np.inf, "float32"),
        lambda path: torch.full((3, 40, 40), torch.nan),
        lambda path: np.full((40, 40), 1j),
        lambda path: np.full((40, 40, 3), "grey"),
        lambda path: np.zeros((0, 5, 3), "uint8"),
        lambda path: torch.zeros(3, 5, 0),
        lambda path: Image.new("RGB", (0, 4)),
        closed,
        truncated,
    ],
)
def test_what_is_no_image_in_memory_is_a_data_error(
    make: Callable[[Path], Any], channels: int, photo: Callable[..., Path]
) -> None:
    spec = InputSpec().for_channels(channels)
    with pytest.raises(DataError):
        EvalTransform((8, 8), spec)(make(photo("a.jpg", size=(90, 80))))
