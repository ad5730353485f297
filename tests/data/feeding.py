"""Makers of batches for tests."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from layergroups.data import (
    Augmentation,
    EvalTransform,
    Samples,
    TrainLoader,
)
from layergroups.data._batches import (
    BatchMaker,
    ImageDataset,
)
from layergroups.data.image._transforms import TrainTransform

N = 11


PLAIN = EvalTransform((12, 12))


DEFAULT = Augmentation()


@pytest.fixture
def photos(photo: Callable[..., Path]) -> Samples:
    files = tuple(str(photo(f"{i}.jpg", seed=i, size=(20, 16))) for i in range(N))
    return Samples(files, tuple(i % 3 for i in range(N)))


def fed(photos: Samples, workers: int = 0, augment: Any = DEFAULT) -> BatchMaker:
    varied = None if augment is None else TrainTransform(augment, PLAIN)
    return BatchMaker(ImageDataset(photos, PLAIN, varied), workers)


def training(photos: Samples, workers: int = 0, size: int = 4, seed: int = 5) -> TrainLoader:
    return TrainLoader(fed(photos, workers), size, seed)


def together(batches: Iterable[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = list(batches)
    return torch.cat([x for x, _ in pairs]), torch.cat([y for _, y in pairs])


def same(one: Iterable[Any], other: Iterable[Any]) -> bool:
    return all(map(torch.equal, together(one), together(other)))
