"""Images with masks: which mask belongs to each image, and what is wrong with some of them."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from layergroups._formatting import count, first_few
from layergroups._paths import path_of
from layergroups.data._samples import Samples, Split, divided, names_of
from layergroups.data.image import (
    BrokenImage,
    OnError,
    Size,
    height_and_width,
    open_picture,
    reading_threads,
    reason_of,
    report_broken,
    size_of_image,
)
from layergroups.data.sources._datasets import Items
from layergroups.data.sources._folder import find_images
from layergroups.data.sources._lists import marked, sound_positions
from layergroups.data.sources._mask_classes import Classes, class_names, layer_reader_of, reader_of
from layergroups.data.sources._mask_readers import LayerReader, MaskReader, Reader, sides
from layergroups.data.sources._settings import Settings
from layergroups.errors import DataError
from layergroups.tasks import TASKS, MaskFile, Task

_LOG = logging.getLogger("layergroups")
_MENTIONED: Final = 5
_TASK: Final = {False: "segmentation", True: "multilabel_segmentation"}  # whether labels overlap


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
    with ThreadPoolExecutor(reading_threads()) as pool:
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
                    f"is {sides(mask.shape[-2:])}, but its image {self.images[position]} is "
                    f"{sides(expected)} (height x width)"
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
    on_error: OnError = "raise",
) -> tuple[list[str], list[tuple[str, ...]], list[bool] | None, Classes | None]:
    """As `paired` for labels that may overlap, and their names.

    The files are in one sub-folder of masks for each label, or each holds the layers of all. With
    `on_error="skip"` images without one of them are left out.
    """
    root = path_of(masks, DataError, 'from_folders("images", "masks")').expanduser()
    below = {path.name for path in root.iterdir() if path.is_dir()} if root.is_dir() else set()
    if classes is None:
        classes = sorted(below - {"train", "valid"}) or None
    names = () if classes is None else class_names(classes, least=1)[0]
    if not below & set(names):
        files, single, parts = paired(images, masks, suffix, channels, on_error)
        return *_complete(files, [(path,) for path in single], parts), classes
    if lacking := [name for name in names if name not in below]:
        raise DataError(
            f"{root} has folders of {names_of(sorted(below & set(names)))}, but none of "
            f"{names_of(lacking)}. Expected a folder of masks for each label, or none at all."
        )
    each = [paired(images, root / name, suffix, channels, on_error) for name in names]
    layers = list(zip(*(found for _, found, _ in each), strict=True))
    return *_complete(each[0][0], layers, each[0][2]), names


def _complete(
    images: list[str], masks: list[tuple[str, ...]], is_valid: list[bool] | None
) -> tuple[list[str], list[tuple[str, ...]], list[bool] | None]:
    """Those with all files: here "" is a file that is missing, later a label that is not there."""
    kept = [i for i, paths in enumerate(masks) if all(paths)]
    lacking = [path for path, paths in zip(images, masks, strict=True) if not all(paths)]
    if not kept:
        raise DataError("No image has the masks of all labels.")
    if lacking:
        report_broken([BrokenImage(Path(p), "has no mask") for p in lacking], "skip", masks=True)
    marks = None if is_valid is None else [is_valid[i] for i in kept]
    return [images[i] for i in kept], [masks[i] for i in kept], marks


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
