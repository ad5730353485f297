"""One image file of any kind, opened as upright 8-bit RGB."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import ExifTags, Image

IMAGE_ENDINGS = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"),
        *(".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)
"""Endings, in lower case, of the files that count as images."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BACKGROUND = (255, 255, 255)


def open_image(path: str | os.PathLike[str], *, min_size: int | None = None) -> Image.Image:
    """Open an image of any kind as 8-bit RGB, upright as its EXIF orientation says.

    Transparent parts are laid on white. Images with 16 or more bits, or with fractions, are scaled
    to 8 bits from the range that their type or their values tell (16 bits: 0 to 65535).

    Args:
        path: the image file.
        min_size: if given, an image may be made smaller by a whole number, as long as its shorter
            side keeps at least this many pixels; a JPEG is decoded so, which is quicker.

    Returns:
        An image of mode "RGB".

    Raises:
        OSError: the file is absent, truncated or no image.
        PIL.Image.DecompressionBombError: it has more pixels than `PIL.Image.MAX_IMAGE_PIXELS`.
    """
    with Image.open(path) as image:
        _refuse_bomb(image)
        if min_size is not None:
            image.draft(None, (min_size, min_size))
        image.load()
        return _reduced(to_rgb(image), min_size)


def _reduced(image: Image.Image, min_size: int | None) -> Image.Image:
    """A much too large image in a size that is easier to handle, each pixel the mean of several."""
    factor = 1 if min_size is None else min(image.size) // max(1, min_size)
    return image.reduce(factor) if factor > 1 else image


def open_image_quietly(path: str | os.PathLike[str], *, min_size: int | None = None) -> Image.Image:
    """`open_image` without Pillow's remarks on odd but readable files. Not for use in threads."""
    with quiet():
        return open_image(path, min_size=min_size)


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as upright 8-bit RGB; see `open_image` for what happens to each mode."""
    image = _upright(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bits(image)).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        flat = Image.new("RGB", image.size, _BACKGROUND)
        flat.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return flat
    return image.convert("RGB")


def _refuse_bomb(image: Image.Image) -> None:
    """Pillow itself only warns between one and two times its limit."""
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the EXIF orientation says; metadata that cannot be read turn nothing."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken metadata do not make a broken picture
        return image
    if orientation not in _TURNS:
        return image
    turned = image.transpose(_TURNS[orientation])
    # What is left of the metadata must not turn the picture a second time.
    turned.info = {k: v for k, v in turned.info.items() if k == "transparency"}
    return turned


def _to_eight_bits(image: Image.Image) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Grey values of a 16-bit, 32-bit or float image, scaled to 0..255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    highest = float(values.max(initial=0.0))
    if image.mode.startswith("I;16"):
        top = 65535.0
    elif image.mode == "I":
        top = 65535.0 if highest <= 65535 else float(2**31 - 1)
    else:
        top = next((t for t in (1.0, 255.0, 65535.0) if highest <= t), highest)
    scaled = np.clip(values / top, 0.0, 1.0) * 255.0
    return np.round(scaled).astype(np.uint8)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings while files are read: what matters about a file is raised.

    The filter belongs to the whole process before Python 3.14, so threads are started and ended
    inside it and do not enter it themselves.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
