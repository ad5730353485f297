from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from layergroups.data import open_image

from .conftest import picture

RED, WHITE = (255, 0, 0), (255, 255, 255)


def halves(mode: str, left: object, right: object) -> Image.Image:
    """An image with one colour on the left and one on the right, 8 x 4 pixels."""
    image = Image.new(mode, (8, 4), left)  # type: ignore[arg-type] # a pixel of any mode
    image.paste(right, (4, 0, 8, 4))  # type: ignore[arg-type] # a pixel of any mode
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
