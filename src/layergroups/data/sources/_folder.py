"""Folders of images: which files are images, which class each has, and which are for validation."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from layergroups._formatting import count
from layergroups._paths import path_of
from layergroups._suggestions import nearest_folder
from layergroups.data._samples import Samples, Split, check_valid_pct, divided, names_of
from layergroups.data.image import ARRAY_ENDINGS, IMAGE_ENDINGS, OnError, drop_broken
from layergroups.errors import DataError
from layergroups.tasks import readable

_LOG = logging.getLogger("layergroups")
_MENTIONED = 10  # things that a one-line message names
_IGNORED = frozenset(["thumbs.db", "desktop.ini"])
_TRAIN = ("train", "training")
_VALID = ("valid", "validation", "val", "dev", "eval")
_PARTS = (*_TRAIN, *_VALID, "test", "testing")


def read_folder(
    path: str | os.PathLike[str],
    *,
    train: str = "train",
    valid: str = "valid",
    valid_pct: float = 0.2,
    seed: int = 42,
    on_error: OnError = "raise",
    channels: int = 3,
) -> Split:
    """Find, check and divide the images of a folder; see `ImageDataLoaders.from_folder`."""
    check_valid_pct(valid_pct)
    root = existing_folder(path)
    if _has_both_parts(root, train, valid):
        return _read_parts(root / train, root / valid, on_error, channels)
    return _read_and_split(root, valid_pct, seed, on_error, channels)


def read_labelled(
    path: str | os.PathLike[str],
    vocab: Sequence[str],
    *,
    on_error: OnError = "raise",
    channels: int = 3,
) -> Samples:
    """The images of a folder of classes, labelled by a vocabulary that is known already.

    Classes of the vocabulary without a folder are fine; folders that it does not have are an error.
    """
    root = existing_folder(path)
    classes = _find_classes(root, channels)
    unknown = sorted(set(classes) - set(vocab))
    if unknown:
        raise DataError(
            f"{root} has classes that the model does not know: {names_of(unknown)}. "
            f"It knows {names_of(vocab)}."
        )
    sound, _ = drop_broken(classes, on_error, channels)
    found = _samples(sound, vocab)
    if not len(found):
        raise DataError(f"{root} has no images in its class folders.")
    return found


def _read_parts(train: Path, valid: Path, on_error: OnError, channels: int) -> Split:
    parts = {part: _find_classes(part, channels) for part in (train, valid)}
    _same_classes(parts[train], parts[valid], train, valid)
    for part, classes in parts.items():
        _several_full_classes(classes, part)
    both = {(part, name): files for part in parts for name, files in parts[part].items()}
    sound, broken = drop_broken(both, on_error, channels)
    samples = {}
    for part, classes in parts.items():
        vocab, samples[part] = _label({name: sound[part, name] for name in classes}, part)
    return Split(vocab, samples[train], samples[valid], broken)


def _read_and_split(
    root: Path, valid_pct: float, seed: int, on_error: OnError, channels: int
) -> Split:
    classes = _find_classes(root, channels)
    _several_full_classes(classes, root)
    sound, broken = drop_broken(classes, on_error, channels)
    vocab, samples = _label(sound, root)
    return divided(samples, vocab, valid_pct, seed, source=root, broken=broken)


def existing_folder(path: str | os.PathLike[str]) -> Path:
    """The path, if it is a folder."""
    right = 'ImageDataLoaders.from_folder("photos")'
    folder = path_of(path, DataError, right).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise DataError(
            f"{folder} is a file; expected a folder of images with a sub-folder for each class. A "
            "table of images and labels ends in .csv or .tsv, see ImageDataLoaders.from_table."
        )
    near = next(p for p in (folder, *folder.parents) if p.exists() or p == p.parent)
    raise DataError(
        f"There is no folder {folder} (of this path, {near.resolve()} exists)."
        f"{nearest_folder(folder)} Expected a folder of images with a sub-folder for each class."
    )


def find_images(folder: Path, channels: int = 3) -> list[str]:
    """All images at any depth below a folder, sorted; hidden files and folders are left out.

    Arrays in `.npy` files count where images are not to have three channels. One line tells how
    many other files were skipped.
    """
    images: list[str] = []
    others: Counter[str] = Counter()
    wanted = IMAGE_ENDINGS if channels == 3 else IMAGE_ENDINGS | ARRAY_ENDINGS
    for file in _walk(folder):
        ending = os.path.splitext(file)[1].lower()
        if ending in wanted:
            images.append(file)
        elif os.path.basename(file).lower() not in _IGNORED:
            others[ending or "no ending"] += 1
    if others:
        kinds = ", ".join(f"{ending}: {n}" for ending, n in others.most_common(_MENTIONED))
        files = count(others.total(), "file")
        _LOG.warning("%s: skipped %s without the ending of an image (%s).", folder, files, kinds)
    return sorted(images)


def _walk(root: Path) -> Iterator[str]:
    """Visible files below a folder; follows links to folders, but enters none twice."""
    seen: set[tuple[int, int]] = set()
    folders = [str(root)]
    while folders:
        folder = folders.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                visible = sorted((e for e in entries if e.name[0] != "."), key=lambda e: e.name)
        except OSError as error:
            raise DataError(f"The folder {folder} cannot be read: {error.strerror}.") from error
        inner = [entry.path for entry in visible if os.path.isdir(entry.path)]  # also of a bad link
        yield from (entry.path for entry in visible if entry.path not in inner)
        folders += reversed(inner)


def _sub_folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _loose_images(folder: Path) -> list[Path]:
    return [
        p
        for p in folder.iterdir()
        if p.suffix.lower() in IMAGE_ENDINGS and not p.name.startswith(".") and not p.is_dir()
    ]


def _find_classes(root: Path, channels: int) -> dict[str, list[str]]:
    """The images of each class folder; at least two classes, none empty."""
    classes: dict[str, list[str]] = {}
    for folder in _sub_folders(root):
        classes.setdefault(readable(folder.name), []).extend(find_images(folder, channels))
    loose = _loose_images(root)
    if not any(classes.values()):
        found = f"no images ({', '.join(sorted(IMAGE_ENDINGS))})"
        if loose:
            found = f"{len(loose)} images, but not in class folders, so their classes are unknown"
        raise DataError(
            f"{root} has {found}. Expected a sub-folder for each class: {root}/cat/1.jpg, "
            f"{root}/dog/2.jpg."
        )
    if loose:
        names = names_of(sorted(p.name for p in loose))
        _LOG.warning(
            "%s: skipped %s outside of the class folders (%s).",
            root,
            count(len(loose), "image"),
            names,
        )
    return classes


def _has_both_parts(root: Path, train: str, valid: str) -> bool:
    """Whether the folder is divided already; almost divided is an error, not a guess."""
    present = {name: (root / name).is_dir() for name in (train, valid)}
    if all(present.values()):
        return True
    if (train, valid) != ("train", "valid"):
        missing = " nor ".join(repr(name) for name, there in present.items() if not there)
        raise DataError(
            f"{root} has no sub-folder {missing}, given as train={train!r}, valid={valid!r}. "
            f"It has {names_of([p.name for p in _sub_folders(root)])}."
        )
    _refuse_other_parts(root)
    return False


def _refuse_other_parts(root: Path) -> None:
    """A folder with other parts than train and valid, such as train and test."""
    parts = {
        p.name.lower(): p.name
        for p in _sub_folders(root)
        if p.name.lower() in _PARTS and not _loose_images(p) and len(_sub_folders(p)) > 1
    }
    if not parts:
        return
    train = next((parts[name] for name in _TRAIN if name in parts), None)
    valid = next((parts[name] for name in _VALID if name in parts), None)
    if train and valid:
        fix = f"from_folder({str(root)!r}, train={train!r}, valid={valid!r})"
    else:
        fix = f"from_folder({str(root / (train or next(iter(parts.values()))))!r}, valid_pct=0.2)"
    raise DataError(
        f"{root} looks divided into {names_of(parts.values())}, with class folders in each, but "
        f"there are not both a train and a valid. Perhaps you meant {fix}."
    )


def _same_classes(
    train: Mapping[str, object], valid: Mapping[str, object], train_at: Path, valid_at: Path
) -> None:
    extra = {train_at: set(train) - set(valid), valid_at: set(valid) - set(train)}
    missing = [f"only in {at}: {names_of(sorted(names))}" for at, names in extra.items() if names]
    if missing:
        raise DataError(
            f"Train and valid have different classes: {'; '.join(missing)}. Expected the same "
            "class folders in both. If some classes have no validation images, list the images in "
            'a table with a column that marks them: from_table(table, valid_col="is_valid").'
        )


def _several_full_classes(classes: Mapping[str, Sequence[str]], root: Path) -> None:
    empty = sorted(name for name, files in classes.items() if not files)
    if empty:
        raise DataError(
            f"No readable images in {'class' if len(empty) == 1 else 'classes'} {names_of(empty)} "
            f"of {root}. Add images, or remove the folder if it is not a class. If only its "
            "validation images are missing, mark the images in a table: from_table(table, "
            'valid_col="is_valid").'
        )
    if len(classes) == 1:
        raise DataError(
            f"{root} has one class only, {names_of(classes)}. A classifier needs at least two: "
            f"expected a sub-folder for each class in {root}."
        )


def _label(classes: Mapping[str, Sequence[str]], root: Path) -> tuple[tuple[str, ...], Samples]:
    _several_full_classes(classes, root)
    vocab = tuple(sorted(classes))
    return vocab, _samples(classes, vocab)


def _samples(classes: Mapping[str, Sequence[str]], vocab: Sequence[str]) -> Samples:
    pairs = [(f, label) for label, name in enumerate(vocab) for f in classes.get(name, ())]
    return Samples(tuple(f for f, _ in pairs), tuple(label for _, label in pairs), c=len(vocab))
