"""What images are like: counts, sizes, what is broken, what is there twice; facts for reports."""

from __future__ import annotations

import hashlib
import os
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields, is_dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from layergroups._formatting import Printable, count, first_few, memory, pairs, table
from layergroups.data._samples import Opener, Samples
from layergroups.data._source import DataFacts
from layergroups.data.image import (
    ARRAY_ENDINGS,
    BrokenImage,
    Size,
    height_and_width,
    progress,
    quiet,
    reading_threads,
    reason_of,
    refuse_pipe,
    size_of_image,
)
from layergroups.tasks import Task, readable


@dataclass(frozen=True)
class Quartiles:
    min: float
    median: float
    mean: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Quartiles | None:
        known = sorted(values)
        if not known:
            return None
        return cls(known[0], statistics.median(known), statistics.fmean(known), known[-1])


@dataclass(frozen=True)
class Target:
    """A class, a label or a number to predict, and how many images have it."""

    name: str
    train: int
    valid: int
    values: Quartiles | None = None  # of a number, over all images


@dataclass(frozen=True)
class Duplicates:
    """Files of the same content, byte for byte."""

    files: tuple[str, ...]
    both_parts: bool  # some are for training and some for validation, which measures too well
    labels_differ: bool


@dataclass(frozen=True)
class DataSummary(Printable):
    """What `dls.summary()` found; it prints as a table and turns into JSON."""

    task: Task
    train: int
    valid: int
    targets: tuple[Target, ...]  # the classes, labels or numbers, in the order of the vocabulary
    unlabelled: int  # images that have none of the labels, where there may be several
    width: Quartiles | None  # of the images in pixels, upright; None if none can be read
    height: Quartiles | None
    landscape: int  # images wider than high; `portrait`: higher than wide
    portrait: int
    square: int
    upscaled: int  # images that are smaller than what the network gets
    size: tuple[int, int]  # height and width that the network gets, in pixels
    # how many images there are of each kind, such as "JPEG, RGB"
    kinds: tuple[tuple[str, int], ...]
    file_bytes: Quartiles | None  # sizes of the files; None where images are items of a dataset
    total_bytes: int
    # images that were left out, or cannot be read any more, and why
    broken: tuple[BrokenImage, ...]
    duplicates: tuple[Duplicates, ...]  # files of the same content

    @property
    def imbalance(self) -> float | None:
        """Training images of the largest class for each one of the smallest; None for numbers."""
        counts = [target.train for target in self.targets]
        if not self.task.has_counts or not counts or min(counts) == 0:
            return None
        return max(counts) / min(counts)

    def to_dict(self) -> dict[str, Any]:
        broken = [{"path": str(image.path), "reason": image.reason} for image in self.broken]
        own = {"task": self.task.name, "broken": broken, "imbalance": self.imbalance}
        return asdict(self) | own

    def __rich__(self) -> RenderableType:
        return _summary_table(self)


@dataclass(frozen=True)
class _Seen:
    name: str
    width: int = 0
    height: int = 0
    kind: str = ""
    bytes: int = 0
    fault: str | None = None


def summarise(
    train: Samples,
    valid: Samples,
    vocab: Sequence[str],
    size: Size,
    channels: int,
    broken: Sequence[BrokenImage],
) -> DataSummary:
    """Inspect all images; see `ImageDataLoaders.summary`, whose fields the arguments are."""
    samples = (train, valid)
    seen = _inspect_all(samples, channels)
    sound = [image for image in seen if image.fault is None]
    later = [BrokenImage(Path(image.name), image.fault) for image in seen if image.fault]
    is_file = train.items is None
    return DataSummary(
        task=train.task,
        train=len(train),
        valid=len(valid),
        targets=_targets(train, valid, vocab),
        unlabelled=sum(label == () for part in samples for label in part.labels or ()),
        width=Quartiles.of(image.width for image in sound),
        height=Quartiles.of(image.height for image in sound),
        landscape=sum(image.width > image.height for image in sound),
        portrait=sum(image.width < image.height for image in sound),
        square=sum(image.width == image.height for image in sound),
        upscaled=sum(image.height < size[0] or image.width < size[1] for image in sound),
        size=size,
        kinds=tuple(Counter(image.kind for image in sound).most_common()),
        file_bytes=Quartiles.of(image.bytes for image in sound) if is_file else None,
        total_bytes=sum(image.bytes for image in sound),
        broken=(*broken, *later),
        duplicates=_duplicates(samples, {i.name: i.bytes for i in sound}) if is_file else (),
    )


def _inspect_all(parts: Sequence[Samples], channels: int) -> list[_Seen]:
    names = [name for samples in parts for name in dict.fromkeys(samples.files)]
    items = parts[0].items
    with (
        quiet(),
        progress(len(names)) as advance,
        ThreadPoolExecutor(reading_threads()) as pool,
    ):
        if items is None:
            seen: Iterable[_Seen] = pool.map(_inspect, names, repeat(channels), chunksize=64)
        else:
            seen = (_inspect_item(items, name, channels) for name in names)
        found = []
        for image in seen:
            found.append(image)
            advance(1)
    return found


def _inspect_item(items: Opener, name: str, channels: int) -> _Seen:
    try:
        picture = items.open(name, channels=channels)
    except Exception as error:  # of the dataset's own code: it becomes the reason
        return _Seen(name, fault=reason_of(error, name))
    height, width = height_and_width(picture)
    if isinstance(picture, Image.Image):
        return _Seen(name, width, height, picture.mode)
    return _Seen(name, width, height, f"{picture.shape[-1]} x {picture.dtype}")


def _inspect(file: str, channels: int) -> _Seen:
    """From the head of a file; its pixels are not decoded."""
    try:
        refuse_pipe(file)
        bytes_ = os.path.getsize(file)
        height, width = size_of_image(file, channels) or (0, 0)
        return _Seen(file, width, height, _kind(file, height * width), bytes_)
    except Exception as error:  # whatever Pillow's readers meet: it becomes the reason
        return _Seen(file, fault=reason_of(error, file))


def _kind(file: str, pixels: int) -> str:
    """Format and mode of an image file; channels and type of an array."""
    if Path(file).suffix.lower() in ARRAY_ENDINGS:
        array = np.load(file, mmap_mode="r")
        return f"NumPy, {array.size // pixels} x {array.dtype}"
    with Image.open(file) as image:
        return f"{image.format}, {image.mode}"


def _targets(train: Samples, valid: Samples, vocab: Sequence[str]) -> tuple[Target, ...]:
    if not train.task.has_counts:
        rows = [row for part in (train, valid) for row in part.labels or () if row != -1]
        columns = zip(*(row for row in rows if isinstance(row, tuple)), strict=True)
        return tuple(
            Target(name, len(train), len(valid), Quartiles.of(column))
            for name, column in zip(vocab, columns, strict=True)
        )
    counts = zip(vocab, train.counts(len(vocab)), valid.counts(len(vocab)), strict=True)
    return tuple(Target(*count) for count in counts)


def _duplicates(parts: Sequence[Samples], sizes: dict[str, int]) -> tuple[Duplicates, ...]:
    """Files of the same content; only files of the same size are read."""
    how_many = Counter(sizes.values())
    by_content: dict[tuple[int, str], list[str]] = {}
    for name, size in sizes.items():
        if how_many[size] > 1:
            by_content.setdefault((size, _digest(name)), []).append(name)
    where: dict[str, set[int]] = {}
    labels: dict[str, set[Any]] = {}
    for number, samples in enumerate(parts):
        for file, label in zip(samples.files, samples.labels or repeat(None), strict=False):
            where.setdefault(file, set()).add(number)
            labels.setdefault(file, set()).add(label)
    return tuple(
        Duplicates(
            tuple(sorted(names)),
            both_parts=len(set().union(*(where[name] for name in names))) > 1,
            labels_differ=len(set().union(*(labels[name] for name in names))) > 1,
        )
        for names in by_content.values()
        if len(names) > 1
    )


def _digest(file: str) -> str:
    try:
        with open(file, "rb") as opened:
            return hashlib.file_digest(opened, "blake2b").hexdigest()
    except OSError:
        return file  # gone meanwhile: equal to nothing


_TARGETS = 30  # classes, labels or numbers that the table shows
_LISTED = 10  # broken images and duplicates


def _summary_table(found: DataSummary) -> RenderableType:
    head = Text(f"{found.train} training and {found.valid} validation images", style="bold")
    return Group(head, Text(), _target_rows(found), Text(), _facts(found), *_faults(found))


def _target_rows(found: DataSummary) -> RenderableType:
    numbers = not found.task.has_counts
    headings = ("min", "median", "mean", "max") if numbers else ("train", "valid", "")
    most = max((target.train for target in found.targets), default=0) or 1
    rows = [(target.name, *_cells(target, most)) for target in found.targets[:_TARGETS]]
    shown = table((found.task.one, *headings), rows, left=("",), show_edge=False)
    more = len(found.targets) - _TARGETS
    if more <= 0:
        return shown
    fewest = min(target.train for target in found.targets[_TARGETS:])
    rest = f"and {more} more" if numbers else f"and {more} more, from {fewest} training images"
    return Group(shown, Text(rest))


def _cells(target: Target, most: int) -> tuple[str, ...]:
    if target.values is not None:
        v = target.values
        return tuple(f"{value:.4g}" for value in (v.min, v.median, v.mean, v.max))
    return str(target.train), str(target.valid), "█" * max(1, round(20 * target.train / most))


def _facts(found: DataSummary) -> Table:
    rows = [
        ("width", _pixels(found.width)),
        ("height", _pixels(found.height)),
        ("shape", f"{found.landscape} landscape, {found.portrait} portrait, {found.square} square"),
        ("kinds", ", ".join(f"{n} {kind}" for kind, n in found.kinds)),
        ("files", _files(found)),
    ]
    if not found.task.needs_label:
        rows.append(("no label", f"{found.unlabelled} images"))
    if found.imbalance is not None and found.imbalance >= 2:
        rows.append(("balance", f"the largest has {found.imbalance:.1f} times the smallest"))
    if found.upscaled:
        size = f"{found.size[0]} x {found.size[1]}"
        rows.append(("enlarged", f"{found.upscaled} are smaller than {size} pixels"))
    return pairs(rows, "dim")


def _files(found: DataSummary) -> str:
    if (of_file := found.file_bytes) is None:
        return "items of a dataset"
    low, median, high = map(memory, (of_file.min, of_file.median, of_file.max))
    return f"{low} to {high}, median {median}; {memory(found.total_bytes)} in all"


def _pixels(spread: Quartiles | None) -> str:
    if spread is None:
        return "unknown"
    if spread.min == spread.max:
        return f"{spread.min:g} pixels"
    return f"{spread.min:g} to {spread.max:g} pixels, median {spread.median:g}"


def _faults(found: DataSummary) -> list[RenderableType]:
    lines: list[str] = []
    if found.broken:
        lines += [f"{count(len(found.broken), 'broken image')}, left out:", *_listed(found.broken)]
    if found.duplicates:
        both = sum(copies.both_parts for copies in found.duplicates)
        differ = sum(copies.labels_differ for copies in found.duplicates)
        lines.append(
            f"{count(len(found.duplicates), 'image is', 'images are')} there more than once; "
            f"copies of {both} are in both parts, the labels of {differ} differ:"
        )
        lines += _listed(" = ".join(copies.files) for copies in found.duplicates)
    return [Text(), *(Text(line) for line in lines)] if lines else []


def _listed(things: Iterable[object]) -> list[str]:
    lines = [f"  {readable(str(thing))}" for thing in things]
    more = [f"  and {len(lines) - _LISTED} more"] if len(lines) > _LISTED else []
    return lines[:_LISTED] + more


_PARTS = ("train", "training", "valid", "validation", "val", "test", "photos", "images", "data")
_KINDS = 5  # of files that are listed


def image_facts(
    train: Samples,
    valid: Samples,
    vocab: Sequence[str],
    augment: Any,
    broken: Sequence[BrokenImage],
    general: Mapping[str, str],
    summary: DataSummary | None,
) -> DataFacts:
    """The facts that reports show of `ImageDataLoaders`, whose fields the first arguments are."""
    folder = common_folder((*train.files, *valid.files))
    counts = zip(vocab, train.counts(len(vocab)), valid.counts(len(vocab)), strict=True)
    found = {"folder": folder} if folder else {}
    found |= general
    found["augmentation"] = "none" if augment is None else _augmentation(augment)
    if summary is not None:
        found |= _file_facts(summary)
        broken = summary.broken
    return DataFacts(
        name=data_name(folder) if folder else "",
        train=len(train),
        valid=len(valid),
        counts=tuple(counts) if train.task.has_counts else (),
        facts=found,
        broken=tuple((str(image.path), image.reason) for image in broken),
    )


def common_folder(files: Iterable[str]) -> str:
    """The folder that all files lie in; empty if there are none, or if they share none."""
    folders = {os.path.dirname(os.path.abspath(file)) for file in files if os.path.dirname(file)}
    if not folders:
        return ""
    try:
        return os.path.commonpath(folders)
    except ValueError:  # different drives
        return ""


def data_name(folder: str) -> str:
    path = Path(folder)
    own = path.name.lower() not in _PARTS or not path.parent.name
    return path.name if own else f"{path.parent.name}/{path.name}"


def _file_facts(summary: DataSummary) -> dict[str, str]:
    found = {}
    if summary.width is not None and summary.height is not None:
        w, h = summary.width, summary.height
        found["image sizes"] = (
            f"{w.min:.0f} × {h.min:.0f} to {w.max:.0f} × {h.max:.0f} pixels, "
            f"median {w.median:.0f} × {h.median:.0f} (width × height)"
        )
    found["file types"] = first_few((f"{n:,} {kind}" for kind, n in summary.kinds), _KINDS)
    found["smaller than the network's input"] = f"{summary.upscaled:,}" if summary.upscaled else ""
    both = sum(copies.both_parts for copies in summary.duplicates)
    if summary.duplicates:
        found["duplicate files"] = f"{len(summary.duplicates):,}"
    if both:
        found["in training and validation"] = f"{both:,} files: results look better than they are"
    return {name: value for name, value in found.items() if value}


def _augmentation(augment: Any) -> str:
    if not is_dataclass(augment):
        return str(augment)
    values = ((each.name, getattr(augment, each.name)) for each in fields(augment))
    return ", ".join(f"{name} {_value(value)}" for name, value in values if value)


def _value(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 2:
        return " to ".join(map(_value, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
