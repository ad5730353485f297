"""Convolutions and the batch norms behind them, run as one: the same values, nothing changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from tests.training.tiny import TinyLoaders, snapshot
from torch import Tensor, nn

from layergroups.training import Learner
from layergroups.training.feature_cache import _feature_cache
from layergroups.training.feature_cache._conv_bn_fusion import FrozenPart, find_pairs, fused
from layergroups.training.feature_cache._feature_cut import FeatureCut, find_cut, run_frozen_part
from layergroups.training.state._batch_norm_policy import evaluating


def lively(model: nn.Module) -> nn.Module:
    """With statistics and scales that are not those of a new batch norm."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                if tensor is not None:
                    tensor.data.add_(0.2 * torch.randn(tensor.shape, generator=generator))
            if module.running_var is not None:
                spread = torch.rand(module.running_var.shape, generator=generator)
                module.running_var.mul_(1 + spread)
    return model


class Both(nn.Module):
    """The convolution's output goes into the norm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.conv(x)
        return made + self.norm(made)


class Twice(nn.Module):
    """One convolution with two norms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.second(self.conv(self.first(self.conv(x))))
        return made


def tail(body: nn.Module, channels: int) -> nn.Sequential:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 3))
    return nn.Sequential(lively(body), pool)


BODIES: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "conv, norm": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()), 8, 1),
    "no bias, groups": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)), 6, 1,
    ),
    "no affine": (
        lambda: nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6, affine=False)), 6, 1,
    ),
    "timm": (
        lambda: timm.create_model("test_efficientnet", num_classes=0, global_pool=""), 256, 5,
    ),
    "goes past the norm": (Both, 8, 0),
    "called twice": (Twice, 3, 0),
    "no statistics": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)
        ), 8, 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BODIES)
def test_the_same_values_and_nothing_changed(kind: str) -> None:
    make, channels, least = BODIES[kind]
    torch.manual_seed(0)
    model, x = tail(make(), channels), torch.randn(5, 3, 32, 32)
    model[0].requires_grad_(False)
    before = snapshot(model)
    with evaluating(model):
        passages = [find_cut(model, ["0"], x)]
        plain = run_frozen_part(model, passages, x)
        folding = FrozenPart(model, passages, fuse=True)
        found = folding.run(x)
        used = len(folding.pairs or {})
    assert used >= least
    assert used == 0 or least > 0
    for one, two in zip(plain[0], found[0], strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)
    assert snapshot(model).keys() == before.keys()
    assert all(torch.equal(t, before[name]) for name, t in snapshot(model).items())
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_a_folded_norm_does_not_run() -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU())
    model, x = tail(body, 8), torch.randn(5, 3, 8, 8)
    model[0].requires_grad_(False)
    with evaluating(model):
        passages: list[FeatureCut] = [find_cut(model, ["0"], x)]
        pairs = find_pairs(model, passages, x)
        assert pairs == {"0.0": "0.1"}
        with fused(model, pairs):
            y = torch.randn(2, 8, 4, 4)
            assert torch.equal(model[0][1](y), y)
        assert not torch.equal(model[0][1](y), y)


def test_an_error_puts_everything_back() -> None:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    model = tail(body, 8)
    with pytest.raises(RuntimeError), fused(model, {"0.0": "0.1"}):
        model(torch.randn(2, 5, 8, 8))
    assert not any("forward" in module.__dict__ for module in model.modules())


def test_the_head_phase_folds_and_a_fit_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `fit` keeps is what the network gives, to the bit; a recipe's passes are the quick."""
    parts: list[FrozenPart] = []

    class Noted(FrozenPart):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            parts.append(self)

    monkeypatch.setattr(_feature_cache, "FrozenPart", Noted)
    learn = Learner(
        TinyLoaders(), tail(BODIES["conv, norm"][0](), 8), split=["1"], seed=0, progress=False
    )
    learn.freeze()
    learn.fit(3, 1e-2)
    assert parts
    assert not any(part.pairs for part in parts)
    learn.fine_tune(0)
    assert parts[-1].pairs == {"0.0": "0.1"}
