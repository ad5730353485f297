"""Last layers of heads that give numbers: they bring outputs to the size of the targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layergroups.errors import ModelError


class SigmoidRange(nn.Module):
    """Any number to one between two bounds, by a sigmoid: low + (high - low) * sigmoid(x).

    A bound itself is never reached; choose bounds a little beyond the targets.

    Shapes: (N, ...) in, float of the same shape out.

    Source: fastai, `SigmoidRange` (Howard and others, Apache-2.0); written anew.
    """

    def __init__(self, low: float, high: float) -> None:
        """Keep the bounds.

        Raises:
            ModelError: they are not two finite numbers in rising order.
        """
        super().__init__()
        self.low, self.high = checked_range((low, high))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, ...) to numbers between the bounds."""
        return torch.sigmoid(x.float()) * (self.high - self.low) + self.low

    def extra_repr(self) -> str:
        """The bounds."""
        return f"low={self.low:g}, high={self.high:g}"


class TargetUnits(nn.Module):
    """Numbers around 0 to numbers in the units of the targets: x * std + mean, for each output.

    What a head learns is then of the same size whether its targets are fractions or thousands, so
    that one rate does for both. Mean and spread are buffers: they are saved and do not train.

    Shapes: (N, K) in, float (N, K) out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Keep mean and standard deviation of the targets, one of each for every output.

        Raises:
            ModelError: they are not as many finite numbers each, or a deviation is not positive.
        """
        super().__init__()
        pairs = [tuple(map(_finite, values)) for values in (mean, std)]
        if None in (*pairs[0], *pairs[1]) or len(pairs[0]) != len(pairs[1]) or not pairs[0]:
            raise ModelError(
                f"TargetUnits: mean={mean!r} and std={std!r} must be as many finite numbers each, "
                "one for every output, such as TargetUnits([0.4], [0.1])."
            )
        if min(value or 0.0 for value in pairs[1]) <= 0:
            raise ModelError(f"TargetUnits: std={std!r} must be above 0, such as [0.1].")
        self.register_buffer("mean", torch.tensor(pairs[0], dtype=torch.float32))
        self.register_buffer("std", torch.tensor(pairs[1], dtype=torch.float32))

    @classmethod
    def of(cls, targets: Tensor) -> TargetUnits:
        """Measured on targets (N, K); a number that is always the same counts as of spread 1."""
        exact = targets.double()
        std = exact.std(dim=0, correction=0)
        std = torch.where(std > 1e-12 * (1 + exact.abs().amax(dim=0)), std, torch.ones_like(std))
        return cls(exact.mean(dim=0).tolist(), std.tolist())

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (N, K) to the units of the targets."""
        return x.float() * self.std + self.mean

    def extra_repr(self) -> str:
        """How many outputs; their figures are weights, not structure."""
        return f"{len(self.mean)}"


def resize_units(model: nn.Module, after: int, kept: Sequence[int] = ()) -> None:
    """Let the `TargetUnits` of a model follow its head to another number of outputs, in place.

    Args:
        model: it is changed.
        after: outputs from now on.
        kept: positions of the old outputs that stay, at the front; further ones get mean 0, spread
            1.
    """
    for module in model.modules():
        if isinstance(module, TargetUnits):
            index = torch.tensor(list(kept), dtype=torch.long, device=module.mean.device)
            mean, std = module.mean.new_zeros(after), module.std.new_ones(after)
            mean[: len(index)], std[: len(index)] = module.mean[index], module.std[index]
            module.mean, module.std = mean, std


def checked_range(y_range: Any) -> tuple[float, float]:
    """Two bounds in rising order.

    Raises:
        ModelError: they are not.
    """
    try:
        low, high = map(_finite, y_range)
    except (TypeError, ValueError):
        low = high = None
    if low is None or high is None or low >= high:
        raise ModelError(
            f"y_range={y_range!r} must be two numbers, the lower one first: a little less than the "
            "least target and a little more than the greatest, such as y_range=(0, 1.05)."
        )
    return low, high


def _finite(value: Any) -> float | None:
    """A finite number, or None."""
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None
