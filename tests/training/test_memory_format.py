"""Batches come in the layout in which the CPU's kernels are right."""

from __future__ import annotations

import subprocess
import sys

import torch
from torch import nn

from layergroups.training.feature_cache._cached_epochs import CachedInputs
from layergroups.training.hardware._memory_format import in_fast_layout, in_safe_layout


def photos() -> torch.Tensor:
    return torch.randn(4, 3, 32, 32).contiguous(memory_format=torch.channels_last)


def test_batches_stay_as_they_are_where_nothing_goes_wrong() -> None:
    x = photos()
    assert in_safe_layout(x, nn.Conv2d(3, 8, 3, stride=2)) is x
    assert in_safe_layout(x, nn.Conv2d(3, 8, 1)) is x
    assert in_safe_layout(x, nn.Sequential(nn.Conv2d(64, 8, 1, stride=2))) is x
    assert in_safe_layout({"x": x}, nn.Linear(2, 2)) == {"x": x}


def test_a_strided_convolution_of_one_pixel_and_few_channels_gets_the_ordinary_layout() -> None:
    x, model = photos(), nn.Sequential(nn.Conv2d(3, 8, 1, stride=2))
    given = in_safe_layout(x, model)
    assert isinstance(given, torch.Tensor)
    assert given.is_contiguous()
    assert torch.equal(given, x)
    stored = in_safe_layout(CachedInputs([x, torch.zeros(4, 2)]), model)
    assert isinstance(stored, CachedInputs)
    assert stored[0].is_contiguous()


def test_it_sees_surgery_and_a_stride_that_changes_in_place() -> None:
    x, model = photos(), nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3))
    assert in_safe_layout(x, model) is x
    model[0].stride = (2, 2)
    assert in_safe_layout(x, model) is not x
    model[0] = nn.Conv2d(3, 8, 1)
    assert in_safe_layout(x, model) is x
    model[1] = nn.Conv2d(8, 8, 1, stride=2)
    assert in_safe_layout(x, model) is not x


def test_convolutions_come_into_channels_last_and_keep_values_and_identity() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Flatten())
    weights = [(p, p.detach().clone()) for p in model.parameters()]
    assert in_fast_layout(model) is model
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    for (parameter, value), now in zip(weights, model.parameters(), strict=True):
        assert now is parameter
        assert torch.equal(now, value)


def test_a_model_in_which_that_goes_wrong_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1, stride=2))
    assert in_fast_layout(model)[0].weight.is_contiguous()


def test_parametrized_and_lazy_convolutions_are_left_alone() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3)), nn.LazyConv2d(4, 3)
    )
    in_fast_layout(model)
    assert model(photos()).shape[1] == 4


def test_such_a_network_trains_without_a_crash() -> None:
    """In a process of its own: with the wrong layout it ends with a segmentation fault."""
    code = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from layergroups import Learner
x = torch.randn(8, 3, 96, 96).contiguous(memory_format=torch.channels_last)
class Batches:
    def __len__(self): return 6
    def __iter__(self):
        for _ in range(6): yield x, torch.arange(8) % 2
class Loaders:
    train = Batches(); valid = Batches(); c = 2; vocab = ("a", "b"); seed = 0
net = nn.Sequential(nn.Conv2d(3, 48, 1, stride=2), nn.BatchNorm2d(48), nn.ReLU(),
                    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 2))
Learner(Loaders(), net, progress=False).fit(1, 1e-3)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
