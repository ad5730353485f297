"""Folds for cross-validation: each photo is for validation exactly once."""

from __future__ import annotations

import random
from dataclasses import replace

from layergroups.data.photos import Photos, members_of
from layergroups.errors import DataError


def joined(one: Photos, other: Photos) -> Photos:
    """The photos of both, in the order of their files, so that an earlier division leaves no trace.

    Both are of the same task and, where they are items, of the same datasets.
    """
    labels = (*(one.labels or ()), *(other.labels or ()))
    both = replace(one, files=one.files + other.files, labels=labels)
    return both.take(sorted(range(len(both)), key=lambda i: (both.files[i], i)))


def folds_of(photos: Photos, n: int, seed: int) -> list[tuple[list[int], list[int]]]:
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
