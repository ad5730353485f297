"""Images, arrays and tensors, made into one another; none of it at random."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from layergroups.data.images import Array, Picture, array_picture, with_channels
from layergroups.errors import DataError

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


def picture_of_tensor(tensor: torch.Tensor, channels: int, *, strict: bool = True) -> Picture:
    """A tensor (H, W) or (C, H, W) as a picture; if strict, RGB is uint8 or from 0 to 1."""
    array = tensor.detach().cpu().numpy()
    array = array if array.ndim == 2 else np.moveaxis(array, 0, -1)
    return picture_of_array(array, tensor.shape, channels, strict=strict)


def picture_of_array(
    array: Array, shape: Sequence[int], channels: int, *, strict: bool = True
) -> Picture:
    """An array (H, W) or (H, W, C) as a picture with its channels."""
    if not strict or channels not in (1, 3) or (channels == 1 and array.dtype != np.uint8):
        return fitting(array, channels)
    if array.ndim not in (2, 3) or (array.ndim == 3 and not 1 <= array.shape[-1] <= 4):
        raise DataError(
            f"Shape {tuple(shape)} is not one image; expected an array (height, width, 3) or a "
            "tensor (3, height, width)."
        )
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.dtype != np.uint8:
        low, high = float(array.min(initial=0)), float(array.max(initial=0))
        if not np.issubdtype(array.dtype, np.floating) or low < 0 or high > 1:
            raise DataError(
                f"Pixels of type {array.dtype} from {low:.4g} to {high:.4g}: expected uint8, or "
                "fractions from 0 to 1. Do not normalise them; that is done with the statistics "
                "of the weights."
            )
        array = np.round(array * 255).astype(np.uint8)
    return fitting(Image.fromarray(np.ascontiguousarray(array)), channels)


def fitting(image: Picture, channels: int) -> Picture:
    """An image with its channels.

    Raises:
        DataError: it has others.
    """
    try:
        if isinstance(image, Image.Image):
            return with_channels(image, channels)
        return array_picture(image, channels)
    except ValueError as error:
        raise DataError(f"The image does not fit: {error}.") from error
