"""Small pictures as data URIs, with a bound on what they take together."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from layergroups.reports.as_seen import Pixels

THUMB: Final = 112  # pixels of the longer side
LARGE: Final = 208


class Budget:
    """Bytes that pictures may take together.

    Args:
        most: bytes of all data URIs.
    """

    def __init__(self, most: int) -> None:
        self.left = most

    @property
    def spent(self) -> bool:
        """Whether even a small picture would be too much."""
        return self.left < 2048

    def take(self, uri: str) -> str:
        """The picture, or nothing if it does not fit any more."""
        if len(uri) > self.left:
            self.left = 0
            return ""
        self.left -= len(uri)
        return uri


def jpeg_uri(image: Image.Image, side: int = THUMB, quality: int = 68) -> str:
    """A small JPEG of an image as a data URI.

    Args:
        image: of any mode.
        side: longest side, pixels; a smaller image stays as it is.
        quality: of the JPEG, 1..95.
    """
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    written = io.BytesIO()
    small.save(written, "JPEG", quality=quality, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"


def image_of(pixels: Pixels) -> Image.Image:
    """A picture of pixels (H, W, 3) from 0 to 1."""
    return Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))
