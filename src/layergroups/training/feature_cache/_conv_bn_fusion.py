"""A frozen convolution and the batch norm behind it, run as one while their outputs are kept.

In eval mode a batch norm is a factor and a shift for each channel, which the convolution before it
can do by itself: scale its weights once, and a pass over all its outputs is saved. In an
EfficientNet on a CPU batch norms are a quarter of the time. Which norm stands behind which
convolution is found by trial, and the folded run is compared with the plain one before it is used.

Source: conv-bn fusion, as in `torch.nn.utils.fusion`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from layergroups.training.feature_cache._feature_cut import FeatureCut, forwards, record

_AT_ONCE = 32  # items that run through the frozen layers together


_PROBE = 3  # items on which the two ways are compared


_NEAR = 1e-4  # of the largest value, by which they may differ


class Folding:
    """Runs the constant part of a model for passages, folded where that gives the same.

    Args:
        model: from inputs to outputs, in eval mode while it is run.
        passages: whose kept values are wanted.
        on: False runs it as it is, to the bit.
    """

    def __init__(
        self, model: nn.Module, passages: Sequence[FeatureCut], *, on: bool = True
    ) -> None:
        self.model = model
        self.passages = passages
        self.on = on
        self._pairs: Mapping[str, str] | None = None if on else {}

    @classmethod
    def kept(
        cls, known: Folding | None, model: nn.Module, passages: Sequence[FeatureCut], *, on: bool
    ) -> Folding:
        """The one that is known, if it is of this model and these passages; else a new one."""
        if known is None or known.model is not model or known.on is not on:
            return cls(model, passages, on=on)
        same = [*map(id, known.passages)] == [*map(id, passages)]
        return known if same else cls(model, passages, on=on)

    def record(self, inputs: Any) -> list[list[Tensor]]:
        """As `replay.record`, within float tolerance."""
        if self._pairs is None:
            self._pairs = self._found(inputs)
        with folded(self.model, self._pairs):
            parts = [record(self.model, self.passages, some) for some in _portions(inputs)]
        if len(parts) == 1:
            return parts[0]
        by_passage = zip(*parts, strict=True)
        return [[torch.cat(rows) for rows in zip(*each, strict=True)] for each in by_passage]

    def _found(self, inputs: Any) -> Mapping[str, str]:
        """Convolutions, each with the norm behind it; none if the folded run gives other values."""
        some = inputs[:_PROBE] if isinstance(inputs, Tensor) else inputs
        pairs = find_pairs(self.model, self.passages, some)
        if not pairs:
            return {}
        plain = record(self.model, self.passages, some)
        with folded(self.model, pairs):
            again = record(self.model, self.passages, some)
        return pairs if _near(plain, again) else {}


def _portions(inputs: Any) -> Sequence[Any]:
    """On a CPU some items at a time: activations of more take memory, and save no time."""
    if isinstance(inputs, Tensor) and inputs.device.type == "cpu":
        return torch.split(inputs, _AT_ONCE)
    return [inputs]


def find_pairs(model: nn.Module, passages: Sequence[FeatureCut], inputs: Any) -> Mapping[str, str]:
    """Constant convolutions whose output goes into a constant batch norm: path -> path of the norm.

    Each of them runs once in a forward pass.
    """
    inside = _inside(model, passages)
    convolutions = [path for path, module in inside.items() if _is_plain_convolution(module)]
    norms = [path for path, module in inside.items() if _is_plain_norm(module)]
    calls: Counter[str] = Counter()
    made: dict[int, tuple[str, Tensor]] = {}  # the tensor is held, so that its id stays its own
    pairs: dict[str, str] = {}

    def makes(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Tensor) -> Any:
            calls[path] += 1
            value = forward(x)
            made[id(value)] = (path, value)
            return value

        return run

    def takes(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(x: Tensor) -> Any:
            calls[path] += 1
            if id(x) in made:
                pairs[made[id(x)][0]] = path
            return forward(x)

        return run

    with forwards(model, convolutions, makes), forwards(model, norms, takes):
        record(model, passages, inputs)
    return {conv: norm for conv, norm in pairs.items() if calls[conv] == calls[norm] == 1}


@contextmanager
def folded(model: nn.Module, pairs: Mapping[str, str]) -> Iterator[None]:
    """For a while, each convolution does the work of the norm behind it, which rests."""

    def both(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        conv: Any = model.get_submodule(path)
        norm: Any = model.get_submodule(pairs[path])
        statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        with torch.no_grad():
            weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
        return lambda x: conv._conv_forward(x, weight.detach(), bias.detach())

    def rests(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        norm: Any = model.get_submodule(path)
        if isinstance(norm, BatchNormAct2d):
            return lambda x: norm.act(norm.drop(x))
        return lambda x: x

    with forwards(model, pairs, both), forwards(model, pairs.values(), rests):
        yield


def _inside(model: nn.Module, passages: Sequence[FeatureCut]) -> dict[str, nn.Module]:
    """All modules of the constant parts, by path."""
    return {
        below: module
        for passage in passages
        for path in passage.paths
        for below, module in model.get_submodule(path).named_modules(prefix=path)
    }


def _is_plain_convolution(module: nn.Module) -> bool:
    usual = type(module) is nn.Conv2d and "forward" not in module.__dict__
    return usual and "weight" in module._parameters  # else it is computed, as in spectral norm


def _is_plain_norm(module: nn.Module) -> bool:
    if type(module) not in (nn.BatchNorm2d, BatchNormAct2d) or "forward" in module.__dict__:
        return False
    whole = isinstance(module, nn.BatchNorm2d) and module.running_mean is not None
    return whole and not module.training


def _near(one: list[list[Tensor]], two: list[list[Tensor]]) -> bool:
    for ours, theirs in zip(one, two, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            if a.is_floating_point() and a.numel():
                if not float((a - b).abs().max()) <= _NEAR * float(a.abs().max()):
                    return False
            elif not torch.equal(a, b):
                return False
    return True
