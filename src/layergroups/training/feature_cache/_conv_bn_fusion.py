"""Runs the frozen layers for the cache, with batch norms fused into convolutions.

In eval mode a batch norm is a scale and a shift for each channel, which the weights of the
convolution before it can take over. In an EfficientNet on a CPU batch norms take a quarter of the
time. A trial finds the pairs, and the fused run is compared with the plain one before it is used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, Final

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from layergroups._torch import own_parameters
from layergroups.training.feature_cache._feature_cut import (
    FeatureCut,
    few_items,
    replaced_forwards,
    run_frozen_part,
)

_AT_ONCE: Final = 32  # items that run through the frozen layers together
_TOLERANCE: Final = 1e-4  # of the largest value


class FrozenPart:
    """Runs the constant part of a model in eval mode; with `fuse`, fused if the values agree."""

    def __init__(self, model: nn.Module, cuts: Sequence[FeatureCut], *, fuse: bool) -> None:
        self.model = model
        self.cuts = cuts
        self.pairs: Mapping[str, str] | None = None if fuse else {}  # known after the first batch

    def run(self, inputs: Any) -> list[list[Tensor]]:
        if self.pairs is None:
            self.pairs = self._checked_pairs(few_items(inputs))
        portions: Sequence[Any] = [inputs]
        if isinstance(inputs, Tensor) and inputs.device.type == "cpu":
            # A few items at a time: activations of more take memory and save no time.
            portions = torch.split(inputs, _AT_ONCE)
        with fused(self.model, self.pairs):
            parts = [run_frozen_part(self.model, self.cuts, some) for some in portions]
        if len(parts) == 1:
            return parts[0]
        by_cut = zip(*parts, strict=True)
        return [[torch.cat(rows) for rows in zip(*each, strict=True)] for each in by_cut]

    def _checked_pairs(self, some: Any) -> Mapping[str, str]:
        """Convolutions, each with the norm behind it; none if the fused run gives other values."""
        pairs = find_pairs(self.model, self.cuts, some)
        if not pairs:
            return {}
        plain = run_frozen_part(self.model, self.cuts, some)
        with fused(self.model, pairs):
            again = run_frozen_part(self.model, self.cuts, some)
        same = all(map(_are_close, chain(*plain), chain(*again)))
        return pairs if same else {}


def find_pairs(model: nn.Module, cuts: Sequence[FeatureCut], inputs: Any) -> Mapping[str, str]:
    """Constant convolutions that feed a constant batch norm, by path; each of them runs once."""
    inside = {
        below: module
        for cut in cuts
        for path in cut.paths
        for below, module in model.get_submodule(path).named_modules(prefix=path)
    }
    convolutions = {path for path, module in inside.items() if _is_plain_convolution(module)}
    norms = {path for path, module in inside.items() if _is_plain_norm(module)}
    calls: Counter[str] = Counter()
    made: dict[int, tuple[str, Tensor]] = {}  # holds the tensors, so that no id is reused
    pairs: dict[str, str] = {}

    def watched(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Tensor) -> Any:
            calls[path] += 1
            if path in norms and id(x) in made:
                pairs[made[id(x)][0]] = path
            value = forward(x)
            if path in convolutions:
                made[id(value)] = (path, value)
            return value

        return run

    with replaced_forwards(model, [*convolutions, *norms], watched):
        run_frozen_part(model, cuts, inputs)
    return {conv: norm for conv, norm in pairs.items() if calls[conv] == calls[norm] == 1}


@contextmanager
def fused(model: nn.Module, pairs: Mapping[str, str]) -> Iterator[None]:
    """Within the block, each convolution does the work of the norm behind it, which does none."""

    def both(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        conv: Any = model.get_submodule(path)
        norm: Any = model.get_submodule(pairs[path])
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        with torch.no_grad():
            weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        return lambda x: conv._conv_forward(x, weight.detach(), bias.detach())

    def activation_only(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        norm: Any = model.get_submodule(path)
        if isinstance(norm, BatchNormAct2d):
            return lambda x: norm.act(norm.drop(x))
        return lambda x: x

    with (
        replaced_forwards(model, pairs, both),
        replaced_forwards(model, pairs.values(), activation_only),
    ):
        yield


def _is_plain_convolution(module: nn.Module) -> bool:
    usual = type(module) is nn.Conv2d and "forward" not in module.__dict__
    return usual and "weight" in own_parameters(module)  # else it is computed, as in spectral norm


def _is_plain_norm(module: nn.Module) -> bool:
    if type(module) not in (nn.BatchNorm2d, BatchNormAct2d) or "forward" in module.__dict__:
        return False
    whole = isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
    return whole and not module.training


def _are_close(a: Tensor, b: Tensor) -> bool:
    if not a.is_floating_point() or not a.numel():
        return torch.equal(a, b)
    return float((a - b).abs().max()) <= _TOLERANCE * float(a.abs().max())
