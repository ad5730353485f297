"""Sets of images with labels, their split into training and validation, and folds."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch

from layergroups._formatting import first_few
from layergroups.data.image import BrokenImage, Picture
from layergroups.errors import DataError
from layergroups.tasks import TASKS, Label, MaskFile, Task, members_of

_LOG = logging.getLogger("layergroups")
_MENTIONED = 10  # things that a one-line message names


class Opener(Protocol):
    """Opens images by their names, with the arguments of `open_picture`."""

    def open(self, name: str, *, min_size: int | None = None, channels: int = 3) -> Picture:
        """The image."""


class MaskOpener(Protocol):
    """Opens masks by their names."""

    def open(self, paths: Sequence[str]) -> torch.Tensor:
        """The target of every pixel: int16 (H, W), or int8 (C, H, W) if labels may overlap."""

    def to_config(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""


@dataclass(frozen=True)
class Samples:
    """Image files and, where they are known, the labels to learn."""

    files: tuple[str, ...]  # strings, because a large set of those is small
    # Of each file the position of its class in the vocabulary, those of its labels, or its numbers.
    labels: tuple[Label, ...] | None = None
    task: Task = TASKS["multiclass"]
    c: int = 0  # outputs that a network needs
    # Opens the images where they are items of a dataset and not files.
    items: Opener | None = field(default=None, compare=False, repr=False)
    # Reads the labels where they are masks.
    masks: MaskOpener | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(map(Path, self.files))

    @property
    def read_files(self) -> tuple[str, ...]:
        """All files that are read: images, and masks where labels are these."""
        labels = (label for label in self.labels or () if isinstance(label, MaskFile))
        return (*self.files, *(path for label in labels for path in label.paths if path))

    def take(self, positions: Iterable[int]) -> Samples:
        """Those at the positions, in that order."""
        wanted = tuple(positions)
        labels = None if self.labels is None else tuple(self.labels[i] for i in wanted)
        return replace(self, files=tuple(self.files[i] for i in wanted), labels=labels)

    def target(self, position: int) -> int | torch.Tensor:
        """The target of one image; -1 if it has no label."""
        return self.task.target(self.labels[position] if self.labels else None, self.c)

    def mask(self, position: int) -> torch.Tensor | None:
        """The mask of one image; None if labels are not masks."""
        label = self.labels[position] if self.labels else None
        if self.masks is None or not isinstance(label, MaskFile):
            return None
        return self.masks.open(label.paths)

    def targets(self) -> torch.Tensor:
        """Of all images: classes int64 (N,), labels float32 (N, C), or numbers float64 (N, K)."""
        return self.task.targets(self.labels or (), self.c)

    def classes(self) -> tuple[int, ...]:
        """The class of each image; empty if they have none, or are not of one class each."""
        return tuple(label for label in self.labels or () if isinstance(label, int))

    def counts(self, n_classes: int) -> tuple[int, ...]:
        """How many images each class or label has; zeros for numbers."""
        return self.task.counts(self.labels or (), n_classes)


@dataclass(frozen=True)
class Split:
    """Images in two parts, and what their labels mean."""

    vocab: tuple[str, ...]
    train: Samples
    valid: Samples
    broken: tuple[BrokenImage, ...] = ()


def check_valid_pct(valid_pct: float) -> float:
    if not isinstance(valid_pct, int | float) or not 0 < valid_pct < 1:
        raise DataError(
            f"valid_pct={valid_pct!r} must be between 0 and 1: the share of the items for "
            "validation. For 20 % write valid_pct=0.2."
        )
    return valid_pct


def divided(
    samples: Samples,
    vocab: Sequence[str],
    valid_pct: float,
    seed: int,
    *,
    source: object,
    broken: Sequence[BrokenImage] = (),
) -> Split:
    """Keep a share for validation: of each class or label, else of all images."""
    train_at, valid_at = samples.task.split(samples.labels or (), valid_pct, seed)
    if not valid_at:
        few = samples.task.few_items.format(source)
        raise DataError(f"{few}, so there is nothing to validate with. Add items.")
    found = Split(tuple(vocab), samples.take(train_at), samples.take(valid_at), tuple(broken))
    warn_of_unmeasured(found)
    return found


def warn_of_unmeasured(found: Split) -> None:
    """Log which classes or labels have images, but none for validation."""
    counts = [part.counts(len(found.vocab)) for part in (found.train, found.valid)]
    few = [
        (name, n)
        for name, n, measured in zip(found.vocab, *counts, strict=True)
        if n > measured == 0
    ]
    single, several = ([name for name, n in few if (n == 1) is one] for one in (True, False))
    if single:
        _LOG.warning(
            "One item only of %s: used for training, none for validation.", names_of(single)
        )
    if several:
        _LOG.warning(
            "No item of %s is for validation: each of them also has a rarer label that is needed "
            "for training.", names_of(several),
        )  # fmt: skip


def names_of(names: Iterable[object]) -> str:
    """Some names for a message: the first ten, and how many more there are."""
    return first_few(map(repr, names), _MENTIONED)


def joined(one: Samples, other: Samples) -> Samples:
    """The images of both in the order of their files, independent of the earlier split."""
    labels = (*(one.labels or ()), *(other.labels or ()))
    both = replace(one, files=one.files + other.files, labels=labels)
    return both.take(sorted(range(len(both)), key=lambda i: (both.files[i], i)))


def folds_of(samples: Samples, n: int, seed: int) -> list[tuple[list[int], list[int]]]:
    """Positions for training and for validation, n times, each ascending.

    Every class is divided evenly if each image has one, else all images are. The remainder of a
    class continues where the class before ended, so fold sizes differ by one image at most.
    """
    if isinstance(n, bool) or not isinstance(n, int) or not 2 <= n <= len(samples):
        raise DataError(
            f"folds({n!r}): expected a whole number from 2 to the number of images, "
            f"{len(samples)}; for example folds(5)."
        )
    fold: dict[int, int] = {}
    for label, members in sorted(members_of(samples.classes() or (0,) * len(samples)).items()):
        for position in random.Random(f"folds/{seed}/{label}").sample(members, len(members)):
            fold[position] = len(fold) % n
    return [
        (
            [i for i in range(len(samples)) if fold[i] != number],
            [i for i in range(len(samples)) if fold[i] == number],
        )
        for number in range(n)
    ]
