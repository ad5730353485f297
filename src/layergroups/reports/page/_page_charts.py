"""Charts as inline SVG: shapes that stretch to the width there is, letters that never shrink.

The shapes stand in an SVG of 1000 × 1000 units that is stretched over the plot; lines and dots keep
their thickness. The labels of the axes are text of the page at places in percent, so they are as
large on a phone as on a desk. The numbers of each chart stand in a table below it.

Colours of the page, light and dark; whatever carries meaning has the contrast that it needs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final

from layergroups._formatting import figure, rate
from layergroups.reports.page._markup import Content, Html, tag

SIDE: Final = 1000
_DASHES: Final = ("", "9 8", "2 6", "14 6 2 6")
_MOST_DOTS: Final = 40
_MOST_POINTS: Final = 600
_MOST_ROWS: Final = 400
_MOST_LABELS: Final = 9
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: in the legend.
        points: (x, y) from left to right.
        look: class of its colour, such as "g0" or "c1".
        dots: whether each point is marked.
        dash: which pattern of dashes, 0 for none.
    """

    name: str
    points: Sequence[Point]
    look: str
    dots: bool = True
    dash: int = 0


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


def line_chart(
    title: str,
    lines: Sequence[Line],
    x: Axis,
    y: Axis,
    *,
    table: Html,
    y_label: str,
    x_label: str = "epoch",
    bands: Iterable[tuple[float, str]] = (),
    describe: str = "",
    wide: bool = False,
) -> Html:
    """A chart of lines with its legend and its numbers.

    Args:
        title: what it shows.
        lines: drawn one over another.
        x: axis below.
        y: axis at the left.
        table: the numbers, for readers of screens and for whoever wants them.
        y_label: what the y axis counts.
        x_label: what the x axis counts.
        bands: where a part begins and its name; a line is drawn there.
        describe: what can be seen, in a sentence.
        wide: whether it takes the whole width.
    """
    shapes = [*_grid(y), *_borders(x, bands)]
    for line in lines:
        shapes += _line(line, x, y)
    return figure_of(
        title, shapes, x, y, y_label=y_label, x_label=x_label, describe=describe, table=table,
        above=[_band_names(x, bands)], legend=legend(lines) if len(lines) > 1 else None,
        wide=wide,
    )  # fmt: skip


def scatter_chart(
    title: str, points: Sequence[Point], axis: Axis, *, labels: tuple[str, str], table: Html
) -> Html:
    """Points against the line on which both values are equal.

    Args:
        title: what it shows.
        points: (x, y).
        axis: of both.
        labels: of x and y.
        table: the numbers.
    """
    diagonal = tag("path", d=f"M0 {SIDE}L{SIDE} 0", class_="rule")
    dots = [_dot(axis.place(a), SIDE - axis.place(b), "c0 soft") for a, b in points]
    return figure_of(
        title, [*_grid(axis), diagonal, *dots], axis, axis,
        y_label=labels[1], x_label=labels[0], table=table,
        describe=f"{len(points)} points; on the diagonal both values are equal.", square=True,
    )  # fmt: skip


def figure_of(
    title: str,
    shapes: Sequence[Html],
    x: Axis,
    y: Axis,
    *,
    y_label: str,
    x_label: str,
    table: Html,
    describe: str = "",
    above: Sequence[Content] = (),
    legend: Html | None = None,
    square: bool = False,
    wide: bool = False,
) -> Html:
    """Shapes in a plot with axes, title, legend and numbers."""
    drawing = tag(
        "svg", *shapes, viewBox=f"0 0 {SIDE} {SIDE}", preserveAspectRatio="none", role="img",
        aria_label=f"{title}. {describe} The numbers are in the table below.".replace("  ", " "),
    )  # fmt: skip
    rows = [_tick(label, f"top:{100 - y.place(v) / 10:.2f}%") for v, label in y.ticks]
    columns = [_tick(label, f"left:{x.place(v) / 10:.2f}%") for v, label in x.ticks]
    plot = tag(
        "div", tag("p", y_label, class_="y-label"), *above,
        tag("div", rows, class_="ys", aria_hidden="true"),
        tag("div", drawing, class_="area"),
        tag("div", columns, class_="xs", aria_hidden="true"),
        tag("p", x_label, class_="x-label"),
        class_="plot square" if square else "plot",
    )  # fmt: skip
    look = "chart wide" if wide else "chart"
    return tag("figure", tag("figcaption", title), legend, plot, numbers(table), class_=look)


def numbers(table: Html) -> Html:
    """A table that opens when it is asked for."""
    return tag("details", tag("summary", "The numbers"), scrolled(table), class_="numbers")


def scrolled(table: Html, name: str = "table") -> Html:
    """A table that scrolls within itself where it is wider than the page."""
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=name)


def table_of(headings: Sequence[str], rows: Iterable[Sequence[Content]], caption: str = "") -> Html:
    """A plain table; its first column names the row. Of very many rows some are left out."""
    listed = list(rows)
    step = -(-len(listed) // _MOST_ROWS)
    shown = listed[:: max(1, step)]
    if step > 1:
        caption = f"{caption} Each {step}th row of {len(listed):,}.".strip()
    head = tag("tr", [tag("th", heading, scope="col") for heading in headings])
    body = [tag("tr", tag("th", r[0], scope="row"), [tag("td", c) for c in r[1:]]) for r in shown]
    named = tag("caption", caption) if caption else None
    return tag("table", named, tag("thead", head), tag("tbody", body))


# Axes


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
    step = -(-len(epochs) // _MOST_LABELS) if epochs else 1
    labels = [(i + 0.5, str(epoch)) for i, epoch in enumerate(epochs) if i % step == 0]
    return Axis(0.0, float(max(1, len(epochs))), ticks=tuple(labels))


def _round_step(step: float) -> float:
    """1, 2 or 5 times a power of ten, at least as large."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= step * (1 - 1e-9))


# Shapes


def _tick(label: str, place: str) -> Html:
    return tag("span", label, style=place)


def _grid(y: Axis) -> list[Html]:
    places = [SIDE - y.place(value) for value, _ in y.ticks]
    return [tag("path", d=f"M0 {place:.1f}H{SIDE}", class_="grid") for place in places]


def _borders(x: Axis, bands: Iterable[tuple[float, str]]) -> list[Html]:
    places = [x.place(start) for start, _ in bands]
    return [tag("path", d=f"M{p:.1f} 0V{SIDE}", class_="border") for p in places if p > 0]


def _band_names(x: Axis, bands: Iterable[tuple[float, str]]) -> Html | None:
    listed = list(bands)
    if not listed:
        return None
    ends = [*(start for start, _ in listed[1:]), x.high]
    names = []
    for (start, name), end in zip(listed, ends, strict=True):
        left, width = x.place(start) / 10, (x.place(end) - x.place(start)) / 10
        names.append(tag("span", name, style=f"left:{left:.2f}%;width:{width:.2f}%"))
    return tag("div", names, class_="bands")


def _line(line: Line, x: Axis, y: Axis) -> list[Html]:
    """A line, broken where a value is not finite, and its dots."""
    step = max(1, -(-len(line.points) // _MOST_POINTS))
    points = line.points[::step]
    path = "".join(
        "M" + "L".join(f"{x.place(a):.1f} {SIDE - y.place(b):.1f}" for a, b in run)
        for known, run in groupby(points, lambda point: math.isfinite(point[1]))
        if known
    )
    if not path:
        return []
    dash = _DASHES[line.dash % len(_DASHES)] or None
    drawn = [tag("path", d=path, class_=f"line {line.look}", stroke_dasharray=dash)]
    known = [point for point in points if math.isfinite(point[1])]
    if (line.dots and len(known) <= _MOST_DOTS) or len(known) == 1:
        drawn += [
            _dot(x.place(a), SIDE - y.place(b), line.look, f"{line.name}: {figure(b)}")
            for a, b in known
        ]
    return drawn


def _dot(x: float, y: float, look: str, title: str = "") -> Html:
    """A line of no length with round ends: a circle, however the drawing is stretched."""
    if not title:
        return tag("path", d=f"M{x:.1f} {y:.1f}h0", class_=f"dot {look}")
    shape = f"M{x:.1f} {y:.1f}h0"
    return tag("g", tag("title", title), tag("path", d=shape, class_=f"dot {look}"))


def legend(lines: Sequence[Line]) -> Html:
    """Names beside a piece of each line."""
    keys = [
        tag(
            "li",
            tag(
                "svg",
                tag("path", d="M1 6H27", class_=f"line {line.look}",
                    stroke_dasharray=_DASHES[line.dash % len(_DASHES)] or None),
                width="28", height="12", aria_hidden="true",
            ),
            line.name,
        )
        for line in lines
    ]  # fmt: skip
    return tag("ul", keys, class_="legend")


Colour = tuple[float, float, float]
LIGHT: Final = "#ffffff"  # of the panels that charts stand on
DARK: Final = "#1b2128"
INK: Final = "#1b2733"
PAPER: Final = "#f3f5f7"
LEVELS: Final = 10  # shades of a cell of the confusion matrix
_GRAPHICS: Final = 3.0  # contrast that WCAG 2.2 asks of lines and areas
_TEXT: Final = 4.5  # and of text
_KINDS: Final = {"right": ("#0b559f", "#5aa7e0"), "wrong": ("#c04f00", "#f08a3c")}
_HEX: Final = re.compile(r"#[0-9a-fA-F]{6}")


def safe_colour(text: str) -> str:
    """The colour if it is one, "#rrggbb"; else grey."""
    return text if _HEX.fullmatch(text) else "#808080"


def visible(colour: str, background: str, least: float = _GRAPHICS) -> str:
    """The colour, made darker or lighter until it can be told from the background."""
    goal = (0.0, 0.0, 0.0) if _luminance(_rgb(background)) > 0.5 else (1.0, 1.0, 1.0)
    own = _rgb(colour)
    for step in range(21):
        mixed = _mixed(own, goal, step / 20)
        if contrast(_hex(mixed), background) >= least:
            return _hex(mixed)
    return _hex(goal)


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, 1..21, as WCAG 2.2 defines it."""
    low, high = sorted((_luminance(_rgb(one)), _luminance(_rgb(other))))
    return (high + 0.05) / (low + 0.05)


def group_styles(scope: str, colours: Sequence[str]) -> Html:
    """The colours of layer groups as CSS variables --g0, --g1, … of an element, light and dark."""
    light, dark = (
        "".join(f"--g{i}:{visible(safe_colour(c), back)};" for i, c in enumerate(colours))
        for back in (LIGHT, DARK)
    )
    lines = "".join(f".g{i}{{stroke:var(--g{i})}}" for i in range(len(colours)))
    return Html(_both(f"{scope}{{{light}}}", f"{scope}{{{dark}}}") + lines)


def cell_styles() -> Html:
    """The shades of the cells of a confusion matrix, with a readable text on each."""
    rules: tuple[list[str], list[str]] = ([], [])
    for kind, colours in _KINDS.items():
        for theme, (colour, back) in enumerate(zip(colours, (LIGHT, DARK), strict=True)):
            for level in range(LEVELS + 1):
                shade = _hex(_mixed(_rgb(back), _rgb(colour), 0.08 + 0.92 * level / LEVELS))
                text = _readable(shade)
                rules[theme].append(f".matrix .{kind}-{level}{{background:{shade};color:{text}}}")
    return _both("".join(rules[0]), "".join(rules[1]))


def _readable(background: str) -> str:
    """Text with the contrast that WCAG 2.2 asks for: white or the ink, else black."""
    known = ("#ffffff", INK, "#000000")
    return next(text for text in known if contrast(text, background) >= _TEXT)


def level(part: float) -> int:
    """The shade for a part, 0..1."""
    return round(min(1.0, max(0.0, part)) * LEVELS)


def _both(light: str, dark: str) -> Html:
    return Html(f"{light}@media screen and (prefers-color-scheme:dark){{{dark}}}")


def _rgb(colour: str) -> Colour:
    r, g, b = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return r, g, b


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{round(value * 255):02x}" for value in colour)


def _mixed(one: Colour, other: Colour, part: float) -> Colour:
    r, g, b = (a + (c - a) * part for a, c in zip(one, other, strict=True))
    return r, g, b


def _luminance(colour: Colour) -> float:
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
