"""Turns one rate, a slice, a list, a dict or a decay into a base rate for each layer group."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from layergroups.errors import GroupingError


@dataclass(frozen=True)
class LayerDecay:
    """The last group trains at `top`, each group before it at `factor` times the next one's rate.

    Layer-wise rate decay (Clark et al. 2020, ELECTRA; Bao et al. 2021, BEiT); with
    `split="layerwise"` it gives one rate for each block. `factor` is commonly 0.65 to 0.9.
    """

    top: float
    factor: float = 0.75


decay = LayerDecay
Rate = float | slice | Sequence[float] | Mapping[str, float] | LayerDecay


def spread_rates(
    lr: Rate, names: Sequence[str], current: Sequence[float] | None = None
) -> tuple[float, ...]:
    """One base rate for each group.

    Args:
        lr: a number: the same for all groups. `slice(a, b)`: from a at the first group to b at the
            last, in equal ratios. `slice(b)`: b for the last, b / 10 for all others, as in fastai.
            A list: one each. A dict: by group name; other groups retain `current`. See `decay` too.
        names: names of the groups, nearest the input first.
        current: rates before, for a dict that names only some groups.

    Raises:
        GroupingError: a wrong number of rates, an unknown name, a rate that is negative or not a
            number.
    """
    try:
        rates = _spread(lr, names, current)
    except (TypeError, ValueError) as cause:
        if isinstance(cause, GroupingError):
            raise
        raise GroupingError(
            f"the learning rate {lr!r} contains a value that is not a number ({cause}); give "
            "numbers, such as lr=1e-3 or lr=slice(1e-5, 1e-3)"
        ) from cause
    for name, rate in zip(names, rates, strict=True):
        if not math.isfinite(rate) or rate < 0:
            raise GroupingError(f"the learning rate of group {name!r} is {rate}; give one >= 0")
    return rates


def _spread(lr: object, names: Sequence[str], current: Sequence[float] | None) -> tuple[float, ...]:
    n = len(names)
    if isinstance(lr, LayerDecay):
        top, factor = _number(lr.top), _number(lr.factor)
        return tuple(top * factor ** (n - 1 - i) for i in range(n))
    if isinstance(lr, slice):
        return _from_slice(lr, n)
    if isinstance(lr, Mapping):
        return _from_names(lr, names, current)
    if isinstance(lr, (int, float)):
        return (_number(lr),) * n
    if isinstance(lr, Sequence) and not isinstance(lr, str):
        if len(lr) != n:
            raise GroupingError(
                f"{len(lr)} learning rates for {n} layer groups ({', '.join(names)}); give {n}, "
                f"or lr=slice(1e-5, 1e-3) to spread two over all"
            )
        return tuple(map(_number, lr))
    raise GroupingError(
        f"a learning rate of type {type(lr).__name__}; give a number, slice(low, high), a list of "
        f"{n}, a dict by group name, or decay(top, factor)"
    )


def _number(rate: Any) -> float:
    if isinstance(rate, (bool, str)):
        raise ValueError(f"{rate!r} is a {type(rate).__name__}")
    return float(rate)


def _from_slice(lr: slice, n: int) -> tuple[float, ...]:
    if lr.stop is None or lr.step is not None:
        raise GroupingError("give lr=slice(low, high), or lr=slice(high)")
    high = _number(lr.stop)
    if lr.start is None:
        return (*[high / 10] * (n - 1), high)
    low = _number(lr.start)
    if low <= 0 or high <= 0:
        raise GroupingError(f"slice({low}, {high}) is spread in equal ratios: both must be > 0")
    if n == 1:
        return (high,)
    step = (high / low) ** (1 / (n - 1))
    return (*[low * step**i for i in range(n - 1)], high)


def _from_names(
    lr: Mapping[str, float], names: Sequence[str], current: Sequence[float] | None
) -> tuple[float, ...]:
    unknown = [name for name in lr if name not in names]
    if unknown:
        raise GroupingError(f"no layer group is called {unknown}; there are {list(names)}")
    missing = [name for name in names if name not in lr]
    if missing and current is None:
        raise GroupingError(f"no learning rate for the groups {missing}")
    before = current or [0.0] * len(names)
    return tuple(_number(lr.get(name, old)) for name, old in zip(names, before, strict=True))
