"""Heads: the part of a network that answers the task, built after fastai's `create_head`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from layergroups.errors import ModelError
from layergroups.models.output_layers import SigmoidRange, TargetUnits, checked_range

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
