"""Masks: how their pixels become classes, which image each belongs to, and what is in them."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image, ImageColor, ImageSequence

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
from layergroups.tasks import IGNORED, TASKS, MaskFile, Task

_LOG = logging.getLogger("layergroups")
Colour = int | tuple[int, int, int]
Classes = str | os.PathLike[str] | Sequence[str] | Mapping[str, Any]
_SAMPLE: Final = 20  # masks whose values tell the classes
_USUAL_VOID: Final = 255  # in Pascal VOC, Cityscapes and most tools
_MENTIONED: Final = 5
_RGB: Final = r"\d+[\s,]+\d+[\s,]+\d+"
_COLOUR_LAST: Final = re.compile(rf"(.+?)[\s,=:]+(#[0-9a-fA-F]{{6}}|{_RGB})")
_COLOUR_FIRST: Final = re.compile(rf"({_RGB})[\s,]+(.+)")
_VALUE_FIRST: Final = re.compile(r"(\d+)[\s,:=]+(.*[^\W\d].*)")
_COMMENT: Final = re.compile(r"\s*(#\s|//)")
_HEADING: Final = re.compile(r"(name|class)[\s,]+r[\s,]+g[\s,]+b", re.IGNORECASE)
_TASK: Final = {False: "segmentation", True: "multilabel_segmentation"}  # whether labels overlap


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
            raise DataError(f"has {self._named(np.unique(odd))}, which no class has{_lossy(paths)}")
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
            sides = (_sides(layer.shape) for layer in layers if layer is not None)
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
                f"is{_lossy(paths)}"
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


def _lossy(paths: Sequence[str]) -> str:
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


def class_names(classes: Classes, least: int = 2) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Names, and the value or colour of each, of a list, a file of names, or a dict."""
    if isinstance(classes, str | os.PathLike):
        try:
            lines = Path(classes).expanduser().read_text("utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as cause:
            raise DataError(
                f"classes={str(classes)!r} cannot be read ({cause}): expected a text file with the "
                'name of a class in each line, or a list, classes=["background", "cell"].'
            ) from cause
        classes = [line.strip() for line in lines if line.strip()]
    if not isinstance(classes, Sequence | Mapping):
        raise DataError(
            f'classes={classes!r:.80}: expected a list of names, classes=["background", "cell"], a '
            "text file with a name in each line, or a dict of values or colours."
        )
    if not isinstance(classes, Mapping):
        classes = _with_colours([str(name) for name in classes])
    names = tuple(map(str, classes))
    if len(names) < least or len(set(names)) < len(names):
        expected = "two different names, the background too" if least > 1 else "one, all different"
        raise DataError(f"classes={list(names)}: expected at least {expected}.")
    if not isinstance(classes, Mapping):
        return names, tuple(range(len(names)))
    values = tuple(_value_of(name, value) for name, value in classes.items())
    if len({type(value) for value in values}) > 1 or len(set(values)) < len(values):
        raise DataError(
            f"classes={dict(classes)}: expected a different value for each class, such as 255, or "
            "a different colour for each, such as (128, 64, 128)."
        )
    return names, values


def _with_colours(lines: list[str]) -> list[str] | dict[str, Any]:
    """Names; or the value of each, if all lines are as "7 road" or "7: road".

    Or the colour of each, if lines are as "road #804080" or "128 64 128 road".
    """
    lines = [line for line in lines if not _COMMENT.match(line)]
    if lines and _HEADING.fullmatch(lines[0]):
        lines = lines[1:]
    found: list[tuple[str, str]] = []
    for line in lines:
        if last := _COLOUR_LAST.fullmatch(line):
            found.append((last[1], last[2]))
        elif first := _COLOUR_FIRST.fullmatch(line):
            found.append((first[2], first[1]))
    if not found:
        numbered = [match for line in lines if (match := _VALUE_FIRST.fullmatch(line))]
        values = {match[2]: int(match[1]) for match in numbered}
        return values if len(set(values.values())) == len(lines) > 0 else lines
    if len(found) < len(lines):
        raise DataError(
            f"classes: {len(found)} of {len(lines)} lines have a colour, such as {lines[0]!r}; "
            'expected one for each: "road #804080", "road 128 64 128" or "128 64 128 road". If '
            f"these numbers belong to the names, give a dict with values: {{{lines[0]!r}: 0, ...}}."
        )
    if twice := [name for name, n in Counter(name for name, _ in found).items() if n > 1]:
        raise DataError(f"classes: {names_of(twice)} has several colours; expected one for each.")
    return {n: c if c[0] == "#" else [int(v) for v in re.findall(r"\d+", c)] for n, c in found}


def _value_of(name: str, value: Any) -> Colour:
    """A value, or a colour as numbers or as text."""
    try:
        found = ImageColor.getrgb(value) if isinstance(value, str) else value
        if not isinstance(found, tuple | list):
            return int(found)
        red, green, blue = map(int, found)
        if not 0 <= min(red, green, blue) <= max(red, green, blue) <= 255:
            raise ValueError("a part of a colour is from 0 to 255")
        return red, green, blue
    except (TypeError, ValueError) as cause:
        raise DataError(
            f"classes: {name!r} is {value!r:.80}; expected a value such as 255, or a colour, "
            '(128, 64, 128) or "#804080".'
        ) from cause


def reader_of(
    classes: Classes | None, ignore: Any, sample: Sequence[str], items: Items | None = None
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
                'dict with the value or the colour of each, classes={"road": (128, 64, 128), ...}'
                f"{_lossy(sample)}."
            )
        classes = {"background": 0, "foreground": max(seen | {1})}
    names, values = class_names(classes)
    by_colour = isinstance(values[0], tuple)
    listed = [] if ignore is None else ignore if isinstance(ignore, list) else [ignore]
    named = {str(each) for each in listed} & set(names)
    ignored = [v for n, v in zip(names, values, strict=True) if n in named]
    ignored += [
        _value_of("ignore", each) if isinstance(each, str) and each[:1] == "#" else each
        for each in listed
        if str(each) not in named
    ]
    if unknown := [each for each in ignored if not isinstance(each, tuple if by_colour else int)]:
        expected = "a colour such as (0, 0, 0)" if by_colour else "a value such as 255"
        raise DataError(
            f"ignore={unknown[0]!r} is neither a class ({names_of(names)}) nor {expected}."
        )
    if _USUAL_VOID not in values and not by_colour:
        ignored.append(_USUAL_VOID)
    left = [(n, v) for n, v in zip(names, values, strict=True) if v not in ignored]
    if len(left) < 2:
        raise DataError(
            f"ignore={ignore!r} leaves {names_of(n for n, _ in left) or 'no class'} of "
            f"{names_of(names)}: expected two classes or more that count."
        )
    return tuple(n for n, _ in left), MaskReader(
        tuple(v for _, v in left), tuple(dict.fromkeys(ignored)), items
    )


def layer_reader_of(
    classes: Classes | None, ignore: Any, items: Items | None = None
) -> tuple[tuple[str, ...], LayerReader]:
    """Names of labels that may overlap, and how their masks are read."""
    if classes is None or isinstance(classes, Mapping):
        raise DataError(
            f"classes={classes!r}: for masks that overlap give the names of the labels in the "
            'order of their layers, classes=["road", "lane"].'
        )
    names, _ = class_names(classes, least=1)
    listed = [] if ignore is None else ignore if isinstance(ignore, list) else [ignore]
    if unknown := [each for each in listed if not isinstance(each, int) or each in (0, 1)]:
        raise DataError(
            f"ignore={unknown[0]!r}: in masks that overlap it is the value of pixels that do not "
            "count for the label of their layer, such as 128; 0 and 1 are its own values."
        )
    return names, LayerReader(names, tuple(listed), items)


def _values(masks: Iterable[str], items: Items | None) -> set[int]:
    """The values of the first masks, and of more while these have no other value than 0.

    Masks that cannot be read are left out here: the check of all files names them.
    """
    found: set[int] = set()
    for number, path in enumerate(masks):
        if number >= _SAMPLE and found - {0}:
            break
        try:
            array = mask_array(items.label_of(path)) if items else read_mask(path, colours=False)
        except (DataError, OSError, ValueError):
            continue
        found.update(np.unique(array).tolist())
    return found


def read_masked(
    images: Sequence[str],
    masks: Sequence[Sequence[str]],
    settings: Settings,
    *,
    classes: Classes | None,
    ignore: Any,
    overlapping: bool = False,
    is_valid: Sequence[bool] | None = None,
    items: Items | None = None,
) -> Split:
    """Images with their masks, checked and divided; broken ones are errors, or left out."""
    if items is None and settings.on_error == "raise":
        check_files(masks)
    reader: Reader
    if overlapping:
        names, reader = layer_reader_of(classes, ignore, items)
    else:
        names, reader = reader_of(classes, ignore, [paths[0] for paths in masks], items)
    sound: Sequence[int] = range(len(images))
    broken: tuple[BrokenImage, ...] = ()
    if items is None:
        sound, broken = sound_positions(images, settings)
    found, faults = mask_files(reader, images, masks, sound, settings.n_channels, settings.on_error)
    kept = list(found)
    samples = Samples(
        tuple(images[i] for i in kept), tuple(found.values()), TASKS[_TASK[overlapping]],
        len(names), items, reader,
    )  # fmt: skip
    if is_valid is None:
        whole = (settings.valid_pct, settings.seed)
        made = divided(samples, names, *whole, source="The set", broken=(*broken, *faults))
    else:
        made = marked(samples, names, [is_valid[i] for i in kept], (*broken, *faults))
    seen = {place for label in made.train.labels or () for place in label.classes}  # type: ignore[union-attr] # a MaskFile
    if overlapping and not seen:
        raise DataError("No pixel of the training masks has a label: there is nothing to learn.")
    if len(seen) < 2 and not overlapping:
        only = names_of(names[place] for place in seen) if seen else "none of the classes"
        raise DataError(
            f"All pixels of the training masks are of {only}, so there is nothing to learn (255 is "
            "ignored unless a class has it). Give the values of the classes: "
            "classes={'background': 0, 'cell': 255}."
        )
    _warn_of_absent(made, chosen=is_valid is None)
    return made


def _warn_of_absent(made: Split, *, chosen: bool) -> None:
    """Log which classes no training mask has, and which no validation mask of the user has."""
    each = zip(
        made.vocab, *(p.counts(len(made.vocab)) for p in (made.train, made.valid)), strict=True
    )
    counts = list(each)
    if unlearned := [name for name, train, _ in counts if not train]:
        _LOG.warning("No training mask has %s, so it cannot be learned.", names_of(unlearned))
    unmeasured = [name for name, train, valid in counts if train and not valid]
    if unmeasured and not chosen:  # else the split says so
        _LOG.warning("No validation mask has %s, so it is not measured.", names_of(unmeasured))


def masked_samples(
    reader: Reader, images: Sequence[str], masks: Iterable[Any], task: Task, settings: Settings
) -> Samples:
    """Other images with their masks, checked; broken ones are errors, or left out."""
    found = paths_of_masks(masks, isinstance(reader, LayerReader))
    if len(images) != len(found):
        raise DataError(f"{len(images)} images, but {len(found)} masks; expected one for each.")
    if settings.on_error == "raise":
        check_files(found)
    own, channels = replace(reader, items=None), settings.n_channels
    sound, _ = sound_positions(images, settings)
    labels, _ = mask_files(own, images, found, sound, channels, settings.on_error)
    files = tuple(images[i] for i in labels)
    return Samples(files, tuple(labels.values()), task, len(own.classes), masks=own)


def check_files(masks: Sequence[Sequence[str]]) -> None:
    """Check that the files of all masks exist."""
    every = [path for paths in masks for path in paths if path]
    if absent := [path for path in every if not os.path.isfile(path)]:
        raise DataError(
            f"{count(len(absent), 'mask')} of {len(every)} do not exist: "
            f"{first_few(absent, _MENTIONED)}."
        )


def paths_of_masks(masks: Iterable[Any], overlapping: bool) -> list[tuple[str, ...]]:
    """The files of each mask: one; of labels that may overlap one, or one for each, "" for none."""
    made = []
    for mask in _listed(masks):
        each = [mask] if isinstance(mask, str | os.PathLike) else mask
        several = isinstance(each, tuple | list) and (overlapping or len(each) == 1)
        if not isinstance(mask, str | os.PathLike) and not several:
            raise DataError(
                f"{mask!r:.80} is not the path of a mask. A path for each label of an image, or "
                "None where it has none, needs overlapping=True."
            )
        if odd := [p for p in each if not isinstance(p, str | os.PathLike | None)]:
            raise DataError(f"{odd[0]!r:.80} is neither the path of a mask nor None.")
        made.append(tuple(os.path.expanduser(path or "") for path in each))
    return made


def _listed(masks: Any) -> list[Any]:
    if isinstance(masks, str | bytes | os.PathLike) or not isinstance(masks, Iterable):
        raise DataError(f"masks={masks!r:.80}: expected a list, with an entry for each image.")
    return list(masks)


def mask_files(
    reader: Reader,
    images: Sequence[str],
    masks: Sequence[Sequence[str]],
    positions: Sequence[int],
    channels: int,
    on_error: OnError,
) -> tuple[dict[int, MaskFile], tuple[BrokenImage, ...]]:
    """The masks at these positions, each read once, and those that are broken."""
    check = _Check(reader, images, masks, channels)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        found = dict(zip(positions, pool.map(check, positions), strict=True))
    faults = tuple(fault for fault in found.values() if isinstance(fault, BrokenImage))
    report_broken(faults, on_error, masks=True)
    if len(faults) == len(found):
        raise DataError(f"No mask can be used: {faults[0]}.")
    return {i: f for i, f in found.items() if isinstance(f, MaskFile)}, faults


@dataclass(frozen=True)
class _Check:
    """How many pixels of each class the mask at a position has, or what is wrong with it."""

    reader: Reader
    images: Sequence[str]
    masks: Sequence[Sequence[str]]
    channels: int

    def __call__(self, position: int) -> MaskFile | BrokenImage:
        paths = tuple(self.masks[position])
        fault, made = self._checked(paths, position)
        if made is not None:
            return made
        for i in range(len(paths) if len(paths) > 1 else 0):  # which file of which label it is
            alone = tuple(path if j == i else "" for j, path in enumerate(paths))
            own, sound = self._checked(alone, position)
            if sound is None:
                return BrokenImage(Path(paths[i]), own)
        names = [path for path in paths if path] or [self.images[position]]
        return BrokenImage(Path(" + ".join(names)), fault)

    def _checked(self, paths: tuple[str, ...], position: int) -> tuple[str, MaskFile | None]:
        if not any(paths) and isinstance(self.reader, MaskReader):
            return "has no mask", None
        expected = (1, 1)
        try:
            mask = self.reader.open(paths)
            if any(paths):
                expected = self._size(position)
            if tuple(mask.shape[-2:]) != expected:
                raise DataError(
                    f"is {_sides(mask.shape[-2:])}, but its image {self.images[position]} is "
                    f"{_sides(expected)} (height x width)"
                )
        except Exception as error:
            reason = str(error) if isinstance(error, DataError) else reason_of(error, paths[0])
            return reason.rstrip("."), None
        return "", MaskFile(paths, self.reader.counts(mask), expected[0] * expected[1])

    def _size(self, position: int) -> Size:
        image = self.images[position]
        if self.reader.items is not None:
            return height_and_width(self.reader.items.open(image, channels=self.channels))
        known = size_of_image(image, self.channels)
        return known or height_and_width(open_picture(image, channels=self.channels))


def _sides(shape: Sequence[int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def paired(
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    suffix: str,
    channels: int,
    on_error: OnError = "raise",
) -> tuple[list[str], list[str], list[bool] | None]:
    """Images and masks of the same names below two folders, and which are for validation.

    With `on_error="skip"` an image without a mask has "".
    """
    roots = [
        path_of(each, DataError, 'from_folders("images", "masks")').expanduser()
        for each in (images, masks)
    ]
    for name, root in zip(("images", "masks"), roots, strict=True):
        if not root.is_dir():
            raise DataError(f"{name}: there is no folder {root}.")
    pictures = _by_name(find_images(roots[0], channels), roots[0])
    found = _by_name(find_images(roots[1], 1), roots[1])
    if not pictures:
        raise DataError(f"{roots[0]} has no images, nor have its sub-folders.")
    missing = [path for key, path in pictures.items() if key + suffix not in found]
    if missing and (on_error == "raise" or len(missing) == len(pictures)):
        raise DataError(
            f"{len(missing)} of {len(pictures)} images have no mask in {roots[1]}: "
            f"{first_few(missing, _MENTIONED)}. Expected the same names, such as "
            f"{_key(missing[0], roots[0])}{suffix}.png{_hint(missing, roots, found, suffix)}."
        )
    if spare := [path for key, path in found.items() if key.removesuffix(suffix) not in pictures]:
        _LOG.warning(
            "%s in %s %s no image: %s.", count(len(spare), "mask"), roots[1],
            "has" if len(spare) == 1 else "have", first_few(spare, _MENTIONED),
        )  # fmt: skip
    parts = [Path(key).parts[0] if "/" in key else "" for key in pictures]
    is_valid = [part == "valid" for part in parts] if set(parts) == {"train", "valid"} else None
    return list(pictures.values()), [found.get(key + suffix, "") for key in pictures], is_valid


def _by_name(paths: Sequence[str], root: Path) -> dict[str, str]:
    """Files by their names without endings, which must differ."""
    found: dict[str, str] = {}
    for path in paths:
        first = found.setdefault(_key(path, root), path)
        if first != path:
            raise DataError(
                f"{first} and {path} have the same name, so it is not clear which one to use: "
                "remove one, or give pairs: SegmentationDataLoaders.from_lists(images, masks)."
            )
    return found


def paired_by_label(
    images: str | os.PathLike[str],
    masks: str | os.PathLike[str],
    suffix: str,
    channels: int,
    classes: Classes | None,
) -> tuple[list[str], list[tuple[str, ...]], list[bool] | None, Classes | None]:
    """As `paired` for labels that may overlap, and their names.

    The files are in one sub-folder of masks for each label, or each holds the layers of all.
    """
    root = path_of(masks, DataError, 'from_folders("images", "masks")').expanduser()
    below = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
    if classes is None:
        classes = sorted(below - {"train", "valid"}) or None
    names = () if classes is None else class_names(classes, least=1)[0]
    if not below & set(names):
        files, found, parts = paired(images, masks, suffix, channels)
        return files, [(path,) for path in found], parts, classes
    if lacking := [name for name in names if name not in below]:
        raise DataError(
            f"{root} has folders of {names_of(sorted(below & set(names)))}, but none of "
            f"{names_of(lacking)}. Expected a folder of masks for each label, or none at all."
        )
    each = [paired(images, root / name, suffix, channels) for name in names]
    return each[0][0], list(zip(*(found for _, found, _ in each), strict=True)), each[0][2], names


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


def masks_by(
    function: Callable[[Path], Any], images: Sequence[str], overlapping: bool
) -> list[tuple[str, ...]]:
    """The mask of each image, by a function of its path."""
    made = [function(Path(image)) for image in images]
    known = (str, os.PathLike, *((list, tuple) if overlapping else ()))
    odd = [i for i, mask in enumerate(made) if not isinstance(mask, known)]
    if odd:
        raise DataError(
            f"The function of masks gave {made[odd[0]]!r:.80} for {images[odd[0]]}: expected the "
            "path of its mask, such as lambda path: masks / f'{path.stem}.png'."
        )
    return paths_of_masks(made, overlapping)
