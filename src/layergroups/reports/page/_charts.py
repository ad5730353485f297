"""Charts as inline SVG: shapes that stretch to the width there is, letters that never shrink.

The shapes of a chart lie in an SVG of 1000 x 1000 units that is stretched over the plot; lines and
dots keep their thickness. The labels of the axes are text of the page at places in percent, so
they are as large on a phone as on a desk. `macros.html.j2` draws a `Chart`, with its numbers in a
table below it.
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
    """From values to places, 0..1000 from the left or from below.

    Attributes:
        low: value at the start.
        high: value at the end.
        log: whether equal ratios are equally far apart.
        ticks: values that are labelled, with their labels.
    """

    low: float
    high: float
    log: bool = False
    ticks: tuple[tuple[float, str], ...] = ()

    def place(self, value: float) -> float:
        """Where a value stands, within the plot."""
        if self.log:
            value, low, high = (math.log(max(v, 1e-300)) for v in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        part = (value - low) / (high - low) if high > low else 0.5
        return min(1.0, max(0.0, part)) * SIDE


@dataclass(frozen=True)
class Dot:
    """A point of a chart: places in the SVG, pixels across, and what it says."""

    x: float
    y: float
    size: float = _DOT
    title: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: in the legend.
        points: (x, y) from left to right.
        look: class of its colour, such as "g0" or "c1".
        dots: whether each point is marked.
        dash: which pattern of dashes, 0 for none.
        joined: whether a line goes through the points.
        sizes: of the dots, in pixels; empty for the usual size.
    """

    name: str
    points: Sequence[Point]
    look: str
    dots: bool = True
    dash: int = 0
    joined: bool = True
    sizes: Sequence[float] = ()

    @property
    def dashes(self) -> str:
        """The pattern as SVG has it."""
        return _DASHES[self.dash % len(_DASHES)]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Lines or points in a plot, with axes, legend and the numbers as a table.

    Attributes:
        title: what it shows.
        lines: drawn one over another.
        x: axis below.
        y: axis at the left.
        y_label: what the y axis counts.
        x_label: what the x axis counts.
        headings: of the table.
        rows: of the table.
        caption: of the table.
        bands: where a part begins and its name; a line is drawn there.
        describe: what can be seen, in a sentence.
        wide: whether it takes the whole width.
        square: whether it is as wide as high.
    """

    title: str
    lines: Sequence[Line]
    x: Axis
    y: Axis
    y_label: str
    x_label: str = "epoch"
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    bands: Sequence[tuple[float, str]] = ()
    describe: str = ""
    wide: bool = False
    square: bool = False

    @property
    def borders(self) -> list[float]:
        """Where a part begins that is not the first."""
        return [place for start, _ in self.bands if (place := self.x.place(start)) > 0]

    @property
    def band_names(self) -> list[tuple[str, float, float]]:
        """Each part with its left edge and its width, in percent."""
        ends = [*(start for start, _ in self.bands[1:]), self.x.high]
        places = [
            (name, self.x.place(start) / 10, self.x.place(end) / 10)
            for (start, name), end in zip(self.bands, ends, strict=bool(self.bands))
        ]
        return [(name, left, right - left) for name, left, right in places]

    def path(self, line: Line) -> str:
        """A line as SVG has it, broken where a value is not finite."""
        points = line.points[:: _step(len(line.points), _MAX_POINTS)] if line.joined else ()
        return "".join(
            "M" + "L".join(f"{self.x.place(a):.1f} {SIDE - self.y.place(b):.1f}" for a, b in run)
            for known, run in groupby(points, lambda point: math.isfinite(point[1]))
            if known
        )

    def dots(self, line: Line) -> Iterator[Dot]:
        """The points of a line that are marked; a single point always is."""
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
        """Rows and caption of the table; of very many rows some are left out."""
        return some_rows(self.rows, self.caption)


def some_rows(
    rows: Sequence[Sequence[str]], caption: str = ""
) -> tuple[Sequence[Sequence[str]], str]:
    """At most some hundred of the rows, evenly chosen, and a caption that says so."""
    step = _step(len(rows), _MAX_ROWS)
    if step > 1:
        caption = f"{caption} One row in {step} of {len(rows):,}.".strip()
    return rows[::step], caption


def _step(n: int, most: int) -> int:
    return max(1, -(-n // most))


def linear_axis(values: Iterable[float], *, zero: bool = False, most: int = 5) -> Axis:
    """Round numbers around finite values.

    Args:
        values: that must find room.
        zero: whether 0 belongs to it.
        most: labels.
    """
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
    """Powers of ten around rates that are far apart, else round numbers; rates of 0 lie below."""
    known = [v for v in values if v > 0 and math.isfinite(v)]
    if not known or max(known) / min(known) < 12:
        axis = linear_axis([*known, 0.0], zero=True, most=4)
        return Axis(axis.low, axis.high, ticks=tuple((t, rate(t)) for t, _ in axis.ticks))
    high = math.ceil(math.log10(max(known)) - 1e-9)
    low = max(math.floor(math.log10(min(known)) + 1e-9), high - 6)
    ticks = tuple((10.0**power, f"1e{power}") for power in range(low, high + 1))
    return Axis(10.0**low, 10.0**high, log=True, ticks=ticks)


def epoch_axis(epochs: Sequence[int]) -> Axis:
    """A stretch of equal width for each epoch, labelled in its middle."""
    step = -(-len(epochs) // _MAX_LABELS) if epochs else 1
    labels = [(i + 0.5, str(epoch)) for i, epoch in enumerate(epochs) if i % step == 0]
    return Axis(0.0, float(max(1, len(epochs))), ticks=tuple(labels))


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten, at least as large."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= step * (1 - 1e-9))
