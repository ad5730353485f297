"""Map-style datasets, such as those of torchvision and Hugging Face, read item by item."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from layergroups._random import private_randomness
from layergroups.data._samples import Samples, Split, divided, names_of
from layergroups.data.image import (
    BrokenImage,
    Picture,
    picture_of,
    progress,
    quiet,
    reason_of,
    reduced_picture,
    report_broken,
)
from layergroups.data.sources._lists import labelled_positions, marked, samples_of
from layergroups.data.sources._settings import Settings
from layergroups.errors import DataError
from layergroups.tasks import Task, checked_task, missing, parse_labels, plain

Key = str | int
_IMAGE_KEYS = ("image", "img", "picture", "photo", "jpg", "png", "pixel_values")
LABEL_KEYS = ("label", "labels", "target", "targets", "class", "fine_label", "y")

_MASK_KEYS = ("mask", "masks", "label", "annotation", "segmentation", "target")


@dataclass(frozen=True, eq=False)
class Items:
    """The images of datasets by name: "train[3]" is that of item 3 of the dataset "train"."""

    parts: Mapping[str, Any]
    image: Key  # where it is in an item
    label: Key | None  # None if an item has none

    def open(self, name: str, *, min_size: int | None = None, channels: int = 3) -> Picture:
        """The image of an item; the arguments and the result are those of `open_picture`."""
        part, _, number = name.rstrip("]").rpartition("[")
        item = self.parts[part][int(number)]
        return reduced_picture(_picture(_at(item, self.image), channels), min_size)

    def label_of(self, name: str) -> Any:
        """The label of an item as it is there."""
        part, _, number = name.rstrip("]").rpartition("[")
        return None if self.label is None else _at(self.parts[part][int(number)], self.label)

    def read(self, part: str, channels: int) -> Iterator[tuple[str, Any, str | None]]:
        """Name, label and fault, if there is one, of each item of a dataset."""
        for number in range(len(self.parts[part])):
            name = f"{part}[{number}]"
            try:
                item = self.parts[part][number]
                label = None if self.label is None else _at(item, self.label)
                _picture(_at(item, self.image), channels)
            except Exception as error:  # of the dataset's own code: reported by the item
                yield name, None, reason_of(error, name)
            else:
                yield name, label, None


def is_dataset(source: object) -> bool:
    """Whether it is a map-style dataset, and no list of paths."""
    listed = isinstance(source, str | os.PathLike | list | tuple | set | dict)
    return not listed and hasattr(source, "__getitem__") and hasattr(source, "__len__")


def check_dataset(dataset: object, name: str, lists: str) -> None:
    """Raise `DataError` if it is no map-style dataset; `lists` says what is for lists."""
    if is_dataset(dataset):
        return
    parts = [repr(key) for key in dataset] if isinstance(dataset, dict) else []
    hint = f"For {lists}."
    if isinstance(dataset, dict) and all(map(is_dataset, dataset.values())):
        hint = f"Give its parts: from_dataset({', '.join(f'parts[{part}]' for part in parts[:2])})."
    raise DataError(
        f"{name}: a {type(dataset).__name__} is not a map-style dataset; it needs len(dataset) and "
        f"dataset[i]. {hint}"
    )


def read_datasets(
    train: Any,
    valid: Any | None,
    settings: Settings,
    *,
    image: Key | None = None,
    label: Key | None = None,
    task: Task | str | None = None,
    vocab: Sequence[str] | None = None,
) -> Split:
    """Check, understand and divide; see `ImageDataLoaders.from_dataset`."""
    parts = {"train": train} if valid is None else {"train": train, "valid": valid}
    items = items_of(parts, image, label)
    if items.label is None:
        raise DataError(
            f"An item of {type(train).__name__} has no label: expected (image, label), or a dict "
            "with both. Give label='...', the key of the label, if it has one."
        )
    names, labels, broken = _read(items, settings)
    known = vocab or class_names(train, items.label)
    labels = _named(labels, known, task)
    kept, unlabelled = labelled_positions(names, labels, task, settings)
    names, labels = [names[i] for i in kept], [labels[i] for i in kept]
    broken = [*unlabelled, *broken]
    answers = parse_labels(labels, names, task=task, vocab=known)
    samples = samples_of(names, answers, items=items)
    if valid is None:
        whole = (settings.valid_pct, settings.seed)
        return divided(samples, answers.vocab, *whole, source="The dataset", broken=broken)
    return marked(samples, answers.vocab, [name.startswith("valid[") for name in names], broken)


def read_test_dataset(
    dataset: Any, settings: Settings, items: Items | None
) -> tuple[Samples, list[Any]]:
    """The images of another dataset, checked, and their labels as they are there."""
    image, label = (None, None) if items is None else (items.image, items.label)
    found = items_of({"test": dataset}, image, label, asked="test")
    names, labels, _ = _read(found, settings)
    return Samples(tuple(names), items=found), _named(labels, class_names(dataset, found.label))


def items_of(
    parts: Mapping[str, Any],
    image: Key | None,
    label: Key | None,
    asked: str = "train",
    *,
    masks: bool = False,
) -> Items:
    """Datasets, and where image and label are in their items."""
    for name, dataset in parts.items():
        lists = "paths and labels: ImageDataLoaders.from_lists(files, labels)"
        check_dataset(dataset, name, lists)
        if len(dataset) == 0:
            raise DataError(f"{name}: the dataset is empty.")
    item = _first_item(parts[asked])
    if isinstance(item, Mapping):
        where = _key(item, image, _IMAGE_KEYS, "image")
        return Items(parts, where, _label_key(item, label, _MASK_KEYS if masks else LABEL_KEYS))
    if isinstance(item, tuple | list) and item:
        second = 1 if len(item) > 1 else None
        return Items(parts, 0 if image is None else image, second if label is None else label)
    if asked == "test":
        return Items(parts, -1, None)
    raise DataError(
        f"An item of the dataset is a {type(item).__name__}; expected (image, label), or a dict "
        "with an image and a label."
    )


def _first_item(dataset: Any) -> Any:
    """The first item that can be read; its draws change no random state."""
    reason: Exception | None = None
    with quiet(), private_randomness(0):
        for number in range(len(dataset)):
            try:
                return dataset[number]
            except Exception as error:  # of the dataset's own code: raised if all fail
                reason = reason or error
    raise DataError(
        f"No item of the {type(dataset).__name__} can be read; dataset[0] raises "
        f"{type(reason).__name__}: {reason}."
    ) from reason


def _read(items: Items, settings: Settings) -> tuple[list[str], list[Any], list[BrokenImage]]:
    """Names and labels of the sound items; the dataset's own draws change no random state."""
    names, labels, broken = [], [], []
    total = sum(map(len, items.parts.values()))
    with quiet(), progress(total) as advance, private_randomness(settings.seed):
        for part in items.parts:
            for name, label, fault in items.read(part, settings.n_channels):
                advance(1)
                if fault is not None:
                    broken.append(BrokenImage(Path(name), fault))
                    continue
                names.append(name)
                labels.append(label)
    report_broken(broken, settings.on_error)
    if not names:
        raise DataError("No item of the dataset can be read.")
    return names, labels, broken


def _at(item: Any, key: Key) -> Any:
    if key == -1 and not isinstance(item, tuple | list | Mapping):
        return item  # an item that is the image itself
    try:
        return item[key]
    except (LookupError, TypeError) as error:
        raise DataError(f"the item has no {key!r}") from error


def _picture(image: Any, channels: int) -> Picture:
    """An image as datasets have it: a Pillow image, array, tensor, path, or bytes in a dict."""
    if isinstance(image, Mapping):
        content = image.get("bytes")
        image = image.get("path") if content is None else Image.open(io.BytesIO(content))
    return picture_of(image, channels)


def _key(item: Mapping[str, Any], given: Key | None, usual: Sequence[str], what: str) -> Key:
    if given is not None:
        if given not in item:
            raise DataError(f"{what}={given!r}: the items have {names_of(item)}.")
        return given
    found = [key for key in usual if key in item]
    if not found:
        raise DataError(
            f"Which of {names_of(item)} is the {what}? Give {what}={next(iter(item), 'key')!r}, "
            "or another of them."
        )
    return found[0]


def _label_key(item: Mapping[str, Any], given: Key | None, usual: Sequence[str]) -> Key | None:
    if given is None and not any(key in item for key in usual):
        return None
    return _key(item, given, usual, "label")


def class_names(dataset: Any, label: Key | None) -> tuple[str, ...] | None:
    """The names of the classes, where a dataset knows them; equal ones are numbered."""
    feature = (getattr(dataset, "features", None) or {}).get(label) if label is not None else None
    feature = getattr(feature, "feature", feature)
    names = getattr(feature, "names", None)
    while names is None and dataset is not None:
        names = getattr(dataset, "classes", None) or getattr(dataset, "attr_names", None)
        dataset = getattr(dataset, "dataset", None)  # of a subset
    if not isinstance(names, tuple | list) or not names:
        return None
    texts = [", ".join(map(str, n)) if isinstance(n, tuple | list) else str(n) for n in names]
    return tuple(f"{t} ({i})" if texts.count(t) > 1 else t for i, t in enumerate(texts))


def _named(
    labels: list[Any], names: Sequence[str] | None, task: Task | str | None = None
) -> list[Any]:
    """Positions in a dataset's classes as names; other labels as they are."""
    values = [plain(label) for label in labels]
    if names is None or not (task is None or checked_task(task, DataError).has_counts):
        return values
    rows = [value for value in values if isinstance(value, list)]
    if rows and all(len(row) == len(names) and set(row) <= {0, 1} for row in rows):
        return values
    return [name_at(value, names) for value in values]


def name_at(value: Any, names: Sequence[str]) -> Any:
    """The name of a class at a position; None beyond the names, such as -1 for "no label"."""
    if isinstance(value, list):
        return [name_at(item, names) for item in value]
    if isinstance(value, bool) or not isinstance(value, int) or missing(value):
        return value
    return names[value] if 0 <= value < len(names) else None
