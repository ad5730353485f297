"""Masks: how their pixels become classes, which image each belongs to, and what is in them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from layergroups._formatting import count, first_few
from layergroups._paths import path_of
from layergroups.data._samples import Samples, Split, divided, names_of
from layergroups.data.image import (
    Array,
    BrokenImage,
    OnError,
    Size,
    height_and_width,
    open_picture,
    quiet,
    reason_of,
    refuse_pipe,
    report_broken,
    size_of_image,
)
from layergroups.data.sources._datasets import Items
from layergroups.data.sources._folder import find_images
from layergroups.data.sources._lists import marked, sound_positions
from layergroups.data.sources._settings import Settings
from layergroups.errors import DataError
from layergroups.tasks import IGNORED, TASKS, MaskFile

Colour = int | tuple[int, int, int]
Classes = str | os.PathLike[str] | Sequence[str] | Mapping[str, Any]
_USUAL_VOID: Final = 255  # in Pascal VOC, Cityscapes and most tools
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

    def open(self, path: str) -> torch.Tensor:
        """The class of every pixel, int16 (H, W), -100 where it is ignored; `DataError` if none."""
        codes = self._codes(self._pixels(path))
        known = {_code(value): IGNORED for value in self.ignored}
        known |= {_code(value): place for place, value in enumerate(self.classes)}
        values = np.array(sorted(known))
        places = np.array([known[value] for value in values.tolist()], np.int16)
        nearest = np.searchsorted(values, codes).clip(max=len(values) - 1)
        if (odd := codes[values[nearest] != codes]).size:
            raise DataError(f"has {self._named(np.unique(odd))}, which no class has")
        return torch.from_numpy(places[nearest])

    @property
    def by_colour(self) -> bool:
        """Whether classes are colours."""
        return isinstance(self.classes[0], tuple)

    def _pixels(self, path: str) -> Array:
        if self.items is not None:
            return mask_array(self.items.label_of(path))
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
            return "the colours " + first_few(
                (str((c >> 16, c >> 8 & 255, c & 255)) for c in codes.tolist()), _MENTIONED
            )
        return f"the values {first_few(map(str, codes.tolist()), _MENTIONED)}"


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
        if colours:
            return np.asarray(image.convert("RGB"))
        return mask_array(image)


def mask_array(mask: Any) -> Array:
    """A mask of a dataset as an array (H, W) of whole numbers, or (H, W, 3)."""
    if isinstance(mask, str | os.PathLike):
        return read_mask(os.fspath(mask), colours=False)
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


def class_names(classes: Classes) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names, and the value or colour of each, of a list, a file of names, or a dict."""
    if isinstance(classes, str | os.PathLike):
        try:
            lines = Path(classes).expanduser().read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as cause:
            raise DataError(
                f"classes={str(classes)!r} cannot be read ({cause}): expected a text file with the "
                'name of a class in each line, or a list, classes=["background", "cell"].'
            ) from cause
        classes = [line.strip() for line in lines if line.strip()]
    names = tuple(map(str, classes))
    if len(names) < 2 or len(set(names)) < len(names):
        raise DataError(
            f"classes={list(names)}: expected at least two different names, the background too."
        )
    if not isinstance(classes, Mapping):
        return names, tuple(range(len(names)))
    values = tuple(
        tuple(map(int, value)) if isinstance(value, tuple | list) else int(value)
        for value in classes.values()
    )
    if len({type(value) for value in values}) > 1 or len(set(values)) < len(values):
        raise DataError(
            f"classes={dict(classes)}: expected a different value for each class, such as 255, or "
            "a different colour for each, such as (128, 64, 128)."
        )
    return names, values  # type: ignore[return-value] # of three numbers each


def reader_of(
    classes: Classes | None, ignore: Any, sample: Iterable[str], items: Items | None = None
) -> tuple[tuple[str, ...], MaskReader]:
    """Names of the classes, and how the masks are read.

    Without classes, masks of 0 and 255 have the classes background and foreground. A class that is
    ignored by its name has no output.
    """
    if classes is None:
        seen = _values(sample, items)
        if not seen <= {0, 1} and not seen <= {0, 255}:
            raise DataError(
                f"The masks have the values {first_few(map(str, sorted(seen)), 10)}: give the "
                'names of their classes, classes=["background", "road", ...] for 0, 1, ..., or a '
                'dict with the value or the colour of each, classes={"road": (128, 64, 128), ...}.'
            )
        classes = {"background": 0, "foreground": max(seen | {1})}
    names, values = class_names(classes)
    listed = [] if ignore is None else ignore if isinstance(ignore, list) else [ignore]
    named = {str(each) for each in listed} & set(names)
    ignored = [v for n, v in zip(names, values, strict=True) if n in named]
    ignored += [each for each in listed if str(each) not in named]
    if unknown := [each for each in ignored if not isinstance(each, int | tuple)]:
        raise DataError(
            f"ignore={unknown[0]!r} is neither a class ({names_of(names)}) nor a value such as 255."
        )
    if _USUAL_VOID not in values and not isinstance(values[0], tuple):
        ignored.append(_USUAL_VOID)
    left = [(n, v) for n, v in zip(names, values, strict=True) if v not in ignored]
    return tuple(n for n, _ in left), MaskReader(
        tuple(v for _, v in left), tuple(dict.fromkeys(ignored)), items
    )


def _values(sample: Iterable[str], items: Items | None) -> set[int]:
    found: set[int] = set()
    for path in sample:
        array = mask_array(items.label_of(path)) if items else read_mask(path, colours=False)
        found.update(np.unique(array).tolist())
    return found


def read_masked(
    images: Sequence[str],
    masks: Sequence[str],
    settings: Settings,
    *,
    classes: Classes | None,
    ignore: Any,
    is_valid: Sequence[bool] | None = None,
    items: Items | None = None,
) -> Split:
    """Images with their masks, checked and divided; broken ones are errors, or left out."""
    absent = [m for m in masks if items is None and not os.path.isfile(m)]
    if absent:
        raise DataError(
            f"{count(len(absent), 'mask')} of {len(masks)} do not exist: "
            f"{first_few(absent, _MENTIONED)}."
        )
    names, reader = reader_of(classes, ignore, masks[:20], items)
    sound: Sequence[int] = range(len(images))
    broken: tuple[BrokenImage, ...] = ()
    if items is None:
        sound, broken = sound_positions(images, settings)
    found, faults = mask_files(reader, images, masks, sound, settings.n_channels, settings.on_error)
    kept = list(found)
    samples = Samples(
        tuple(images[i] for i in kept), tuple(found.values()), TASKS["segmentation"], len(names),
        items, reader,
    )  # fmt: skip
    if is_valid is None:
        whole = (settings.valid_pct, settings.seed)
        made = divided(samples, names, *whole, source="The set", broken=(*broken, *faults))
    else:
        made = marked(samples, names, [is_valid[i] for i in kept], (*broken, *faults))
    seen = {place for label in made.train.labels or () for place in label.classes}  # type: ignore[union-attr] # a MaskFile
    if len(seen) < 2:
        only = names_of(names[place] for place in seen) if seen else "none of the classes"
        raise DataError(
            f"All pixels of the training masks are of {only}, so there is nothing to learn. Give "
            "the values of the classes: classes={'background': 0, 'cell': 255}."
        )
    return made


def mask_files(
    reader: MaskReader,
    images: Sequence[str],
    masks: Sequence[str],
    positions: Sequence[int],
    channels: int,
    on_error: OnError,
) -> tuple[dict[int, MaskFile], tuple[BrokenImage, ...]]:
    """The masks at these positions, each read once, and those that are broken."""
    check = _Check(reader, images, masks, channels)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(positions, pool.map(check, positions), strict=True))
    faults = tuple(fault for fault in found.values() if isinstance(fault, BrokenImage))
    report_broken(faults, on_error)
    return {i: f for i, f in found.items() if isinstance(f, MaskFile)}, faults


@dataclass(frozen=True)
class _Check:
    """How many pixels of each class the mask at a position has, or what is wrong with it."""

    reader: MaskReader
    images: Sequence[str]
    masks: Sequence[str]
    channels: int

    def __call__(self, position: int) -> MaskFile | BrokenImage:
        mask = self.masks[position]
        try:
            classes = self.reader.open(mask)
            expected = self._size(position)
            if tuple(classes.shape) != expected:
                raise DataError(
                    f"is {_sides(classes.shape)}, but its image {self.images[position]} is "
                    f"{_sides(expected)} (height x width)"
                )
        except Exception as error:
            reason = str(error) if isinstance(error, DataError) else reason_of(error, mask)
            return BrokenImage(Path(mask), reason.rstrip("."))
        known = classes[classes >= 0].flatten()
        counts = torch.bincount(known, minlength=len(self.reader.classes))
        return MaskFile(mask, tuple(counts.tolist()))

    def _size(self, position: int) -> Size:
        image = self.images[position]
        if self.reader.items is not None:
            return height_and_width(self.reader.items.open(image, channels=self.channels))
        known = size_of_image(image)
        return known or height_and_width(open_picture(image, channels=self.channels))


def _sides(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def paired(
    images: str | os.PathLike[str], masks: str | os.PathLike[str], suffix: str, channels: int
) -> tuple[list[str], list[str], list[bool] | None]:
    """Images and masks of the same names below two folders, and which are for validation."""
    roots = [
        path_of(each, DataError, 'from_folders("images", "masks")').expanduser()
        for each in (images, masks)
    ]
    for name, root in zip(("images", "masks"), roots, strict=True):
        if not root.is_dir():
            raise DataError(f"{name}: there is no folder {root}.")
    pictures = {_key(path, roots[0]): path for path in find_images(roots[0], channels)}
    found = {_key(path, roots[1]): path for path in find_images(roots[1], 1)}
    if not pictures:
        raise DataError(f"{roots[0]} has no images, nor have its sub-folders.")
    missing = [path for key, path in pictures.items() if key + suffix not in found]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(pictures)} images have no mask in {roots[1]}: "
            f"{first_few(missing, _MENTIONED)}. Expected the same names, such as "
            f"{_key(missing[0], roots[0])}{suffix}.png{_hint(missing, roots, found, suffix)}."
        )
    parts = [Path(key).parts[0] if "/" in key else "" for key in pictures]
    is_valid = [part == "valid" for part in parts] if set(parts) == {"train", "valid"} else None
    return list(pictures.values()), [found[key + suffix] for key in pictures], is_valid


def _key(path: str, root: Path) -> str:
    return os.path.splitext(Path(path).relative_to(root).as_posix())[0]


def _hint(missing: Sequence[str], roots: Sequence[Path], found: Iterable[str], suffix: str) -> str:
    """What all names of masks end with, if that is the difference."""
    keys = [_key(path, roots[0]) for path in missing]
    endings = Counter(
        other[len(key) :] for key in keys[:20] for other in found if other.startswith(key)
    )
    likely = [ending for ending, n in endings.items() if n == len(keys[:20]) and ending != suffix]
    return f"; perhaps suffix={likely[0]!r}" if likely else ""


def masks_by(function: Callable[[Path], Any], images: Sequence[str]) -> list[str]:
    """The mask of each image, by a function of its path."""
    made = [function(Path(image)) for image in images]
    odd = [i for i, mask in enumerate(made) if not isinstance(mask, str | os.PathLike)]
    if odd:
        raise DataError(
            f"The function of masks gave {made[odd[0]]!r:.80} for {images[odd[0]]}: expected the "
            "path of its mask, such as lambda path: masks / f'{path.stem}.png'."
        )
    return [os.path.expanduser(mask) for mask in made]
