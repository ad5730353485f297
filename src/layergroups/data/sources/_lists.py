"""Lists of files and labels, and labels in names of files: checked, parsed and split."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from layergroups._formatting import count
from layergroups.data._samples import Opener, Samples, Split, divided, names_of
from layergroups.data.image import BrokenImage, OnError, check_images, drop_broken, report_broken
from layergroups.data.sources._folder import find_images
from layergroups.data.sources._settings import Settings
from layergroups.errors import DataError
from layergroups.tasks import Targets, Task, missing, parse_labels, without_label

_LOG = logging.getLogger("layergroups")
Files = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]
Labeller = Callable[[Path], Any]


def read_lists(
    files: Iterable[str | os.PathLike[str]],
    labels: Iterable[Any],
    settings: Settings,
    *,
    is_valid: Iterable[bool] | None = None,
    task: Task | str | None = None,
    vocab: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Split:
    """Check, understand and divide; see `ImageDataLoaders.from_lists`."""
    names, given = list_of_files(files), _as_list(labels, "labels")
    marks = None if is_valid is None else checked_marks(is_valid)
    _equally_long(names, labels=given, is_valid=marks)
    meaning: dict[str, Any] = {"task": task, "vocab": vocab, "columns": columns}
    known, unlabelled = labelled_positions(names, given, task, settings)
    names, given = [names[i] for i in known], [given[i] for i in known]
    marks = None if marks is None else [marks[i] for i in known]
    targets = parse_labels(given, names, **meaning)  # before the files, which take longer
    sound, broken = sound_positions(names, settings)
    if len(sound) < len(names):
        names = [names[i] for i in sound]
        targets = parse_labels([given[i] for i in sound], names, **meaning)
    samples, broken = samples_of(names, targets), (*unlabelled, *broken)
    if marks is None:
        whole = (settings.valid_pct, settings.seed)
        source = "The list of images"
        return divided(samples, targets.vocab, *whole, source=source, broken=broken)
    return marked(samples, targets.vocab, [marks[i] for i in sound], broken)


def labels_by_name(files: Sequence[str], pattern: str | re.Pattern[str] | Labeller) -> list[Any]:
    """The label in the name of each file; see `ImageDataLoaders.from_pattern`."""
    if callable(pattern) and not isinstance(pattern, re.Pattern):
        return [pattern(Path(file)) for file in files]
    compiled = _compiled(pattern)
    group: int | str = "label" if "label" in compiled.groupindex else 1
    whole = "/" in compiled.pattern
    found = [compiled.search(Path(f).as_posix() if whole else Path(f).name) for f in files]
    odd = [file for file, match in zip(files, found, strict=True) if match is None]
    if odd:
        raise DataError(
            f"The pattern {compiled.pattern!r} does not fit {len(odd)} of {len(files)} names: "
            f"{names_of(odd)}. It is searched for in "
            f"{'the whole path' if whole else 'the name of the file, without folders'}."
        )
    return [match[group] for match in found if match is not None]


def read_unlabelled(source: Files, *, on_error: OnError = "raise", channels: int = 3) -> Samples:
    """One image, a list of images, or all images below a folder, checked, without labels."""
    try:
        source = source if isinstance(source, str | os.PathLike) else list(source)
    except TypeError as error:
        raise DataError(
            f"{source!r:.200} is neither a path nor a list of paths. Give an image, a folder, a "
            "list of images, or a dataset."
        ) from error
    alone = isinstance(source, str | os.PathLike) and not Path(source).is_dir()
    files = [os.fspath(source)] if alone else find_files(source, channels)  # type: ignore[arg-type] # a path
    sound, _ = drop_broken({"": files}, on_error, channels)
    return Samples(sound[""])


def find_files(source: Files, channels: int = 3) -> list[str]:
    """The images below a folder, or those of a list."""
    if not isinstance(source, str | os.PathLike):
        return list_of_files(source)
    folder = Path(source).expanduser()
    if not folder.is_dir():
        raise DataError(f"There is no folder {folder}; give a folder of images, or a list of them.")
    files = find_images(folder, channels)
    if not files:
        raise DataError(f"{folder} has no images, nor have its sub-folders.")
    return files


def list_of_files(files: Iterable[str | os.PathLike[str]]) -> list[str]:
    listed = _as_list(files, "files")
    odd = next((item for item in listed if not isinstance(item, str | os.PathLike)), None)
    if odd is not None:
        raise DataError(
            f"{type(odd).__name__} is not the path of an image. For images in memory, or a "
            "dataset: ImageDataLoaders.from_dataset(dataset)."
        )
    if not listed:
        raise DataError("The list of images is empty: give at least one path.")
    return [os.path.expanduser(item) for item in listed]


def labelled_positions(
    files: Sequence[str], labels: Sequence[Any], task: Task | str | None, settings: Settings
) -> tuple[list[int], tuple[BrokenImage, ...]]:
    """Which items have a label, and which are left out for want of one.

    With `on_error="raise"` all are kept: the parsing of labels says what is missing.
    """
    every = range(len(files))
    blank = set(without_label(labels, task)) if settings.on_error == "skip" else set()
    broken = tuple(BrokenImage(Path(files[i]), "has no label") for i in every if i in blank)
    report_broken(broken, settings.on_error)
    return [i for i in every if i not in blank], broken


def sound_positions(
    files: Sequence[str], settings: Settings
) -> tuple[list[int], tuple[BrokenImage, ...]]:
    """Which files can be read, each checked once, and which cannot."""
    broken = check_images(list(dict.fromkeys(files)), channels=settings.n_channels)
    report_broken(broken, settings.on_error)
    bad = {str(image.path) for image in broken}
    sound = [i for i, file in enumerate(files) if str(Path(file)) not in bad]
    if not sound:
        raise DataError("No image can be read, so there is nothing to train on.")
    _warn_of_copies([files[i] for i in sound])
    return sound, broken


def samples_of(files: Sequence[str], targets: Targets, items: Opener | None = None) -> Samples:
    return Samples(tuple(files), targets.labels, targets.task, len(targets.vocab), items)


def marked(
    samples: Samples, vocab: Sequence[str], is_valid: Sequence[bool], broken: Sequence[BrokenImage]
) -> Split:
    train, valid = (
        samples.take(i for i, mark in enumerate(is_valid) if mark == part) for part in (False, True)
    )
    if not len(train) or not len(valid):
        empty = "validation" if len(train) else "training"
        raise DataError(
            f"All {len(samples)} items are marked alike, so none is left for {empty}. Leave the "
            "marks out to keep a share by chance: valid_pct=0.2."
        )
    unseen = sorted(set(valid.classes()) - set(train.classes()))
    if unseen:
        missed = names_of(vocab[label] for label in unseen)
        _LOG.warning("No training item of %s, only validation items.", missed)
    return Split(tuple(vocab), train, valid, tuple(broken))


def _compiled(pattern: Any) -> re.Pattern[str]:
    example = r"For cat_12.jpg: pattern=r'^(.+)_\d+\.jpg$'."
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise DataError(
            f"pattern={pattern!r} is not a regular expression: {error}. {example}"
        ) from error
    if compiled.groups != 1 and "label" not in compiled.groupindex:
        raise DataError(
            f"The pattern {compiled.pattern!r} has {compiled.groups} groups; put the label, and "
            f"nothing else, in brackets, or call its group label: (?P<label>...). {example}"
        )
    return compiled


def _as_list(values: Any, argument: str, item: str = "image") -> list[Any]:
    if isinstance(values, str | bytes | os.PathLike) or not isinstance(values, Iterable):
        raise DataError(f"{argument}={values!r}: expected a list, with an entry for each {item}.")
    return list(values)


def checked_marks(is_valid: Any, item: str = "image") -> list[bool]:
    """Which items are for validation, from values that may also be 1 and 0, or NumPy's.

    Raises:
        DataError: another value, such as a word, which would count as True.
    """
    marks = _as_list(is_valid, "is_valid", item)
    for i, mark in enumerate(marks):
        if isinstance(mark, str | bytes) or missing(mark) or mark not in (0, 1):
            raise DataError(
                f"is_valid has {mark!r} for {item} {i}: expected True or False for each {item}, "
                'such as [name == "valid" for name in parts].'
            )
    return [bool(mark) for mark in marks]


def _equally_long(files: Sequence[str], **others: Sequence[Any] | None) -> None:
    for name, values in others.items():
        if values is not None and len(values) != len(files):
            raise DataError(
                f"{len(files)} files, but {name} has {len(values)} entries; expected one for each."
            )


def _warn_of_copies(files: Sequence[str]) -> None:
    twice = [file for file, n in Counter(files).items() if n > 1]
    if twice:
        what = "%s in several rows (%s); copies may fall on both sides of a split."
        _LOG.warning(what, count(len(twice), "image is", "images are"), names_of(twice))
