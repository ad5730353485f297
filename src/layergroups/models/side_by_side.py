"""Layers that take the same input and whose outputs stand side by side."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class SideBySide(nn.ModuleList):
    """Several classifiers as one: each sees the same input, and their outputs are joined.

    This is what `grow_head` puts in the place of a classifier. The old layer is the first part and
    runs as it ran before. One wider layer with copied rows would not do: for another width the
    matrix product adds its terms in another order, and the old outputs differ in their last bits.

    Args:
        layers: linear layers, or convolutions of the same stride.
        dim: where the outputs are counted from the end: -1 for linear layers, -3 for `Conv2d`.
    """

    def __init__(self, layers: Iterable[nn.Module], dim: int = -1) -> None:
        super().__init__(layers)
        self.dim = dim

    @property
    def in_features(self) -> int:
        """Numbers, or channels, that go into each part."""
        return inputs_of(self[0])

    @property
    def out_features(self) -> int:
        """Numbers, or channels, that come out of all parts together."""
        return sum(outputs_of(part) for part in self)

    def forward(self, x: Tensor) -> Tensor:
        """Join what the parts make of (..., in) to (..., out)."""
        return torch.cat([part(x) for part in self], dim=self.dim)


def parts_of(layer: nn.Module) -> list[nn.Module]:
    """The layers that a classifier is made of; one that was never grown is its only part."""
    return list(layer) if isinstance(layer, SideBySide) else [layer]


def whole_path(model: nn.Module, path: str) -> str:
    """The path of a classifier: for a part of a grown one that of the whole."""
    above = path.rpartition(".")[0]
    return above if path and isinstance(model.get_submodule(above), SideBySide) else path


def outputs_of(layer: nn.Module) -> int:
    """How many numbers, or channels, come out of a linear layer or a convolution."""
    return _size(layer, "out_features", "out_channels", 1)


def inputs_of(layer: nn.Module) -> int:
    """How many numbers, or channels, go into a linear layer or a convolution."""
    return _size(layer, "in_features", "in_channels", 0)


def _size(layer: Any, linear: str, convolution: str, column: int) -> int:
    for name in (linear, convolution):
        if isinstance(getattr(layer, name, None), int):
            return int(getattr(layer, name))
    return int(layer.weight.shape[column])  # Conv1D of transformers: its weight is (in, out)
