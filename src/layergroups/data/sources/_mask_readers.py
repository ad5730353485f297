"""How the pixels of a mask become classes: one for each pixel, or a layer for each label."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageSequence

from layergroups._formatting import count, first_few
from layergroups.data._samples import names_of
from layergroups.data.image import Array, quiet, refuse_pipe
from layergroups.data.sources._datasets import Items
from layergroups.errors import DataError
from layergroups.tasks import IGNORED

Colour = int | tuple[int, int, int]
_MENTIONED: Final = 5


@dataclass(frozen=True)
class MaskReader:
    """How masks are read: the value or the colour of each class.

    Attributes:
        classes: value (0 to 65535) or colour (red, green, blue) of each class.
        ignored: values or colours of pixels that count nowhere.
        items: opens masks that are items of a dataset and not files.
    """

    classes: tuple[Colour, ...]
    ignored: tuple[Colour, ...] = ()
    items: Items | None = field(default=None, compare=False, repr=False)

    def open(self, paths: Sequence[str]) -> torch.Tensor:
        """The class of every pixel, int16 (H, W), -100 where it is ignored; `DataError` if none."""
        codes = self._codes(self._pixels(paths[0]))
        known = {_code(value): IGNORED for value in self.ignored}
        known |= {_code(value): place for place, value in enumerate(self.classes)}
        values = np.array(sorted(known))
        places = np.array([known[value] for value in values.tolist()], np.int16)
        nearest = np.searchsorted(values, codes).clip(max=len(values) - 1)
        if (odd := codes[values[nearest] != codes]).size:
            raise DataError(f"has {self._named(np.unique(odd))}, which no class has{lossy(paths)}")
        return torch.from_numpy(places[nearest])

    def counts(self, mask: torch.Tensor) -> tuple[int, ...]:
        """How many pixels of each class a mask of `open` has."""
        known = mask[mask >= 0].flatten()
        return tuple(torch.bincount(known, minlength=len(self.classes)).tolist())

    def to_config(self) -> dict[str, Any]:
        """All of it but items as JSON-ready values."""
        return {"classes": list(self.classes), "ignored": list(self.ignored)}

    @property
    def by_colour(self) -> bool:
        """Whether classes are colours."""
        return isinstance(self.classes[0], tuple)

    def _pixels(self, path: str) -> Array:
        if self.items is not None:
            return mask_array(self.items.label_of(path), colours=self.by_colour)
        return read_mask(path, colours=self.by_colour)

    def _codes(self, pixels: Array) -> Array:
        """A whole number for every pixel, (H, W)."""
        if not self.by_colour:
            if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
                pixels = pixels[..., 0]
            if pixels.ndim != 2:
                raise DataError("has colours: give classes={'road': (128, 64, 128), ...}")
            return pixels.astype(np.int64)
        if pixels.ndim == 2:
            pixels = np.repeat(pixels[..., None], 3, -1)
        red, green, blue = (pixels[..., i].astype(np.int64) for i in range(3))
        return (red << 16) + (green << 8) + blue

    def _named(self, codes: Array) -> str:
        if self.by_colour:
            colours = (str((c >> 16, c >> 8 & 255, c & 255)) for c in codes.tolist())
            return _counted("colour", colours)
        return _counted("value", map(str, codes.tolist()))


@dataclass(frozen=True)
class LayerReader:
    """How masks of labels that may overlap are read: a layer of 0 and 1, or 255, for each label.

    Attributes:
        classes: names of the labels.
        ignored: values of pixels that do not count for the label of their layer.
        items: as in `MaskReader`.
    """

    classes: tuple[str, ...]
    ignored: tuple[int, ...] = ()
    items: Items | None = field(default=None, compare=False, repr=False)

    def open(self, paths: Sequence[str]) -> torch.Tensor:
        """Whether each pixel has each label, int8 (C, H, W), -100 where it is ignored.

        (C, 1, 1) if there is no file of any label.
        """
        layers = [None if layer is None else _flat(layer) for layer in self._layers(paths)]
        shapes = {layer.shape for layer in layers if layer is not None} or {(1, 1)}
        if len(shapes) > 1:
            sides = (sides(layer.shape) for layer in layers if layer is not None)
            raise DataError(f"has layers of different sizes: {', '.join(sides)} (height x width)")
        (shape,) = shapes
        made = np.zeros((len(layers), *shape), np.int8)
        for place, layer in enumerate(layers):
            if layer is not None:
                made[place] = self._marked(layer, self.classes[place], paths)
        return torch.from_numpy(made)

    def counts(self, mask: torch.Tensor) -> tuple[int, ...]:
        """How many pixels of each label a mask of `open` has."""
        return tuple((mask > 0).sum((1, 2)).tolist())

    def to_config(self) -> dict[str, Any]:
        """All of it but items as JSON-ready values."""
        return {"classes": list(self.classes), "ignored": list(self.ignored), "overlapping": True}

    def _layers(self, paths: Sequence[str]) -> list[Array | None]:
        """A layer for each label; None where it has no file, so that no pixel has it."""
        given: Any = paths if self.items is None else self.items.label_of(paths[0])
        parts = given
        if not isinstance(given, tuple | list) or len(given) == 1:
            whole = given[0] if isinstance(given, tuple | list) else given
            parts = [None]
            if whole is not None and not (isinstance(whole, str) and not whole):
                is_file = isinstance(whole, str | os.PathLike)
                parts = _divided(read_layers(whole) if is_file else whole, len(self.classes))
        if len(parts) != len(self.classes):
            raise DataError(f"has {count(len(parts), 'layer')} for {self._expected}")
        return [
            None if part is None or (isinstance(part, str) and not part) else mask_array(part)
            for part in parts
        ]

    def _marked(self, layer: Array, name: str, paths: Sequence[str]) -> Array:
        values = set(np.unique(layer).tolist()) - set(self.ignored)
        if not (values <= {0, 1} or values <= {0, 255}):
            odd = _counted("value", map(str, sorted(values)))
            raise DataError(
                f"has {odd} for {name!r}, expected 0 where the label is not, and 1 or 255 where it "
                f"is{lossy(paths)}"
            )
        kept = np.where(np.isin(layer, self.ignored), IGNORED, layer > 0)
        return kept.astype(np.int8)

    @property
    def _expected(self) -> str:
        return f"{count(len(self.classes), 'label')} ({names_of(self.classes)})"


Reader = MaskReader | LayerReader


def values_of(reader: object) -> tuple[Colour, ...]:
    """Value or colour of each class; empty where each label has a mask of its own."""
    return reader.classes if isinstance(reader, MaskReader) else ()


def reader_from_config(config: Any) -> Reader:
    """The inverse of `to_config`."""
    try:
        classes, ignored = (tuple(map(_plain, config[name])) for name in ("classes", "ignored"))
        return (LayerReader if config.get("overlapping") else MaskReader)(classes, ignored)
    except (KeyError, TypeError, AttributeError) as cause:
        raise DataError(
            f"This does not describe masks: expected classes and ignored; got {config!r:.200}."
        ) from cause


def _plain(value: Any) -> Any:
    return tuple(map(int, value)) if isinstance(value, list) else value


def read_layers(path: str | os.PathLike[str]) -> Array:
    """The layers of a file: its pages (C, H, W), else its channels (H, W, C), else (H, W)."""
    path = os.fspath(path)
    refuse_pipe(path)
    if path.lower().endswith(".npy"):
        with open(path, "rb") as opened:
            return np.asarray(np.load(opened))
    with quiet(), Image.open(path) as image:
        pages = getattr(image, "n_frames", 1)
        if pages > 1:
            return np.stack(
                [_flat(mask_array(page.copy())) for page in ImageSequence.Iterator(image)]
            )
        image.load()
        return np.asarray(image)


def _divided(value: Any, n: int) -> Sequence[Array]:
    """The layers of (H, W, C), (C, H, W), or (H, W) for one label."""
    array: Array = value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
    if n == 1 or array.ndim == 2:
        return [mask_array(array)]
    if array.ndim != 3:
        raise DataError(f"has the shape {array.shape}, expected (height, width, labels)")
    last = array.shape[-1] == n or (array.shape[0] != n and array.shape[-1] <= array.shape[0])
    return list(np.moveaxis(array, -1, 0) if last else array)


def _flat(pixels: Array) -> Array:
    """A mask (H, W, 3) of equal channels as (H, W)."""
    if pixels.ndim == 3 and (pixels == pixels[..., :1]).all():
        return np.asarray(pixels[..., 0])
    if pixels.ndim != 2:
        raise DataError("has colours, expected 0 and 1, or 0 and 255")
    return pixels


def _counted(what: str, values: Iterable[str]) -> str:
    """As "the values 3, 4"."""
    found = list(values)
    return f"the {what}{'s' * (len(found) > 1)} {first_few(found, _MENTIONED)}"


def lossy(paths: Sequence[str]) -> str:
    """Why values are odd, where files are JPEG."""
    is_jpeg = any(path.lower().endswith((".jpg", ".jpeg")) for path in paths)
    return ": JPEG changes the values of pixels, so save masks as PNG" if is_jpeg else ""


def _code(value: Colour) -> int:
    if isinstance(value, int):
        return value
    return (value[0] << 16) + (value[1] << 8) + value[2]


def read_mask(path: str, *, colours: bool) -> Array:
    """The pixels of a mask file: (H, W), or (H, W, 3) for colours; palettes give positions."""
    refuse_pipe(path)
    if path.lower().endswith(".npy"):
        with open(path, "rb") as opened:
            return mask_array(np.load(opened))
    with quiet(), Image.open(path) as image:
        image.load()
        return mask_array(image, colours=colours)


def mask_array(mask: Any, *, colours: bool = False) -> Array:
    """A mask of a dataset as an array (H, W) of whole numbers, or (H, W, 3); as `read_mask`."""
    if isinstance(mask, str | os.PathLike):
        return read_mask(os.fspath(mask), colours=colours)
    if colours and isinstance(mask, Image.Image):
        return np.asarray(mask.convert("RGB"))
    if isinstance(mask, torch.Tensor):
        mask = mask.cpu().numpy()
    if isinstance(mask, Image.Image) and mask.mode in ("LA", "RGBA", "CMYK", "YCbCr"):
        mask = mask.convert("RGB")
    array: Array = np.asarray(mask)
    if array.dtype == bool:
        array = array.astype(np.uint8)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[-1]):
        array = array.squeeze(0 if array.shape[0] == 1 else -1)
    if array.dtype.kind not in "ui" or array.ndim not in (2, 3):
        raise DataError(f"has {array.dtype} of shape {array.shape}, expected whole numbers (H, W)")
    return array


def sides(shape: Sequence[int]) -> str:
    """Height and width, as "48 x 64"."""
    return f"{shape[0]} x {shape[1]}"
