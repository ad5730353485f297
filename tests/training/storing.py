"""Learners whose frozen part is stored, and how often it runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training.tiny import Counter, TinyLoaders, pretrained, tiny_model
from torch import nn

from layergroups.training import Learner
from layergroups.training.feature_cache import CacheEntry


class PlainLoaders(TinyLoaders):
    """Photos that are not varied, so that a view is the photo."""

    def __init__(self, n: int = 48, noise: float = 0.0) -> None:
        super().__init__(n=n, noise=noise)


def counted() -> nn.Sequential:
    """A model whose body counts items; without dropout, so that runs can be compared."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pretrained(tiny_model())
    model[0].insert(0, Counter())
    model[0][7] = nn.Identity()
    model[1][3] = nn.Identity()
    return model


def learner(dls: Any = None, **options: Any) -> Learner:
    model = options.pop("model", None) or counted()
    split = options.pop("split", ["0.0", "0.8", "1"])
    given = {"progress": False, "seed": 0, "metrics": ["accuracy"], **options}
    return Learner(dls or PlainLoaders(), model, split=split, **given)


def kept(learn: Learner) -> CacheEntry:
    """What is kept at the one boundary that there is; nothing if there is none."""
    (known,) = learn.cache.entries.values() or [CacheEntry(0)]
    return known


def assert_close(one: Learner, two: Learner) -> None:
    for name, tensor in one.model.state_dict().items():
        torch.testing.assert_close(tensor, two.model.state_dict()[name], rtol=1e-4, atol=1e-5)
    for row, other in zip(one.history, two.history, strict=True):
        assert row.train_loss == pytest.approx(other.train_loss, rel=1e-4)
        assert row.valid_loss == pytest.approx(other.valid_loss, rel=1e-4)
        assert row.metrics == pytest.approx(other.metrics)
