"""Heads: the part of a network that answers the task, built after fastai's `create_head`.

A head can be described as plain data and made again from it. Only the layers of `_LAYERS` are
described or made: nothing is imported by name and nothing is unpickled, so a description from a
stranger can build nothing else.
"""

from __future__ import annotations

import inspect
import math
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypedDict

import torch
from torch import Tensor, nn

from layergroups._paths import parent
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
    """Let the `TargetUnits` of a model follow its head to another number of outputs, in place."""
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


_HIDDEN = 512
_QUIET = 0.01  # how much smaller the last weights begin where a layer for numbers follows


class AdaptiveConcatPool2d(nn.Module):
    """Global maximum and global average of each channel, side by side.

    The two pools are the children `ap` and `mp`, registered and run in that order. The output holds
    the maxima first and the averages after them, which is fastai's order of channels, so that the
    weights of a head trained there fit.

    Shapes: (N, C, H, W) in, (N, 2 C, size, size) out.

    Source: fastai, `AdaptiveConcatPool2d` (Howard and others, Apache-2.0); written anew.
    """

    def __init__(self, size: int | tuple[int, int] = 1) -> None:
        super().__init__()
        self.size = size
        self.ap = nn.AdaptiveAvgPool2d(size)
        self.mp = nn.AdaptiveMaxPool2d(size)

    def forward(self, x: Tensor) -> Tensor:
        """Pool (N, C, H, W) features to (N, 2 C, size, size)."""
        average = self.ap(x)
        return torch.cat([self.mp(x), average], dim=1)


class HeadOptions(TypedDict, total=False):
    """The optional arguments of `create_head`, except for `pool`."""

    lin_ftrs: Sequence[int] | None
    ps: float | Sequence[float]
    concat_pool: bool
    bn_final: bool
    first_bn: bool
    lin_first: bool
    y_range: tuple[float, float] | None
    units: TargetUnits | None


def create_head(
    nf: int,
    n_out: int,
    *,
    lin_ftrs: Sequence[int] | None = None,
    ps: float | Sequence[float] = 0.5,
    pool: bool = True,
    concat_pool: bool = True,
    bn_final: bool = False,
    first_bn: bool = True,
    lin_first: bool = False,
    y_range: tuple[float, float] | None = None,
    units: TargetUnits | None = None,
) -> nn.Sequential:
    """A head of linear layers on the features of a body, as one flat `nn.Sequential`.

    With the default arguments, nf=512 and n_out=2 it is AdaptiveConcatPool2d, Flatten,
    BatchNorm1d(1024), Dropout(0.25), Linear(1024, 512), ReLU, BatchNorm1d(512), Dropout(0.5),
    Linear(512, 2). Every linear layer has a bias, as in fastai 1 (fastai 2 leaves it out after a
    batch norm). Linear weights start Kaiming-normal, biases at zero; the last ones a hundredth of
    that where `y_range` or `units` is given, so that the first outputs are near the middle.

    Args:
        nf: channels that the body gives, before a concat pool doubles them.
        n_out: outputs, such as the number of classes.
        lin_ftrs: sizes of the hidden linear layers; None is one layer of 512, [] is none.
        ps: dropout before each linear layer: one number for the last (the earlier ones get half of
            it), or one number for each. A dropout of 0 is left out.
        pool: begin with a pool and Flatten, for features (N, nf, H, W); False for features (N, nf).
        concat_pool: pool by maximum and average, which doubles the features; False: average alone.
        bn_final: end with a batch norm of momentum 0.01 on the outputs.
        first_bn: a batch norm in the first block.
        lin_first: within a block the linear layer and its ReLU stand before norm and dropout.
        y_range: for numbers: end with a `SigmoidRange` between these bounds.
        units: for numbers: end with this layer, which brings them to the size of the targets.

    Returns:
        The head: (N, nf, H, W), or (N, nf) without pool, in; (N, n_out) out.

    Raises:
        ModelError: an argument is out of range, or `ps` has the wrong length.

    Source: fastai, `create_head` and `apply_init(kaiming_normal_)`; He and others, "Delving Deep
    into Rectifiers" (2015), for the initial weights.
    """
    hidden = _hidden_sizes(lin_ftrs)
    _check_sizes(nf, n_out, hidden)
    rates = _dropout_rates(ps, len(hidden) + 1)
    features = nf * 2 if pool and concat_pool else nf
    layers: list[nn.Module] = []
    if pool:
        layers += [AdaptiveConcatPool2d() if concat_pool else nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    blocks = _linear_first if lin_first else _linear_last
    layers += blocks([features, *hidden, n_out], rates, first_bn)
    if bn_final:
        layers.append(nn.BatchNorm1d(n_out, momentum=0.01))
    layers += _output_layer(n_out, y_range, units)
    head = nn.Sequential(*layers)
    _init_linears(head, quiet=y_range is not None or units is not None)
    return head


def _linear_last(sizes: list[int], rates: list[float], first_bn: bool) -> list[nn.Module]:
    """Blocks of norm, dropout, linear; a ReLU after each linear layer but the last."""
    layers: list[nn.Module] = []
    for index, (n_in, n_out) in enumerate(pairwise(sizes)):
        layers += _norm_and_dropout(n_in, rates[index], norm=first_bn or index > 0)
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return layers[:-1]


def _linear_first(sizes: list[int], rates: list[float], first_bn: bool) -> list[nn.Module]:
    """A dropout, blocks of linear, ReLU, norm, dropout, then the last linear layer."""
    layers = _norm_and_dropout(sizes[0], rates[0], norm=False)
    for index, (n_in, n_out) in enumerate(pairwise(sizes[:-1])):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
        layers += _norm_and_dropout(n_out, rates[index + 1], norm=first_bn or index > 0)
    return [*layers, nn.Linear(sizes[-2], sizes[-1])]


def _norm_and_dropout(features: int, rate: float, *, norm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = [nn.BatchNorm1d(features)] if norm else []
    return [*layers, nn.Dropout(rate)] if rate else layers


def _output_layer(
    n_out: int, y_range: tuple[float, float] | None, units: TargetUnits | None
) -> list[nn.Module]:
    """What brings the numbers to the size of the targets, if anything does."""
    if y_range is not None and units is not None:
        raise ModelError("create_head: give y_range=, which bounds the numbers, or units=.")
    if units is not None and not isinstance(units, TargetUnits):
        raise ModelError(
            f"create_head: units= is a {type(units).__name__}. Right would be "
            "units=TargetUnits.of(targets), with targets (N, n_out)."
        )
    if units is not None and len(units.mean) != n_out:
        raise ModelError(
            f"create_head: units= are of {len(units.mean)} numbers, but the head gives {n_out}. "
            "Right would be units=TargetUnits.of(targets), with targets (N, n_out)."
        )
    if y_range is not None:
        return [SigmoidRange(*checked_range(y_range))]
    return [] if units is None else [units]


def _init_linears(head: nn.Sequential, *, quiet: bool) -> None:
    """Fresh weights; a quiet head begins near the middle of its numbers, not with noise around."""
    linears = [layer for layer in head if isinstance(layer, nn.Linear)]
    for layer in linears:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    if quiet:
        with torch.no_grad():
            linears[-1].weight.mul_(_QUIET)


def _hidden_sizes(lin_ftrs: object) -> list[int]:
    """Sizes of the hidden layers; a list, even of one."""
    if lin_ftrs is None:
        return [_HIDDEN]
    if not isinstance(lin_ftrs, Sequence) or isinstance(lin_ftrs, str | bytes):
        raise ModelError(
            f"create_head: lin_ftrs={lin_ftrs!r} must be a list of sizes, such as lin_ftrs=[256]; "
            "[] for no hidden layer."
        )
    return list(lin_ftrs)


def _check_sizes(nf: int, n_out: int, hidden: list[int]) -> None:
    named = [("nf", nf), ("n_out", n_out), *(("a size in lin_ftrs", size) for size in hidden)]
    for name, value in named:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ModelError(
                f"create_head: {name} must be a whole number of 1 or more, not {value!r}. "
                "Right would be create_head(512, 10, lin_ftrs=[256])."
            )


def _dropout_rates(ps: float | Sequence[float], linears: int) -> list[float]:
    """One dropout rate for each of the linear layers."""
    given = list(ps) if isinstance(ps, Sequence) else [ps]
    for rate in given:
        if not isinstance(rate, (int, float)) or not math.isfinite(rate) or not 0 <= rate < 1:
            raise ModelError(f"create_head: a dropout in ps must lie in 0 <= p < 1, not {rate!r}.")
    if len(given) == 1:
        return [given[0] / 2] * (linears - 1) + [float(given[0])]
    if len(given) != linears:
        raise ModelError(
            f"create_head: ps has {len(given)} numbers, but the head has {linears} linear layers "
            f"(lin_ftrs gives {linears - 1} hidden, and the last). Give one number, which the last "
            f"layer takes and the others halve, or {linears}: ps={[0.25] * (linears - 1) + [0.5]}."
        )
    return [float(rate) for rate in given]


class ConcatLinear(nn.ModuleList):
    """Several linear layers or convolutions that read the same input; their outputs are joined.

    `grow_head` replaces a classifier by one of these. The old layer is the first part and runs as
    before. A single wider layer with copied rows would not do: a matrix product of a different
    width adds its terms in a different order, so the old outputs would differ in their last bits.

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
    return list(layer) if isinstance(layer, ConcatLinear) else [layer]


def whole_path(model: nn.Module, path: str) -> str:
    """The path of a classifier: for a part of a grown one that of the whole."""
    above = parent(path)
    return above if path and isinstance(model.get_submodule(above), ConcatLinear) else path


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


_LAYERS: dict[str, type[nn.Module]] = {
    layer.__name__: layer
    for layer in (
        nn.AdaptiveAvgPool2d, AdaptiveConcatPool2d, nn.AdaptiveMaxPool2d, nn.BatchNorm1d,
        nn.BatchNorm2d, nn.Conv2d, nn.Dropout, nn.Flatten, nn.GELU, nn.Hardswish, nn.Identity,
        nn.LayerNorm, nn.LeakyReLU, nn.Linear, nn.ReLU, nn.SiLU, nn.Sigmoid, SigmoidRange, nn.Tanh,
        TargetUnits,
    )
}  # fmt: skip
_HOLDERS = {"Sequential": ("layers",), "ConcatLinear": ("dim", "layers")}
_OLD_NAMES = {"SideBySide": "ConcatLinear"}


def _fields(layer: str) -> tuple[str, ...]:
    """The arguments of a layer that an attribute of the same name holds."""
    if layer in _HOLDERS:
        return _HOLDERS[layer]
    named = inspect.signature(_LAYERS[layer]).parameters.values()
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in named if p.kind not in fixed and p.name not in ("device", "dtype"))


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
    name = type(module).__name__
    if type(module) in (nn.Sequential, ConcatLinear):
        layers = _describe_children(module)
        dim = {"dim": module.dim} if isinstance(module, ConcatLinear) else {}
        return None if layers is None else {"layer": name, **dim, "layers": layers}
    if _LAYERS.get(name) is not type(module):
        return None
    return {"layer": name} | {field: _value(module, field) for field in _fields(name)}


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
    name = str(fields["name"])
    layer = fields["layer"] if isinstance(fields["layer"], str) else ""
    layer = _OLD_NAMES.get(layer, layer)
    if layer not in _LAYERS | _HOLDERS:
        raise ModelError(
            f"A head cannot be made with a layer {fields['layer']!r}; known are "
            f"{', '.join(sorted(_LAYERS | _HOLDERS))}."
        )
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    del values["name"], values["layer"]
    if layer in _HOLDERS and set(values) == set(_HOLDERS[layer]):
        layers = head_from_description(list(values["layers"]))
        return name, layers if layer == "Sequential" else _concat_linear(layers, values["dim"])
    try:
        inspect.signature(_LAYERS[layer]).bind(**values)
    except (KeyError, TypeError) as error:
        raise ModelError(
            f"The fields of {layer} are {', '.join(_fields(layer)) or 'none'}; "
            f"the description gives {', '.join(values) or 'none'}."
        ) from error
    try:
        return name, _LAYERS[layer](**values)
    except Exception as error:
        raise ModelError(f"{layer} cannot be made with {values}: {error}") from error


def _concat_linear(layers: nn.Sequential, dim: object) -> ConcatLinear:
    names = [name for name, _ in layers.named_children()]
    if not isinstance(dim, int) or not names or names != list(map(str, range(len(names)))):
        raise ModelError(
            f"A described ConcatLinear has a dim such as -1 and layers named 0, 1 and so on; this "
            f"one has dim={dim!r} and the layers {names}."
        )
    return ConcatLinear(layers, dim)


def _shapes(head: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
