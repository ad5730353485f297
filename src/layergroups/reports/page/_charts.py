"""Data of the charts of the page, which `macros.html.j2` draws as inline SVG.

An SVG of 1000 x 1000 units is stretched over the plot; lines and dots keep their thickness. Axis
labels are HTML text at positions in percent, so they do not shrink on a phone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from layergroups._formatting import figure, rate

SIDE: Final = 1000
_DASHES: Final = ("", "9 8", "2 6", "14 6 2 6")
_MAX_DOTS: Final = 40
_MAX_POINTS: Final = 600
_MAX_ROWS: Final = 400
_MAX_LABELS: Final = 9
_DOT: Final = 8.0  # pixels across
Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A scale from values to positions, 0..1000 from the left or from below."""

    low: float
    high: float
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()  # values and labels

    def place(self, value: float) -> float:
        if self.log:
            value, low, high = (math.log(max(v, 1e-300)) for v in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        part = (value - low) / (high - low) if high > low else 0.5
        return min(1.0, max(0.0, part)) * SIDE


@dataclass(frozen=True)
class Dot:
    """A point of a chart: position in the SVG, diameter in pixels, tooltip."""

    x: float
    y: float
    size: float = _DOT
    title: str = ""


@dataclass(frozen=True)
class Line:
    name: str
    points: Sequence[Point]  # from left to right
    look: str  # CSS class of its colour, such as "g0" or "c1"
    dots: bool = True
    dash: int = 0  # pattern of dashes, 0 for none
    joined: bool = True  # draw a line through the points
    sizes: Sequence[float] = ()  # of the dots, in pixels

    @property
    def dashes(self) -> str:
        return _DASHES[self.dash % len(_DASHES)]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines or points in a plot, with axes, legend and the numbers as a table."""

    title: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    y_label: str
    x_label: str = "epoch"
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    bands: Sequence[tuple[float, str]] = ()  # start and name of each phase
    describe: str = ""  # sentence for screen readers
    wide: bool = False
    square: bool = False

    @property
    def borders(self) -> list[float]:
        """The starts of all phases but the first."""
        return [place for start, _ in self.bands if (place := self.x.place(start)) > 0]

    @property
    def band_names(self) -> list[tuple[str, float, float]]:
        """Each phase with its left edge and width, in percent."""
        ends = [*(start for start, _ in self.bands[1:]), self.x.high]
        places = [
            (name, self.x.place(start) / 10, self.x.place(end) / 10)
            for (start, name), end in zip(self.bands, ends, strict=bool(self.bands))
        ]
        return [(name, left, right - left) for name, left, right in places]

    def path(self, line: Line) -> str:
        """The SVG path of a line, interrupted at values that are not finite."""
        points = line.points[:: _step(len(line.points), _MAX_POINTS)] if line.joined else ()
        return "".join(
            "M" + "L".join(f"{self.x.place(a):.1f} {SIDE - self.y.place(b):.1f}" for a, b in run)
            for known, run in groupby(points, lambda point: math.isfinite(point[1]))
            if known
        )

    def dots(self, line: Line) -> Iterator[Dot]:
        """The marked points of a line; a single point is always marked."""
        sizes = line.sizes or [_DOT] * len(line.points)
        known = [
            (a, b, size)
            for (a, b), size in zip(line.points, sizes, strict=True)
            if math.isfinite(b)
        ]
        few = not line.joined or len(known) <= _MAX_DOTS
        for a, b, size in known if (line.dots and few) or len(known) == 1 else ():
            title = f"{line.name}: {figure(b)}" if line.joined else ""
            yield Dot(self.x.place(a), SIDE - self.y.place(b), size, title)

    @property
    def shown(self) -> tuple[Sequence[Sequence[str]], str]:
        """Rows and caption of the table; of very many rows some are omitted."""
        return some_rows(self.rows, self.caption)


def some_rows(
    rows: Sequence[Sequence[str]], caption: str = ""
) -> tuple[Sequence[Sequence[str]], str]:
    """Evenly chosen rows, at most some hundred, and a caption that mentions this."""
    step = _step(len(rows), _MAX_ROWS)
    if step > 1:
        caption = f"{caption} One row in {step} of {len(rows):,}.".strip()
    return rows[::step], caption


def _step(n: int, most: int) -> int:
    return max(1, -(-n // most))


def linear_axis(values: Iterable[float], *, zero: bool = False, most: int = 5) -> Axis:
    """An axis between round numbers around the finite values, with about `most` labels."""
    known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(known), max(known)
    low = min(low, 0.0) if zero else low
    if high <= low:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    step = _round_step((high - low) / most)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [step * i for i in range(first, last + 1)]
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    labels = [f"{tick:.{digits}f}" if digits < 6 else f"{tick:.2g}" for tick in ticks]
    return Axis(ticks[0], ticks[-1], ticks=tuple(zip(ticks, labels, strict=True)))


def rate_axis(values: Iterable[float]) -> Axis:
    """A logarithmic axis for rates that differ much, else a linear axis; 0 is at the bottom."""
    known = [v for v in values if v > 0 and math.isfinite(v)]
    if not known or max(known) / min(known) < 12:
        axis = linear_axis([*known, 0.0], zero=True, most=4)
        return Axis(axis.low, axis.high, ticks=tuple((t, rate(t)) for t, _ in axis.ticks))
    high = math.ceil(math.log10(max(known)) - 1e-9)
    low = max(math.floor(math.log10(min(known)) + 1e-9), high - 6)
    ticks = tuple((10.0**power, f"1e{power}") for power in range(low, high + 1))
    return Axis(10.0**low, 10.0**high, log=True, ticks=ticks)


def epoch_axis(epochs: Sequence[int]) -> Axis:
    """An interval of equal width for each epoch, labelled in the middle."""
    step = -(-len(epochs) // _MAX_LABELS) if epochs else 1
    labels = [(i + 0.5, str(epoch)) for i, epoch in enumerate(epochs) if i % step == 0]
    return Axis(0.0, float(max(1, len(epochs))), ticks=tuple(labels))


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten, at least as large."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= step * (1 - 1e-9))
