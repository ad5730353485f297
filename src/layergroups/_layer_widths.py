"""Explain a shape error of torch: which layer does not fit the one before it, and which would."""

from __future__ import annotations

import traceback
from typing import Any

from torch import Tensor, nn

from layergroups._torch import tree_leaves


def wrong_width(model: object, inputs: Any, error: BaseException) -> str:
    """The layer in which the model raised `error` because of the width of its input; else "".

    A layer that reads the inputs of the model themselves does not count: there, they are wrong.
    """
    layer, shape = _failed_layer(error)
    direct = any(isinstance(t, Tensor) and tuple(t.shape) == shape for t in tree_leaves(inputs))
    if layer is None or direct or not isinstance(model, nn.Module):
        return ""
    takes, gets, fitting = _widths(layer, shape)
    if takes == gets:
        return ""
    path = next((name for name, module in model.named_modules() if module is layer), "")
    return (
        f"{path} is a {type(layer).__name__} for {takes} input features, but it gets a tensor of "
        f"shape {shape} from the layers before it. One that fits: {fitting}. If the model has run "
        "with inputs of a different size, give it those."
    )


def _failed_layer(error: BaseException) -> tuple[nn.Module | None, tuple[int, ...]]:
    """The innermost module on the traceback that holds its input, and the shape of that."""
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        layer, given = frame.f_locals.get("self"), frame.f_locals.get("input")
        if isinstance(layer, nn.Module) and isinstance(given, Tensor):
            return layer, tuple(given.shape)
    return None, ()


def _widths(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, int, str]:
    """How wide the input of a layer must be, how wide it is, and a layer that takes this shape."""
    kind = f"nn.{type(layer).__name__}"
    match layer:
        case nn.Linear():
            return layer.in_features, shape[-1], _linear(shape, layer.out_features)
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            if len(shape) <= 2:
                return layer.in_channels, 0, _linear(shape, layer.out_channels)
            sizes = f"{shape[1]}, {layer.out_channels}, {layer.kernel_size}"
            return layer.in_channels, shape[1], f"{kind}({sizes})"
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d() if len(shape) > 1:
            return layer.num_features, shape[1], f"{kind}({shape[1]})"
        case nn.LayerNorm() if shape:
            return layer.normalized_shape[-1], shape[-1], f"nn.LayerNorm({shape[-1]})"
    return 0, 0, ""


def _linear(shape: tuple[int, ...], outputs: int) -> str:
    if len(shape) == 4 and shape[1] != shape[2]:  # feature maps, channels first
        pooled = "nn.AdaptiveAvgPool2d(1), nn.Flatten()"
        return f"nn.Sequential({pooled}, nn.Linear({shape[1]}, {outputs}))"
    return f"nn.Linear({shape[-1]}, {outputs})"
