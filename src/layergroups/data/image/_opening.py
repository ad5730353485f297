"""Open image files as upright 8-bit RGB or with any channels; convert arrays and tensors."""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError

from layergroups.errors import DataError

IMAGE_ENDINGS = frozenset(
    {
        *(".avif", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm"),
        *(".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
    }
)
"""Endings, in lower case, of the files that count as images."""


ARRAY_ENDINGS = frozenset({".npy"})
"""Endings of files that also count as images if these are not RGB."""


Array = np.ndarray[Any, np.dtype[Any]]
Picture = Image.Image | Array
"""An image of mode "RGB" or "L"; or an array (height, width, channels) of uint8 or float32."""


_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_SIDEWAYS = (5, 6, 7, 8)

_BITS, _SAMPLE_FORMAT = 258, 339  # tags of a TIFF
_BACKGROUND = (255, 255, 255)


def open_image(path: str | os.PathLike[str], *, min_size: int | None = None) -> Image.Image:
    """Open an image of any kind as 8-bit RGB, upright as its EXIF orientation says.

    Transparent parts are laid on white. Images with 16 or more bits, or with fractions, are scaled
    to 8 bits from the range of their type or values (16 bits: 0 to 65535).

    Args:
        path: the image file.
        min_size: if given, an image may be made smaller by a whole number, as long as its shorter
            side keeps at least this many pixels; a JPEG is decoded at that size, which is faster.
    """
    image = _open_with_pillow(path, min_size, 3)
    assert isinstance(image, Image.Image)
    return image


def open_picture(
    path: str | os.PathLike[str], *, min_size: int | None = None, channels: int = 3
) -> Picture:
    """Open an image with a number of channels.

    Three channels are RGB, as by `open_image`. One is grey: colours are weighed as Pillow does. Any
    other number must be that of the file: bands of an image (RGBA has four), pages of a TIFF, or an
    array in a `.npy` file. More than 8 bits are preserved, except for RGB: the result is then an
    array, see `array_picture`.
    """
    refuse_pipe(path)
    if Path(path).suffix.lower() in ARRAY_ENDINGS:
        with open(path, "rb") as opened:  # an absent file is an OSError, a damaged one a ValueError
            return reduced_picture(array_picture(np.load(opened), channels), min_size)
    if channels == 3:
        return open_image(path, min_size=min_size)
    try:
        return _open_with_pillow(path, min_size, channels)
    except (ValueError, UnidentifiedImageError) as error:
        bands = _bands_by_tifffile(path, error)
    return reduced_picture(array_picture(bands, channels), min_size)


def _open_with_pillow(path: str | os.PathLike[str], min_size: int | None, channels: int) -> Picture:
    refuse_pipe(path)
    with Image.open(path) as image:
        _refuse_bomb(image)
        if min_size is not None:
            image.draft(None, (min_size, min_size))
        image.load()
        return reduced_picture(with_channels(image, channels), min_size)


def refuse_pipe(path: str | os.PathLike[str]) -> None:
    """Raise an error for what is neither a file nor a folder."""
    kind = os.stat(path).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
        raise OSError("not a regular file")  # to open a named pipe would wait for ever


def with_channels(image: Image.Image, channels: int) -> Picture:
    """An image with a number of channels, as by `open_picture`."""
    if channels == 3:
        return to_rgb(image)
    # The pages of a TIFF are channels; of an animation or a phone's JPEG the first frame counts.
    pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if channels == 1 and pages == 1:
        upright = _upright(image)
        if _is_deep(image):
            return array_picture(_numbers_of(upright, image), 1)
        return to_rgb(upright).convert("L")
    if pages == channels and len(image.getbands()) == 1:
        return array_picture(np.stack([_page(image, n) for n in range(pages)], -1), channels)
    return array_picture(_numbers_of(_upright(image), image), channels)


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith("I") or image.mode == "F"


def _numbers_of(pixels: Image.Image, file: Image.Image) -> Array:
    """Pixels in the type of the file, from which Pillow makes 32 bits in some cases.

    Whole numbers of 32 bits seldom use their range; those above 16 bits are divided by the largest.
    """
    array: Array = np.asarray(pixels)
    if pixels.mode != "I":
        return array
    tags = getattr(file, "tag_v2", {})
    bits, signed = tags.get(_BITS, (32,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == 2
    if bits <= 16:
        return array.astype(np.int16 if signed else np.uint16)
    if bits == 32 and not signed and int(array.min(initial=0)) < 0:
        array = array.view(np.uint32)
    highest = int(array.max(initial=0))
    if int(array.min(initial=0)) >= 0 and highest <= 65535:
        return array.astype(np.uint16)
    return array / np.float32(max(highest, 1))


def array_picture(array: Array, channels: int) -> Picture:
    """An array (H, W, C), (C, H, W) or (H, W) as a picture with a number of channels.

    Three equal channels are made of one. Whole numbers of more than 8 bits are divided by the
    largest of their type; fractions stay as they are, and NaN becomes 0. The result is a Pillow
    image if it has one or three channels of 8 bits, else an array of uint8 or float32.
    """
    shape = array.shape
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim == 3 and array.shape[-1] != channels and array.shape[0] == channels:
        array = np.moveaxis(array, 0, -1)
    if array.ndim == 3 and array.shape[-1] == 1 and channels == 3:
        array = np.repeat(array, 3, -1)
    if array.ndim != 3 or array.shape[-1] != channels or not array.size:
        found = f"{shape[-1]} channels" if len(shape) == 3 else f"shape {shape}"
        raise ValueError(f"{found}, expected (height, width, {channels})")
    if array.dtype != np.uint8:
        return _fractions(array)
    array = np.ascontiguousarray(array)
    if channels == 1:
        return Image.fromarray(array[..., 0])
    return Image.fromarray(array) if channels == 3 else array


def _fractions(array: Array) -> Array:
    """Numbers as float32: whole ones from 0 to 1, or from -1 where they are signed."""
    if array.dtype.kind not in "buif":
        raise ValueError(f"an array of {array.dtype}, expected numbers")
    largest = np.iinfo(array.dtype).max if array.dtype.kind in "ui" else 1
    scaled: Array = np.ascontiguousarray(array, np.float32) / np.float32(largest)
    if np.isinf(scaled).any() or np.isnan(scaled).all():
        raise ValueError("infinite pixels, or none but NaN")
    return np.nan_to_num(scaled)


def _page(image: Image.Image, number: int) -> Array:
    image.seek(number)
    return _numbers_of(image, image)


def _bands_by_tifffile(path: str | os.PathLike[str], reason: Exception) -> Array:
    """The bands of a TIFF that Pillow cannot read, if tifffile is installed."""
    if Path(path).suffix.lower() not in (".tif", ".tiff"):
        raise reason
    try:
        import tifffile
    except ImportError:
        raise ValueError(
            f"{reason}; Pillow reads few TIFF files of many channels: pip install tifffile, or "
            "save the bands as .npy"
        ) from reason
    return np.asarray(tifffile.imread(path))


def reduced_picture(picture: Picture, min_size: int | None) -> Picture:
    """A picture reduced as `open_picture` does with `min_size`."""
    if isinstance(picture, Image.Image):
        return _reduced(picture, min_size)
    if min_size is None or min(picture.shape[:2]) // max(1, min_size) < 2:
        return picture
    bands = [Image.fromarray(picture[..., i]) for i in range(picture.shape[-1])]
    return np.stack([np.asarray(_reduced(band, min_size)) for band in bands], -1)


def _reduced(image: Image.Image, min_size: int | None) -> Image.Image:
    factor = 1 if min_size is None else min(image.size) // max(1, min_size)
    return image.reduce(factor) if factor > 1 else image


def to_rgb(file: Image.Image) -> Image.Image:
    """An image of any mode as upright 8-bit RGB; see `open_image` for what happens to each mode."""
    image = _upright(file)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if _is_deep(image):
        return Image.fromarray(_to_eight_bits(_numbers_of(image, file))).convert("RGB")
    if image.has_transparency_data:
        with_alpha = image.convert("RGBA")
        flat = Image.new("RGB", image.size, _BACKGROUND)
        flat.paste(with_alpha, mask=with_alpha.getchannel("A"))
        return flat
    return image.convert("RGB")


def _refuse_bomb(image: Image.Image) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise Image.DecompressionBombError(f"{image.width} x {image.height} pixels")


def _upright(image: Image.Image) -> Image.Image:
    """Turned as the EXIF orientation says; unreadable metadata are ignored."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # broken metadata do not make a broken picture
        return image
    if orientation not in _TURNS:
        return image
    turned = image.transpose(_TURNS[orientation])
    # Without its orientation, which would turn the picture a second time.
    turned.info = {k: v for k, v in turned.info.items() if k == "transparency"}
    return turned


def _to_eight_bits(values: Array) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Grey values of more than 8 bits, scaled to 0..255."""
    finite = values[np.isfinite(values)]
    if len(finite) < values.size or finite.min(initial=0) < 0:
        raise ValueError(
            f"its pixels, from {finite.min(initial=0):g} to {finite.max(initial=0):g}, are partly "
            "negative, infinite or NaN and have no 8-bit form; save them as numbers from 0 to 1, "
            "or as arrays in .npy files and give channels="
        )
    if values.dtype.kind == "f":
        highest = float(values.max(initial=0.0))
        values = values / next((t for t in (1.0, 255.0, 65535.0) if highest <= t), highest)
    else:
        values = values / float(np.iinfo(values.dtype).max)
    return np.round(values * 255.0).astype(np.uint8)


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings while files are read; errors are raised.

    The filter belongs to the whole process before Python 3.14, so threads are started and ended
    inside it and do not enter it themselves.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


Size = tuple[int, int]


def pixels_of(image: Image.Image | torch.Tensor) -> torch.Tensor:
    """A Pillow image, or a tensor (channels, height, width), as (height, width, channels)."""
    if isinstance(image, torch.Tensor):
        return image.permute(1, 2, 0).contiguous()
    pixels = torch.from_numpy(np.array(image))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def for_torchvision(image: Picture) -> Image.Image | torch.Tensor:
    """A Pillow image as it is; an array (height, width, channels) as a tensor, channels first."""
    if isinstance(image, Image.Image):
        return image
    return torch.from_numpy(np.moveaxis(image, -1, 0).copy())


def height_and_width(image: Picture) -> Size:
    """Of a Pillow image or an array (height, width, channels), in pixels."""
    if isinstance(image, Image.Image):
        return image.height, image.width
    return image.shape[0], image.shape[1]


def size_of_image(source: object, channels: int = 3) -> Size | None:
    """Height and width of one image, upright; of a file from its header; None if that is unknown.

    Source is a path, a Pillow image, an array (H, W[, C]) or a tensor ([C,] H, W); the channels of
    an array may also be first, if they are not 3, as in `array_picture`.
    """
    if isinstance(source, torch.Tensor):
        return (source.shape[-2], source.shape[-1]) if source.ndim > 1 else None
    if isinstance(source, np.ndarray):
        first = source.ndim == 3 and source.shape[-1] != channels == source.shape[0]
        height, width = (0, 0) if source.ndim < 2 else source.shape[first : 2 + first]
        return (height, width) if height else None
    if isinstance(source, Image.Image):
        turned = source.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
        return (source.width, source.height) if turned else (source.height, source.width)
    if not isinstance(source, str | os.PathLike):
        return None
    if Path(source).suffix.lower() in ARRAY_ENDINGS:
        return size_of_image(np.load(source, mmap_mode="r"), channels)
    with quiet():
        try:
            with Image.open(source) as image:
                return size_of_image(image)
        except UnidentifiedImageError:  # such as a TIFF of many bands
            return None


def picture_of(
    source: object, channels: int, *, min_size: int | None = None, strict: bool = True
) -> Picture:
    """A path, Pillow image, array (H, W[, C]) or tensor ([C,] H, W) as a picture.

    If strict, the numbers of RGB, and of grey in 8 bits, are uint8 or from 0 to 1.
    """
    if isinstance(source, str | os.PathLike):
        return open_picture(source, min_size=min_size, channels=channels)
    shape = tuple(getattr(source, "shape", ()))
    if isinstance(source, torch.Tensor):
        source = source.detach().cpu().numpy()
        source = np.moveaxis(source, 0, -1) if source.ndim > 2 else source
    if isinstance(source, np.ndarray):
        grey = channels == 1 and source.dtype != np.uint8
        if strict and channels in (1, 3) and not grey:
            source = _eight_bit_image(source, shape)
    elif not isinstance(source, Image.Image):
        raise DataError(
            f"{type(source).__name__} is not an image; give a path, a Pillow image, an array "
            f"(height, width, {channels}) or a tensor ({channels}, height, width). For several "
            "images: learn.iter_preds(images)."
        )
    try:
        if not isinstance(source, Image.Image):
            return array_picture(source, channels)
        source.load()
        if not source.width * source.height:
            raise ValueError("it has no pixels")
        return with_channels(source, channels)
    except (ValueError, OSError) as error:  # also of a closed or truncated image
        raise DataError(f"The image cannot be used: {error}.") from error


def _eight_bit_image(array: Array, shape: tuple[int, ...]) -> Image.Image:
    layers = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or not 1 <= layers <= 4 or not array.size:
        raise DataError(
            f"Shape {shape} is not one image; expected an array (height, width, 3) or a tensor "
            "(3, height, width)."
        )
    if array.ndim == 3 and layers == 1:
        array = array[..., 0]
    if array.dtype.kind not in "buif":
        raise DataError(f"Pixels of type {array.dtype}: expected uint8, or fractions from 0 to 1.")
    if array.dtype != np.uint8:
        low, high = float(array.min()), float(array.max())
        if not (np.issubdtype(array.dtype, np.floating) and low >= 0 and high <= 1):  # not of NaN
            raise DataError(
                f"Pixels of type {array.dtype} from {low:.4g} to {high:.4g}: expected uint8, or "
                "fractions from 0 to 1. Do not normalise them; the data loaders do that."
            )
        array = np.round(array * 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(array))
