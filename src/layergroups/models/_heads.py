"""Heads, built like those of fastai's `create_head`, and their description as plain data.

A head can be rebuilt from its description. Only the layers of `_LAYERS` are supported: nothing is
imported by name or unpickled, so an untrusted description cannot build anything else.
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

from layergroups._checks import whole_number
from layergroups._paths import parent
from layergroups.errors import ModelError
from layergroups.models._decoder import Decoder


class SigmoidRange(nn.Module):
    """Map any number into a range, by a sigmoid: low + (high - low) * sigmoid(x).

    The bounds are never reached; choose them slightly beyond the targets.

    Shapes: (N, ...) in, float of the same shape out.

    Source: fastai, `SigmoidRange` (Howard and others, Apache-2.0); reimplemented.
    """

    def __init__(self, low: float, high: float) -> None:
        super().__init__()
        self.low, self.high = checked_range((low, high))

    def forward(self, x: Tensor) -> Tensor:
        """Map outputs (N, ...) to numbers between the bounds."""
        return torch.sigmoid(x.float()) * (self.high - self.low) + self.low

    def extra_repr(self) -> str:
        return f"low={self.low:g}, high={self.high:g}"


class TargetUnits(nn.Module):
    """Scale numbers around 0 to the units of the targets: x * std + mean, for each output.

    One learning rate then fits targets of any scale. Mean and deviation are saved and do not train.

    Shapes: (N, K) in, float (N, K) out.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        pairs = [tuple(map(_finite, values)) for values in (mean, std)]
        fits = None not in (*pairs[0], *pairs[1]) and len(pairs[0]) == len(pairs[1]) > 0
        if not fits or min(value or 0.0 for value in pairs[1]) <= 0:
            raise ModelError(
                f"TargetUnits: mean={mean!r} and std={std!r} must each have one finite number for "
                "every output, std above 0, such as TargetUnits([0.4], [0.1])."
            )
        self.register_buffer("mean", torch.tensor(pairs[0], dtype=torch.float32))
        self.register_buffer("std", torch.tensor(pairs[1], dtype=torch.float32))

    @classmethod
    def of(cls, targets: Tensor) -> TargetUnits:
        """Computed from targets (N, K); a constant target gets a standard deviation of 1."""
        exact = targets.double()
        std = exact.std(dim=0, correction=0)
        std = torch.where(std > 1e-12 * (1 + exact.abs().amax(dim=0)), std, torch.ones_like(std))
        return cls(exact.mean(dim=0).tolist(), std.tolist())

    def forward(self, x: Tensor) -> Tensor:
        """Scale outputs (N, K) to the units of the targets."""
        return x.float() * self.std + self.mean

    def extra_repr(self) -> str:
        """The number of outputs; their statistics are weights, not structure."""
        return f"{len(self.mean)}"


def resize_units(model: nn.Module, after: int, kept: Sequence[int] = ()) -> None:
    """Resize the `TargetUnits` of a model to a new number of outputs, in place."""
    for module in model.modules():
        if isinstance(module, TargetUnits):
            index = torch.tensor(list(kept), dtype=torch.long, device=module.mean.device)
            mean, std = module.mean.new_zeros(after), module.std.new_ones(after)
            mean[: len(index)], std[: len(index)] = module.mean[index], module.std[index]
            module.mean, module.std = mean, std


def checked_range(y_range: Any) -> tuple[float, float]:
    """Check that `y_range` is two bounds in ascending order, else raise `ModelError`."""
    try:
        low, high = map(_finite, y_range)
    except (TypeError, ValueError):
        low = high = None
    if low is None or high is None or low >= high:
        raise ModelError(
            f"y_range={y_range!r} must be two numbers, the lower one first, slightly beyond the "
            "smallest and the largest target, such as y_range=(0, 1.05)."
        )
    return low, high


def _finite(value: Any) -> float | None:
    plain = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if plain and math.isfinite(value) else None


_HIDDEN = 512
_QUIET = 0.01  # factor on the last initial weights of a head for a regression
# In standard deviations. Statistics of inner maps of blurred or noisy images can be far outside of
# what they were in training; a linear layer would follow them without end.
_FEATURE_LIMIT = 4.0


class AdaptiveConcatPool2d(nn.Module):
    """Concatenated global max and average pooling.

    The pools are the children `ap` and `mp`, registered and run in that order. The output has the
    maxima before the averages, like fastai's, so the weights of a head trained there fit.

    Shapes: (N, C, H, W) in, (N, 2 C, size, size) out.

    Source: fastai, `AdaptiveConcatPool2d` (Howard and others, Apache-2.0); reimplemented.
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


class DepthDropout(nn.Dropout):
    """Dropout for features of several depths: a training item keeps one of two kinds of them.

    These are the features of the body's output and those of its inner maps. In evaluation both are
    there, so the outputs of a linear layer on them are the mean of two that were trained apart. A
    layer trained on both together relies on whichever fits the training items faster; with a few
    items of each class these are often the wrong ones.

    Args:
        p: probability that a single feature becomes zero, as in `nn.Dropout`.
        inner: how many of the features, the last ones, are of inner maps.

    Shapes: (N, F) in, (N, F) out, F at least `inner`.

    Source: Neverova and others, "ModDrop: Adaptive Multi-Modal Gesture Recognition" (2016), for
    dropping whole sources of features.
    """

    def __init__(self, p: float, inner: int) -> None:
        super().__init__(p)
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        """In training, drop features (N, F) and double those that are kept of each item."""
        if not self.training:
            return x
        factor = 2 * torch.randint(2, (len(x), 1), device=x.device).to(x.dtype)
        output = x.shape[1] - self.inner
        each = [factor.expand(-1, output), (2 - factor).expand(-1, self.inner)]
        scale = torch.cat(each, 1)
        if x.device.type != "cpu":
            return super().forward(x) * scale
        return x * scale.mul_(_kept_at_random(x, self.p))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, inner={self.inner}"


def _kept_at_random(x: Tensor, p: float) -> Tensor:
    """The factors of a dropout on the CPU, shaped like x: 0 with probability p, else 1 / (1 - p).

    `torch.dropout` draws one number for each element there, a third of the time of a head's step.
    This draws 64 bits for four elements.
    """
    words = torch.randint(-(1 << 63), (1 << 63) - 1, (-(-x.numel() // 4),))
    levels = words.view(torch.int16)[: x.numel()].view(x.shape)
    kept = levels >= min(round(p * (1 << 16)) - (1 << 15), (1 << 15) - 1)
    return kept.to(x.dtype).mul_(1 / (1 - p) if p < 1 else 0.0)


class HeadOptions(TypedDict, total=False):
    """The optional arguments of `create_head`, except for `pool` and `inner`."""

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
    inner: int = 0,
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
    Linear(512, 2). Every linear layer has a bias, as in fastai 1 (fastai 2 omits it after a batch
    norm). Linear weights are Kaiming-normal, biases zero. The last weights are a hundredth of that
    with `y_range` or `units`, so that the first outputs are near the middle of the range, and
    without a hidden layer, because few items cannot train away large random weights, which become
    noise as soon as the features change.

    Args:
        nf: channels of the body's output, before a concat pool doubles them.
        n_out: outputs, such as the number of classes.
        lin_ftrs: sizes of the hidden linear layers; None is one layer of 512, [] is none.
        ps: dropout before each linear layer: one rate for the last (the earlier ones get half of
            it), or one rate for each. A dropout of 0 is omitted.
        pool: begin with a pool and Flatten, for features (N, nf, H, W); False for features (N, nf).
        inner: how many of the features (N, nf), the last ones, are of inner maps: the first dropout
            is then a `DepthDropout`, and a `Hardtanh` limits them after the first batch norm.
        concat_pool: pool by maximum and average, which doubles the features; False: average only.
        bn_final: end with a batch norm of momentum 0.01 on the outputs.
        first_bn: a batch norm in the first block.
        lin_first: put the linear layer and ReLU of a block before its norm and dropout.
        y_range: for a regression: end with a `SigmoidRange` between these bounds.
        units: for a regression: end with this layer, which scales outputs to the targets' units.

    Returns:
        The head: (N, nf, H, W), or (N, nf) without pool, in; (N, n_out) out.

    Raises:
        ModelError: an argument is out of range, or `ps` has the wrong length.

    Source: fastai, `create_head` and `apply_init(kaiming_normal_)`; He and others, "Delving Deep
    into Rectifiers" (2015), for the initial weights.
    """
    hidden = _hidden_sizes(lin_ftrs)
    whole_number("nf", nf, 1, 512, ModelError)
    whole_number("n_out", n_out, 1, 10, ModelError)
    whole_number("inner", inner, 0, 0, ModelError)
    if inner and (pool or inner >= nf):
        raise ModelError(
            f"create_head: inner={inner} must be fewer than the nf={nf} features (N, nf), with "
            "pool=False."
        )
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
    dropouts = [layer for layer in layers if isinstance(layer, nn.Dropout)]
    if inner and dropouts:
        layers[layers.index(dropouts[0])] = DepthDropout(dropouts[0].p, inner)
    if inner and first_bn and not lin_first:
        layers.insert(1, nn.Hardtanh(-_FEATURE_LIMIT, _FEATURE_LIMIT))
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    for layer in linears:
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
    if y_range is not None or units is not None or not hidden:
        with torch.no_grad():
            linears[-1].weight.mul_(_QUIET)
    return nn.Sequential(*layers)


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


def _output_layer(n_out: int, y_range: Any, units: TargetUnits | None) -> list[nn.Module]:
    if y_range is not None and units is not None:
        raise ModelError("create_head: pass y_range=, which bounds the outputs, or units=.")
    if units is not None and (not isinstance(units, TargetUnits) or len(units.mean) != n_out):
        raise ModelError(
            f"create_head: units={units!r} must be TargetUnits.of(targets) of targets (N, {n_out})."
        )
    if y_range is not None:
        return [SigmoidRange(*checked_range(y_range))]
    return [] if units is None else [units]


def _hidden_sizes(lin_ftrs: object) -> list[int]:
    if lin_ftrs is None:
        return [_HIDDEN]
    if not isinstance(lin_ftrs, Sequence) or isinstance(lin_ftrs, str | bytes):
        raise ModelError(
            f"create_head: lin_ftrs={lin_ftrs!r} must be a list of sizes, such as lin_ftrs=[256]; "
            "[] for no hidden layer."
        )
    return [whole_number("each size in lin_ftrs", n, 1, 256, ModelError) for n in lin_ftrs]


def _dropout_rates(ps: float | Sequence[float], linears: int) -> list[float]:
    given = list(ps) if isinstance(ps, Sequence) else [ps]
    for rate in given:
        if not isinstance(rate, (int, float)) or not math.isfinite(rate) or not 0 <= rate < 1:
            raise ModelError(f"create_head: a dropout in ps must lie in 0 <= p < 1, not {rate!r}.")
    if len(given) == 1:
        return [given[0] / 2] * (linears - 1) + [float(given[0])]
    if len(given) != linears:
        raise ModelError(
            f"create_head: ps has {len(given)} rates, but the head has {linears} linear layers. "
            f"Pass one rate, for the last layer (the others get half of it), or {linears}: "
            f"ps={[0.25] * (linears - 1) + [0.5]}."
        )
    return [float(rate) for rate in given]


class ConcatLinear(nn.ModuleList):
    """Several linear layers or convolutions on the same input, with concatenated outputs.

    `grow_head` replaces a classifier by one of these, with the old layer as the first part. In a
    single wider layer with copied rows the old outputs would differ in their last bits, because a
    matrix product of a different width adds its terms in a different order.

    Args:
        layers: linear layers, or convolutions of the same stride.
        dim: the dimension of the outputs: -1 for linear layers, -3 for `Conv2d`.
    """

    def __init__(self, layers: Iterable[nn.Module], dim: int = -1) -> None:
        super().__init__(layers)
        self.dim = dim

    @property
    def in_features(self) -> int:
        """Input features, or channels, of each part."""
        return _size(self[0], "in_features", "in_channels", 0)

    @property
    def out_features(self) -> int:
        """Output features, or channels, of all parts together."""
        return sum(outputs_of(part) for part in self)

    def forward(self, x: Tensor) -> Tensor:
        """Concatenate the outputs of the parts: (..., in) to (..., out)."""
        return torch.cat([part(x) for part in self], dim=self.dim)


def parts_of(layer: nn.Module) -> list[nn.Module]:
    """The layers of a classifier; just itself if it was never grown."""
    return list(layer) if isinstance(layer, ConcatLinear) else [layer]


def whole_path(model: nn.Module, path: str) -> str:
    """The path of a classifier; for a part of a grown classifier that of the whole."""
    above = parent(path)
    return above if path and isinstance(model.get_submodule(above), ConcatLinear) else path


def outputs_of(layer: nn.Module) -> int:
    """Number of output features, or channels, of a linear layer or a convolution."""
    return _size(layer, "out_features", "out_channels", 1)


def _size(layer: Any, linear: str, convolution: str, column: int) -> int:
    for name in (linear, convolution):
        if isinstance(getattr(layer, name, None), int):
            return int(getattr(layer, name))
    return int(layer.weight.shape[column])  # Conv1D of transformers: its weight is (in, out)


_LAYERS: dict[str, type[nn.Module]] = {
    layer.__name__: layer
    for layer in (
        nn.AdaptiveAvgPool2d, AdaptiveConcatPool2d, nn.AdaptiveMaxPool2d, nn.BatchNorm1d,
        nn.BatchNorm2d, nn.Conv2d, nn.Dropout, nn.Flatten, nn.GELU, nn.Hardswish, nn.Hardtanh,
        nn.Identity, nn.LayerNorm, nn.LeakyReLU, nn.Linear, nn.ReLU, nn.ReLU6, nn.SiLU, nn.Sigmoid,
        SigmoidRange, nn.Tanh, TargetUnits, Decoder, DepthDropout,
    )
}  # fmt: skip
_HOLDERS = {"Sequential": ("layers",), "ConcatLinear": ("dim", "layers")}
_OLD_NAMES = {"SideBySide": "ConcatLinear", "ClipFeatures": "Hardtanh"}
# arguments that a layer does not have as attributes; the last two are old names of Hardtanh's
_NOT_DESCRIBED = ("device", "dtype", "min_value", "max_value")


def _fields(layer: str) -> tuple[str, ...]:
    if layer in _HOLDERS:
        return _HOLDERS[layer]
    named = inspect.signature(_LAYERS[layer]).parameters.values()
    fixed = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in named if p.kind not in fixed and p.name not in _NOT_DESCRIBED)


def describe_head(head: nn.Module) -> list[dict[str, Any]] | None:
    """Describe a head as JSON-ready data; None if it has layers other than well-known plain ones.

    The description has no weights, but the names of the children, so a state dict of the head fits
    the one that `head_from_description` builds. It is also None if `head` is not a `nn.Sequential`,
    or a layer in it is used twice or has unusual tensors.

    Returns:
        One dict for each child, such as {"name": "0", "layer": "Linear", "in_features": 512,
        "out_features": 2, "bias": True}.
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
    """Build the head of a description of `describe_head`, with initial weights."""
    if isinstance(layers, (str, Mapping)) or not isinstance(layers, Sequence):
        raise ModelError(
            f"The description of a head is a list of layers, not {type(layers).__name__}: "
            "describe_head(head)."
        )
    children = OrderedDict(_child(fields) for fields in layers)
    if len(children) < len(layers):
        raise ModelError("The description of a head has two layers of the same name.")
    try:
        return nn.Sequential(children)
    except KeyError as error:
        raise ModelError(
            f"The description of a head has a layer with an invalid name: {error}"
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
    if not isinstance(fields, Mapping) or not {"name", "layer"} <= set(fields):
        raise ModelError(f'A described layer needs a "name" and a "layer", unlike {fields}.')
    name = str(fields["name"])
    layer = fields["layer"] if isinstance(fields["layer"], str) else ""
    layer = _OLD_NAMES.get(layer, layer)
    if layer not in _LAYERS | _HOLDERS:
        raise ModelError(
            f"A head cannot have the layer {fields['layer']!r}; supported are "
            f"{', '.join(sorted(_LAYERS | _HOLDERS))}."
        )
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    del values["name"], values["layer"]
    if "limit" in values:  # of a ClipFeatures
        values |= {"max_val": values["limit"], "min_val": -values.pop("limit")}
    if layer in _HOLDERS and set(values) == set(_HOLDERS[layer]):
        layers = head_from_description(list(values["layers"]))
        return name, layers if layer == "Sequential" else _concat_linear(layers, values["dim"])
    try:
        return name, _LAYERS[layer](**values)
    except Exception as error:
        raise ModelError(
            f"{layer} cannot be created with {values}: {error}. Its fields are "
            f"{', '.join(_fields(layer)) or 'none'}."
        ) from error


def _concat_linear(layers: nn.Sequential, dim: object) -> ConcatLinear:
    names = [name for name, _ in layers.named_children()]
    if not isinstance(dim, int) or not names or names != list(map(str, range(len(names)))):
        raise ModelError(
            "A described ConcatLinear needs a dim such as -1 and layers named 0, 1 and so on, not "
            f"dim={dim!r} and the layers {names}."
        )
    return ConcatLinear(layers, dim)


def _shapes(head: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in head.state_dict().items()}
