"""Explain an error of torch in a model: a layer of the wrong width, or inputs of another type."""

from __future__ import annotations

import traceback
from typing import Any

import torch
from torch import Tensor, nn

from layergroups._torch import tree_leaves


def call_error(model: object, inputs: Any, error: BaseException) -> str:
    """What is wrong with a model that raised `error` for these inputs, as far as known; else ""."""
    if not isinstance(model, nn.Module):
        return ""
    wrong = _wrong_type(model, inputs) if "type" in str(error) else ""
    return wrong or _wrong_width(model, inputs, error)


def _wrong_type(model: nn.Module, inputs: Any) -> str:
    given = [t.dtype for t in tree_leaves(inputs) if isinstance(t, Tensor)]
    given = [kind for kind in given if kind.is_floating_point or kind == torch.uint8]
    types = {p.dtype for p in model.parameters() if p.is_floating_point()}
    if not given or len(types) != 1 or types & set(given):
        return ""
    ours, theirs = (str(kind).removeprefix("torch.") for kind in (*types, given[0]))
    right = "Give float32 inputs, such as pixels.float() / 255."
    if theirs == "float32":
        short = {"bfloat16": "bf16", "float16": "fp16"}.get(ours)
        mixed = f', and for {ours} arithmetic mixed_precision="{short}"' if short else ""
        right = f"Use weights of that type: learn.model.to(torch.float32){mixed}."
    return f"its weights are {ours}, but the inputs are {theirs}. {right}"


def _wrong_width(model: nn.Module, inputs: Any, error: BaseException) -> str:
    """A layer that reads the inputs of the model does not count: there, they are wrong."""
    layer, shape = _failed_layer(error)
    direct = any(isinstance(t, Tensor) and tuple(t.shape) == shape for t in tree_leaves(inputs))
    if layer is None or direct:
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
            kind = f"nn.BatchNorm{max(1, len(shape) - 2)}d"
            gets = shape[1] if kind == f"nn.{type(layer).__name__}" else 0
            return layer.num_features, gets, f"{kind}({shape[1]})"
        case nn.LayerNorm() if shape:
            return layer.normalized_shape[-1], shape[-1], f"nn.LayerNorm({shape[-1]})"
    return 0, 0, ""


def _linear(shape: tuple[int, ...], outputs: int) -> str:
    if len(shape) == 4 and shape[1] != shape[2]:  # feature maps, channels first
        pooled = "nn.AdaptiveAvgPool2d(1), nn.Flatten()"
        return f"nn.Sequential({pooled}, nn.Linear({shape[1]}, {outputs}))"
    return f"nn.Linear({shape[-1]}, {outputs})"
