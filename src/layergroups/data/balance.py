"""How often each training photo comes in an epoch, where classes are not equally frequent.

Photos are drawn by systematic sampling: of a class that is due k times in an epoch, k photos come,
within one, and each of its photos as often as the others, within one. Ordinary weighted sampling
with replacement would draw some photos five times and others never, just by chance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from layergroups.data.photos import Photos
from layergroups.errors import DataError

Balance = bool | Mapping[str, float] | Sequence[float]


def photo_weights(balance: Any, photos: Photos, vocab: Sequence[str]) -> Tensor | None:
    """The part of an epoch that each photo is due, float64 (N,), summing to 1; None for all alike.

    Args:
        balance: False; True for all classes equally often; how often each class comes against the
            others, by name; or a weight for each training photo.
        photos: the training photos.
        vocab: names of the classes.

    Raises:
        DataError: it is none of these, or does not fit the photos.
    """
    if balance is False or balance is None:
        return None
    if balance is True or isinstance(balance, Mapping):
        wanted = _class_weights(balance, photos, vocab)
        labels = torch.tensor(photos.labels)
        counts = torch.bincount(labels, minlength=len(vocab)).double()
        return _parts((wanted / counts.clamp(min=1))[labels], balance)
    if isinstance(balance, str | bytes) or not hasattr(balance, "__len__"):
        raise DataError(_expected(balance))
    if len(balance) != len(photos):
        raise DataError(
            f"balance= has {len(balance)} weights for {len(photos)} training photos; give one for "
            "each, in the order of train_photos, or balance=True."
        )
    try:
        return _parts(torch.tensor([float(weight) for weight in balance]), balance)
    except (TypeError, ValueError) as cause:
        raise DataError(_expected(balance)) from cause


def weighted_order(weights: Tensor, labels: Sequence[Any] | None, seed: int) -> Tensor:
    """Photos of an epoch, int64 (N,): as many as there are, in random order; some come repeatedly.

    Args:
        weights: the part that each is due, summing to 1.
        labels: their classes, to share fairly within each; None if they have none.
        seed: decides which, and the order.
    """
    generator = torch.Generator().manual_seed(seed)
    n = len(weights)
    order = torch.randperm(n, generator=generator)
    if labels is not None and all(isinstance(label, int) for label in labels):
        order = order[torch.tensor(labels)[order].argsort(stable=True)]
    ends = weights[order].cumsum(0)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    points = (torch.arange(n, dtype=torch.float64) + start) / n * ends[-1]
    chosen = order[torch.searchsorted(ends, points, right=True).clamp(max=n - 1)]
    return chosen[torch.randperm(n, generator=generator)]


def _class_weights(balance: Any, photos: Photos, vocab: Sequence[str]) -> Tensor:
    labels = photos.labels or ()
    if not labels or not all(isinstance(label, int) for label in labels):
        raise DataError(
            "balance= by class needs photos of one class each; for several labels or numbers give "
            "a weight for each training photo: balance=[1.0, 2.5, …]."
        )
    if balance is True:
        return torch.ones(len(vocab), dtype=torch.float64)
    if set(map(str, balance)) != set(vocab):
        raise DataError(
            f"balance= names {', '.join(map(str, balance))}; give how often each class comes "
            f"against the others, for all of {', '.join(vocab)}."
        )
    try:
        return torch.tensor([float(balance[name]) for name in vocab], dtype=torch.float64)
    except (TypeError, ValueError) as cause:
        raise DataError(_expected(balance)) from cause


def _parts(weights: Tensor, given: object) -> Tensor:
    total = float(weights.sum())
    if float(weights.min()) < 0 or not 0 < total < math.inf:
        raise DataError(_expected(given))
    return weights.double() / total


def _expected(given: object) -> str:
    return (
        f"balance={str(given)[:80]}: expected True for all classes equally often, numbers from 0 "
        'by class ({"cat": 1, "dog": 2}), or one number from 0 for each training photo.'
    )
