"""A set of photos as values: files and labels, chosen from and divided.

Folds for cross-validation: each photo is for validation exactly once.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import torch

from layergroups._formatting import first_few
from layergroups.data._splitting import labelled_split
from layergroups.errors import DataError

if TYPE_CHECKING:
    from layergroups.data.image._image_checks import BrokenImage
    from layergroups.data.image._opening import Picture


Task = Literal["multiclass", "multilabel", "regression"]


Label = int | tuple[float, ...]


_LOG = logging.getLogger("layergroups")


_MENTIONED = 10  # things that a one-line message names


class Opener(Protocol):
    """Opens photos by their names, with the arguments of `open_picture`."""

    def open(self, name: str, *, min_size: int | None = None, channels: int = 3) -> Picture:
        """The photo."""


@dataclass(frozen=True)
class Samples:
    """Image files and, where they are known, what is to be learned of them.

    Attributes:
        files: the paths, as strings because a large set of those is small.
        labels: of each file; None for unlabelled photos. "multiclass": its class, a position in the
            vocabulary. "multilabel": the positions of its labels, ascending, perhaps none.
            "regression": its numbers.
        task: "multiclass" (one class each), "multilabel" (any number of labels), "regression".
        c: outputs that a network needs for "multilabel"; the other tasks do not ask it.
        items: opens the photos where they are no files but items of a dataset.
    """

    files: tuple[str, ...]
    labels: tuple[Label, ...] | None = None
    task: Task = "multiclass"
    c: int = 0
    items: Opener | None = field(default=None, compare=False, repr=False)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(map(Path, self.files))

    def take(self, positions: Iterable[int]) -> Samples:
        """Those at the positions, in that order."""
        wanted = tuple(positions)
        labels = None if self.labels is None else tuple(self.labels[i] for i in wanted)
        return replace(self, files=tuple(self.files[i] for i in wanted), labels=labels)

    def target(self, position: int) -> int | torch.Tensor:
        """What a network should say of a photo.

        Returns:
            "multiclass": the class, -1 if it is unknown; "multilabel": float32 (C,), 1 for each of
            its labels, else 0; "regression": float32 (K,).
        """
        label = -1 if self.labels is None else self.labels[position]
        if isinstance(label, int):
            return label
        if self.task == "regression":
            return torch.tensor(label, dtype=torch.float32)
        hot = torch.zeros(self.c)
        hot[[int(place) for place in label]] = 1.0
        return hot

    def targets(self) -> torch.Tensor:
        """Of all photos: classes int64 (N,), labels float32 (N, C), or numbers float64 (N, K)."""
        if self.task == "regression":  # as they were given, float32 only in batches
            return torch.tensor(self.labels or (), dtype=torch.float64)
        return torch.stack([torch.as_tensor(self.target(i)) for i in range(len(self))])

    def classes(self) -> tuple[int, ...]:
        """The class of each photo; empty if they have none, or are not of one class each."""
        return tuple(label for label in self.labels or () if isinstance(label, int))

    def label_sets(self) -> tuple[tuple[float, ...], ...]:
        """The labels of each photo; empty if they have none, or have one class each."""
        return tuple(label for label in self.labels or () if not isinstance(label, int))

    def counts(self, n_classes: int) -> tuple[int, ...]:
        """How many photos each class or label has; zeros where there are neither."""
        counted: Counter[float] = Counter()
        for label in (self.labels or ()) if self.task != "regression" else ():
            counted.update((label,) if isinstance(label, int) else label)
        return tuple(counted[label] for label in range(n_classes))


@dataclass(frozen=True)
class Split:
    """Photos in two parts, and what their labels mean.

    Attributes:
        vocab: names of the classes, of the labels, or of the numbers.
        train: the photos to learn from.
        valid: the photos to measure with.
        broken: what was left out because it cannot be read.
    """

    vocab: tuple[str, ...]
    train: Samples
    valid: Samples
    broken: tuple[BrokenImage, ...] = ()

    def with_broken(self, broken: Sequence[BrokenImage]) -> Split:
        """The same, with what was left out."""
        return replace(self, broken=tuple(broken))


def check_valid_pct(valid_pct: float) -> None:
    """The share for validation lies between 0 and 1.

    Raises:
        DataError: it does not, or is no number.
    """
    if not isinstance(valid_pct, int | float) or not 0 < valid_pct < 1:
        raise DataError(
            f"valid_pct={valid_pct} is not between 0 and 1: it is the share of the photos that is "
            "kept for validation. For 20 % write valid_pct=0.2."
        )


def divided(
    photos: Samples, vocab: Sequence[str], valid_pct: float, seed: int, *, source: object
) -> Split:
    """Keep a share for validation: of each class or label where there are any, else of all photos.

    Args:
        photos: all of them, labelled.
        vocab: what the labels mean.
        valid_pct: the share.
        seed: chooses the photos.
        source: where the photos are from, for messages.

    Raises:
        DataError: there are too few photos.
    """
    if photos.task == "multiclass":
        train_at, valid_at = stratified_split(photos.classes(), valid_pct, seed)
    elif photos.task == "multilabel":
        train_at, valid_at = labelled_split(photos.label_sets(), valid_pct, seed)
    else:
        train_at, valid_at = random_split(len(photos), valid_pct, seed)
    if not valid_at:
        few = "No class of {} has two photos" if photos.task == "multiclass" else "{} has one photo"
        raise DataError(f"{few.format(source)}, so there is nothing to validate with. Add photos.")
    found = Split(tuple(vocab), photos.take(train_at), photos.take(valid_at))
    warn_of_unmeasured(found)
    return found


def warn_of_unmeasured(found: Split) -> None:
    """Say in one line which classes or labels have photos, but none to measure with."""
    counts = [part.counts(len(found.vocab)) for part in (found.train, found.valid)]
    few = [
        (name, n)
        for name, n, measured in zip(found.vocab, *counts, strict=True)
        if n > measured == 0
    ]
    single, several = ([name for name, n in few if (n == 1) is one] for one in (True, False))
    if single:
        _LOG.warning("One photo only of %s: kept for training, none to validate.", names_of(single))
    if several:
        _LOG.warning(
            "No photo of %s is for validation, though there are several: each has other labels "
            "too, which are rarer and needed for training.", names_of(several),
        )  # fmt: skip


def stratified_split(
    labels: Sequence[int], valid_pct: float, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide positions into train and valid so that every class keeps its share in both.

    The choice within a class depends on the seed, the class and its number of photos only.
    A class with two or more photos has at least one in each part; a single photo is for training.

    Args:
        labels: the class of each photo.
        valid_pct: the share for validation, between 0 and 1.
        seed: chooses the photos.

    Returns:
        The positions for training and those for validation, each in ascending order.
    """
    chosen: set[int] = set()
    for label, positions in members_of(labels).items():
        n = len(positions)
        n_valid = min(max(1, round(n * valid_pct)), n - 1)
        chosen.update(random.Random(f"{seed}/{label}").sample(positions, n_valid))
    train = tuple(i for i in range(len(labels)) if i not in chosen)
    return train, tuple(sorted(chosen))


def random_split(n: int, valid_pct: float, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide n positions into train and valid by chance; each has at least one if n allows it.

    Returns:
        As `stratified_split`.
    """
    return stratified_split([0] * n, valid_pct, seed)


def members_of(labels: Sequence[int]) -> dict[int, list[int]]:
    """The positions of each class."""
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(label, []).append(position)
    return members


def names_of(names: Iterable[object]) -> str:
    """Some names for a message: the first ten, and how many more there are."""
    return first_few(map(repr, names), _MENTIONED)


def joined(one: Samples, other: Samples) -> Samples:
    """The photos of both, in the order of their files, so that an earlier division leaves no trace.

    Both are of the same task and, where they are items, of the same datasets.
    """
    labels = (*(one.labels or ()), *(other.labels or ()))
    both = replace(one, files=one.files + other.files, labels=labels)
    return both.take(sorted(range(len(both)), key=lambda i: (both.files[i], i)))


def folds_of(photos: Samples, n: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Positions for training and for validation, n times, each ascending.

    Every class is dealt out evenly where each photo has one, else all photos are; what is left of a
    class begins where the one before ended, so that folds differ by one photo at most.

    Raises:
        DataError: n is no number of folds, or there are fewer photos.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 2 <= n <= len(photos):
        raise DataError(
            f"folds({n!r}): expected a whole number from 2 to the number of photos, "
            f"{len(photos)}; for example folds(5)."
        )
    fold: dict[int, int] = {}
    for label, members in sorted(members_of(photos.classes() or (0,) * len(photos)).items()):
        for position in random.Random(f"folds/{seed}/{label}").sample(members, len(members)):
            fold[position] = len(fold) % n
    return [
        (
            [i for i in range(len(photos)) if fold[i] != number],
            [i for i in range(len(photos)) if fold[i] == number],
        )
        for number in range(n)
    ]
