"""A set of photos as values: files and labels, chosen from and divided."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Photos:
    """Image files and, where they are known, their classes.

    Attributes:
        files: the paths, as strings because a large set of those is small.
        labels: the class of each file, a position in the vocabulary; None for unlabelled photos.
    """

    files: tuple[str, ...]
    labels: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.files)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, in order."""
        return tuple(map(Path, self.files))

    def take(self, positions: Iterable[int]) -> Photos:
        """Those at the positions, in that order."""
        wanted = tuple(positions)
        labels = None if self.labels is None else tuple(self.labels[i] for i in wanted)
        return Photos(tuple(self.files[i] for i in wanted), labels)

    def counts(self, n_classes: int) -> tuple[int, ...]:
        """How many photos each class has; zeros where the photos have no labels."""
        counted = Counter(self.labels or ())
        return tuple(counted[label] for label in range(n_classes))


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
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(label, []).append(position)
    chosen: set[int] = set()
    for label, positions in members.items():
        n = len(positions)
        n_valid = min(max(1, round(n * valid_pct)), n - 1)
        chosen.update(random.Random(f"{seed}/{label}").sample(positions, n_valid))
    train = tuple(i for i in range(len(labels)) if i not in chosen)
    return train, tuple(sorted(chosen))
