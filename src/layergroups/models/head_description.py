"""Heads as plain data: a JSON-ready description of a head, and a head made from one.

Only the layers of the table `_LAYERS` are ever written or made. Nothing is imported by name and
nothing is unpickled, so that a description from an unknown hand can build no more than these.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from layergroups.errors import ModelError
from layergroups.models.heads import AdaptiveConcatPool2d
from layergroups.models.output_layers import SigmoidRange, TargetUnits
from layergroups.models.side_by_side import SideBySide

_NORM = ("num_features", "eps", "momentum", "affine", "track_running_stats")
_CONV = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "bias",
    "padding_mode",
)
_LAYERS: dict[str, tuple[type[nn.Module], tuple[str, ...]]] = {
    "AdaptiveAvgPool2d": (nn.AdaptiveAvgPool2d, ("output_size",)),
    "AdaptiveConcatPool2d": (AdaptiveConcatPool2d, ("size",)),
    "AdaptiveMaxPool2d": (nn.AdaptiveMaxPool2d, ("output_size", "return_indices")),
    "BatchNorm1d": (nn.BatchNorm1d, _NORM),
    "BatchNorm2d": (nn.BatchNorm2d, _NORM),
    "Conv2d": (nn.Conv2d, _CONV),
    "Dropout": (nn.Dropout, ("p", "inplace")),
    "Flatten": (nn.Flatten, ("start_dim", "end_dim")),
    "GELU": (nn.GELU, ("approximate",)),
    "Hardswish": (nn.Hardswish, ("inplace",)),
    "Identity": (nn.Identity, ()),
    "LayerNorm": (nn.LayerNorm, ("normalized_shape", "eps", "elementwise_affine", "bias")),
    "LeakyReLU": (nn.LeakyReLU, ("negative_slope", "inplace")),
    "Linear": (nn.Linear, ("in_features", "out_features", "bias")),
    "ReLU": (nn.ReLU, ("inplace",)),
    "SiLU": (nn.SiLU, ("inplace",)),
    "Sigmoid": (nn.Sigmoid, ()),
    "SigmoidRange": (SigmoidRange, ("low", "high")),
    "Tanh": (nn.Tanh, ()),
    "TargetUnits": (TargetUnits, ("mean", "std")),
}
_HOLDERS = {"Sequential": ("layers",), "SideBySide": ("dim", "layers")}
_NAMES = {layer: name for name, (layer, _) in _LAYERS.items()}


def describe_head(head: nn.Module) -> list[dict[str, Any]] | None:
    """A head as JSON-ready data, or None where it holds more than well-known plain layers.

    Weights are not in it. The names of the children are, so that a state dict of the head fits the
    one that `head_from_description` makes.

    Args:
        head: a `nn.Sequential` of plain layers and of further such `nn.Sequential`.

    Returns:
        One dict for each child, such as {"name": "0", "layer": "Linear", "in_features": 512,
        "out_features": 2, "bias": True}; or None, if `head` is not a `nn.Sequential` or if some
        layer in it is not in the table, is used twice, or has other tensors than its kind has.
    """
    modules = [module for _, module in head.named_modules(remove_duplicate=False)]
    if type(head) is not nn.Sequential or len(set(map(id, modules))) < len(modules):
        return None
    layers = _describe_children(head)
    if layers is None:
        return None
    with torch.device("meta"):
        again = head_from_description(layers)
    return layers if _shapes(again) == _shapes(head) else None


def head_from_description(layers: Sequence[Mapping[str, Any]]) -> nn.Sequential:
    """The head that a description stands for, with fresh weights.

    Args:
        layers: what `describe_head` returned, also after a trip through JSON.

    Returns:
        A `nn.Sequential` whose state dict has the names and shapes of the described head.

    Raises:
        ModelError: a layer is unknown, or its fields are not those of its kind.
    """
    if isinstance(layers, (str, Mapping)) or not isinstance(layers, Sequence):
        raise ModelError(
            f"The description of a head is a list of layers, not {type(layers).__name__}; "
            "describe_head(head) makes one."
        )
    children = OrderedDict(_child(fields) for fields in layers)
    if len(children) < len(layers):
        raise ModelError("The description of a head gives one name to two layers.")
    try:
        return nn.Sequential(children)
    except KeyError as error:
        raise ModelError(
            f"The description of a head has a layer of a wrong name: {error}"
        ) from error


def _describe_children(head: nn.Module) -> list[dict[str, Any]] | None:
    described = []
    for name, module in head.named_children():
        fields = _describe_layer(module)
        if fields is None:
            return None
        described.append({"name": name, **fields})
    return described


def _describe_layer(module: nn.Module) -> dict[str, Any] | None:
    if type(module) in (nn.Sequential, SideBySide):
        layers = _describe_children(module)
        dim = {"dim": module.dim} if isinstance(module, SideBySide) else {}
        return None if layers is None else {"layer": type(module).__name__, **dim, "layers": layers}
    name = _NAMES.get(type(module))
    if name is None:
        return None
    fields = {field: _value(module, field) for field in _LAYERS[name][1]}
    return {"layer": name, **fields}


def _value(module: nn.Module, field: str) -> Any:
    if field == "bias":
        return module.bias is not None
    value = getattr(module, field)
    if isinstance(value, torch.Tensor):
        return value.tolist()
    return list(value) if isinstance(value, tuple) else value


def _child(fields: Mapping[str, Any]) -> tuple[str, nn.Module]:
    """The name and the module of one described layer."""
    if not isinstance(fields, Mapping) or not {"name", "layer"} <= set(fields):
        raise ModelError(f'A described layer has a "name" and a "layer"; this one is {fields}.')
    name, layer = fields["name"], fields["layer"]
    arguments = {k: v for k, v in fields.items() if k not in ("name", "layer")}
    _check_fields(layer, tuple(arguments))
    if layer == "Sequential":
        return str(name), head_from_description(arguments["layers"])
    if layer == "SideBySide":
        return str(name), _side_by_side(arguments)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    try:
        return str(name), _LAYERS[layer][0](**values)
    except Exception as error:
        raise ModelError(f"{layer} cannot be made with {values}: {error}") from error


def _side_by_side(arguments: Mapping[str, Any]) -> SideBySide:
    layers, dim = head_from_description(arguments["layers"]), arguments["dim"]
    names = [name for name, _ in layers.named_children()]
    if not isinstance(dim, int) or not names or names != list(map(str, range(len(names)))):
        raise ModelError(
            f"A described SideBySide has a dim such as -1 and layers named 0, 1 and so on; this "
            f"one has dim={dim!r} and the layers {names}."
        )
    return SideBySide(layers, dim)


def _check_fields(layer: object, given: tuple[str, ...]) -> None:
    known = {**_HOLDERS, **{name: fields for name, (_, fields) in _LAYERS.items()}}
    if not isinstance(layer, str) or layer not in known:
        raise ModelError(
            f"A head cannot be made with a layer {layer!r}; known are {', '.join(sorted(known))}."
        )
    if set(given) != set(known[layer]):
        raise ModelError(
            f"The fields of {layer} are {', '.join(known[layer]) or 'none'}; "
            f"the description gives {', '.join(given) or 'none'}."
        )


def _shapes(head: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
