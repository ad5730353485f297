"""A schedule is a multiplier on each group's own rate, over the course of one fit.

`t` is the part of the fit that is done, 0 before the first step and 1 after the last. At every
step `rate of a group = its base rate * multiplier(t)`; there is no other factor anywhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from layergroups._checks import number
from layergroups.errors import TrainingError


@runtime_checkable
class Schedule(Protocol):
    """What the loop needs of a schedule."""

    def multiplier(self, t: float) -> float:
        """The factor on every group's base rate, at part `t` of the fit."""

    def momentum(self, t: float) -> float | None:
        """The momentum (SGD) or first beta (Adam) at `t`; None leaves the optimizer's own."""


def _cosine(start: float, end: float, t: float) -> float:
    if t <= 0:
        return start
    if t >= 1:
        return end
    return start + (end - start) * (1 - math.cos(math.pi * t)) / 2


@dataclass(frozen=True)
class Flat:
    """The base rates throughout."""

    def multiplier(self, t: float) -> float:
        return 1.0

    def momentum(self, t: float) -> float | None:
        return None


@dataclass(frozen=True)
class OneCycle:
    """Up from 1/div to the base rate, then down to 1/div_final, along cosines.

    Source: Smith, «Super-Convergence», 2018; the cosine form and the defaults are fastai's.

    Attributes:
        div: the first multiplier is 1/div.
        div_final: the last multiplier is 1/div_final.
        pct_start: part of the fit that goes up.
        moms: momentum at the start, at the top and at the end.
    """

    div: float = 25.0
    div_final: float = 1e5
    pct_start: float = 0.25
    moms: tuple[float, float, float] = (0.95, 0.85, 0.95)

    def __post_init__(self) -> None:
        number("div", self.div, 0, math.inf, 25, open_ends=True)
        number("div_final", self.div_final, 0, math.inf, 1e5, open_ends=True)
        number("pct_start", self.pct_start, 0, 1, 0.25)
        moms = self.moms if isinstance(self.moms, (tuple, list)) else ()
        numbers = [m for m in moms if isinstance(m, (int, float)) and 0 <= m < 1]
        if len(moms) != 3 or len(numbers) != 3:
            raise TrainingError(
                f"moms={self.moms} must be three momenta in 0..1 (start, top, end), such as "
                "moms=(0.95, 0.85, 0.95)."
            )

    def multiplier(self, t: float) -> float:
        """1/div at 0, 1 at pct_start, 1/div_final at 1."""
        return self._along(t, 1 / self.div, 1.0, 1 / self.div_final)

    def momentum(self, t: float) -> float | None:
        return self._along(t, *self.moms)

    def _along(self, t: float, start: float, top: float, end: float) -> float:
        if t < self.pct_start:
            return _cosine(start, top, t / self.pct_start)
        rest = 1 - self.pct_start
        return _cosine(top, end, (t - self.pct_start) / rest) if rest else top


@dataclass(frozen=True)
class Repeated:
    """A schedule twice: until `first`, a part of the fit, then again at `factor` of the rates."""

    schedule: Schedule
    first: float
    factor: float = 1.0

    def multiplier(self, t: float) -> float:
        factor = 1.0 if t < self.first else self.factor
        return factor * self.schedule.multiplier(self._within(t))

    def momentum(self, t: float) -> float | None:
        return self.schedule.momentum(self._within(t))

    def _within(self, t: float) -> float:
        return t / self.first if t < self.first else (t - self.first) / (1 - self.first)


@dataclass(frozen=True)
class FlatCos:
    """The base rates for the first part, then a cosine down to 1/div_final.

    Attributes:
        pct_start: part of the fit that stays flat.
        div_final: the last multiplier is 1/div_final.
    """

    pct_start: float = 0.75
    div_final: float = 1e5

    def __post_init__(self) -> None:
        number("pct_start", self.pct_start, 0, 1, 0.75)
        number("div_final", self.div_final, 0, math.inf, 1e5, open_ends=True)

    def multiplier(self, t: float) -> float:
        """1 until pct_start, 1/div_final at 1."""
        if t <= self.pct_start:
            return 1.0
        return _cosine(1.0, 1 / self.div_final, (t - self.pct_start) / (1 - self.pct_start))

    def momentum(self, t: float) -> float | None:
        return None
