"""Preview of a fit: learning rate, frozen epochs and momentum of each layer group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from rich.table import Table

from layergroups import _drawing as drawing
from layergroups._drawing import Axes, Figure
from layergroups._formatting import plain_text, rate, table

_LOG_RATIO = 30.0  # ratio of rates above which their axis is logarithmic


@dataclass(frozen=True, kw_only=True)
class PhasePreview:
    name: str  # such as "head"
    epochs: int  # passes over the training items
    steps: int  # of the optimizer
    at: tuple[int, ...]  # the steps shown, counted from 0; all, or a thousand of them
    rates: tuple[tuple[float, ...], ...]  # of each group at these steps, in the optimizer
    frozen: tuple[tuple[bool, ...], ...]  # or with a rate of 0, of each group at these steps
    momentum: tuple[float | None, ...]  # or the first beta; None if the optimizer has none
    note: str = ""

    def highest(self, group: int) -> float:
        """The highest rate of a group while it trains; 0 if it never does."""
        pairs = zip(self.rates[group], self.frozen[group], strict=True)
        return max((rate for rate, frozen in pairs if not frozen), default=0.0)

    def trains(self, group: int) -> list[tuple[float, float, bool]]:
        per_epoch = self.steps / self.epochs
        begins: list[tuple[float, bool]] = []
        flags = zip(self.at, self.frozen[group], strict=True)
        for frozen, stretch in groupby(flags, key=lambda pair: pair[1]):
            begins.append((next(stretch)[0] / per_epoch, not frozen))
        ends = [*(begin for begin, _ in begins[1:]), float(self.epochs)]
        return [(begin, end, t) for (begin, t), end in zip(begins, ends, strict=True)]


@dataclass(frozen=True, kw_only=True)
class SchedulePreview:
    """The rates of all layer groups over a fit; `print` shows a table, a notebook the figure."""

    groups: tuple[str, ...]  # names, nearest the input first
    phases: tuple[PhasePreview, ...]

    @property
    def epochs(self) -> int:
        """Number of epochs of all phases."""
        return sum(phase.epochs for phase in self.phases)

    def starts(self) -> Iterator[tuple[float, PhasePreview]]:
        """Each phase with the epoch in which it begins."""
        first = 0.0
        for phase in self.phases:
            yield first, phase
            first += phase.epochs

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write the figure as .png, .svg or .pdf."""
        path = drawing.check_ending(path)
        return drawing.save(draw_schedule(self), path)

    def __str__(self) -> str:
        return plain_text(_table(self), 120)

    def __rich__(self) -> Table:
        return _table(self)

    def _repr_png_(self) -> bytes:
        return drawing.png(draw_schedule(self), dpi=110)


def draw_schedule(preview: SchedulePreview) -> Figure:
    momentum = any(m is not None for phase in preview.phases for m in phase.momentum)
    heights = [2.7, len(preview.groups) * 0.24, *([0.8] if momentum else [])]  # inches
    steps = sum(phase.steps for phase in preview.phases)
    notes = "".join(f"; {phase.name}: {phase.note}" for phase in preview.phases if phase.note)
    note = f"{preview.epochs} epochs, {steps} steps{notes}"
    title = "Learning rates of the layer groups"
    figure = drawing.new_figure(8.6, sum(heights) + 1.2, title, note)
    axes = figure.subplots(len(heights), 1, height_ratios=heights)
    colours = drawing.group_colours(len(preview.groups) - 1, True)
    _draw_rates(axes[0], preview, colours)
    _draw_lanes(axes[1], preview, colours)
    if momentum:
        _draw_momentum(axes[2], preview)
    for each in axes:
        _frame(each, preview, last=each is axes[-1])
    for first, phase in preview.starts():
        axes[0].text(
            first, 1.02, f" {phase.name}", transform=axes[0].get_xaxis_transform(), fontsize=9,
            color=drawing.INK, va="bottom",
        )  # fmt: skip
    return figure


def _points(first: float, phase: PhasePreview) -> list[float]:
    return [first + step * phase.epochs / phase.steps for step in phase.at]


def _draw_rates(axes: Axes, preview: SchedulePreview, colours: Sequence[str]) -> None:
    """Draw lines from thick to thin, so lines of equal rates are all visible."""
    nan = float("nan")
    count = len(colours)
    for first, phase in preview.starts():
        x = _points(first, phase)
        for i, colour in enumerate(colours):
            pairs = zip(phase.rates[i], phase.frozen[i], strict=True)
            y = [nan if frozen else rate for rate, frozen in pairs]
            width = 1.6 + 3.4 * (count - 1 - i) / max(1, count - 1)
            axes.plot(x, y, color=colour, lw=width, solid_capstyle="butt")
    _scale_rates(axes, [phase.highest(i) for phase in preview.phases for i in range(count)])


def _scale_rates(axes: Axes, highest: Sequence[float]) -> None:
    positive = [rate for rate in highest if rate > 0] or [1.0]
    top = max(positive)
    if top / min(positive) > _LOG_RATIO:
        axes.set_yscale("log")
        axes.set_ylim(min(positive) / 300, top * 2)
    else:
        axes.set_ylim(-0.025 * top, top * 1.08)
        axes.yaxis.set_major_formatter(lambda lr, _: rate(lr))
    axes.minorticks_off()
    axes.set_ylabel("learning rate", fontsize=9, color=drawing.GREY)
    axes.grid(axis="y", color=drawing.FAINT, lw=0.7)
    axes.set_axisbelow(True)


def _draw_lanes(axes: Axes, preview: SchedulePreview, colours: Sequence[str]) -> None:
    for first, phase in preview.starts():
        for i, colour in enumerate(colours):
            for begin, end, trains in phase.trains(i):
                axes.barh(
                    i, end - begin, 0.66, first + begin, color=colour if trains else drawing.FAINT
                )
                if not trains and (end - begin) / preview.epochs > 0.09:
                    axes.text(
                        first + (begin + end) / 2, i, "frozen", ha="center", va="center",
                        fontsize=7.5, color=drawing.GREY,
                    )  # fmt: skip
    names = [drawing.fitted(name, 1.7, 9) for name in preview.groups]
    axes.set_yticks(range(len(names)), names, fontsize=9, color=drawing.INK)
    axes.set_ylim(-0.5, len(names) - 0.5)


def _draw_momentum(axes: Axes, preview: SchedulePreview) -> None:
    seen = [m for phase in preview.phases for m in phase.momentum if m is not None]
    for first, phase in preview.starts():
        y = [float("nan") if m is None else m for m in phase.momentum]
        axes.plot(_points(first, phase), y, color=drawing.INK, lw=1.4)
    room = max(0.02, (max(seen) - min(seen)) * 0.15)
    axes.set_ylim(min(seen) - room, max(seen) + room)
    axes.set_yticks(sorted({round(min(seen), 3), round(max(seen), 3)}))
    axes.set_ylabel("momentum", fontsize=9, color=drawing.GREY)


def _frame(axes: Axes, preview: SchedulePreview, *, last: bool) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0, preview.epochs)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))
    axes.tick_params(colors=drawing.GREY, labelsize=8.5, length=0, labelbottom=last)
    axes.tick_params(axis="y", labelcolor=drawing.INK)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom" and last)
        spine.set_color(drawing.FAINT)
    for first, _ in list(preview.starts())[1:]:
        axes.axvline(first, color=drawing.GREY, lw=0.9, ls=(0, (3, 3)))
    if last:
        axes.set_xlabel("epochs", fontsize=9, color=drawing.GREY)


def _table(preview: SchedulePreview) -> Table:
    rows = []
    for phase in preview.phases:
        rates = [phase.highest(i) for i in range(len(preview.groups))]
        shown = [rate(lr) if lr else "frozen" for lr in rates]
        seen = [m for m in phase.momentum if m is not None]
        span = f"{min(seen):.2f}..{max(seen):.2f}" if seen else ""
        span = f"{seen[0]:.2f}" if seen and min(seen) == max(seen) else span
        rows.append((phase.name, str(phase.epochs), str(phase.steps), *shown, span))
    headings = ("phase", "epochs", "steps", *preview.groups, "momentum")
    return table(headings, rows, box=None, header_style="bold")
