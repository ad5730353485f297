"""Charts of a run, and of two runs, for the templates of the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from layergroups._formatting import count, figure, percent, rate
from layergroups.reports.page._charts import (
    Axis,
    Chart,
    Line,
    Point,
    epoch_axis,
    linear_axis,
    rate_axis,
)
from layergroups.reports.run import EpochRow, Outcome, RunRecord, phases_of

_MAX_CHARTS: Final = 8
_MAX_LANES: Final = 60  # epochs; of more, some are left out
_MAX_BANDS: Final = 20
_FEW: Final = 5  # predictions below which a bin is unreliable


def training_charts(record: RunRecord) -> list[Chart]:
    """Losses, metrics and learning rates over the epochs."""
    epochs = record.epochs
    losses = {
        "training": [r.train_loss for r in epochs],
        "validation": [r.valid_loss for r in epochs],
    }
    found = [_over_epochs(epochs, "Loss", "loss", losses, notes=True), *_metrics(epochs)]
    if len(found) == 1:
        found = [replace(found[0], wide=True)]
    return [*found, *_rates(record)]


def _metrics(epochs: Sequence[EpochRow]) -> list[Chart]:
    """One chart for all metrics between 0 and 1, one for each of the others: scales differ."""
    values = {n: [row.metrics.get(n) for row in epochs] for n in _metric_names(epochs)}
    shares = [n for n in values if all(v is None or 0 <= v <= 1 for v in values[n])]
    parts = [[n] for n in values if n not in shares]
    parts = ([shares] if shares else []) + parts[:_MAX_CHARTS]
    return [
        _over_epochs(
            epochs, _title(part[0]) if len(part) == 1 else "Metrics",
            part[0] if len(part) == 1 else "value", {n: values[n] for n in part},
        )
        for part in parts
    ]  # fmt: skip


def _metric_names(epochs: Iterable[EpochRow]) -> list[str]:
    return list(dict.fromkeys(name for row in epochs for name in row.metrics))


def _title(name: str) -> str:
    return f"{name[0].upper()}{name[1:]}"


def _rates(record: RunRecord) -> list[Chart]:
    if not any(row.lrs for row in record.epochs):
        return []
    names = group_names(record)
    lines = [
        Line(name, list(_rates_within(record.epochs, i)), f"g{i}", dots=False, dash=i)
        for i, name in enumerate(names)
    ]
    lines = _merged([line for line in lines if any(math.isfinite(b) for _, b in line.points)])
    chart = _over_epochs(record.epochs, "Learning rate of each layer group", "learning rate", {})
    return [
        replace(
            chart,
            lines=lines,
            y=rate_axis(b for line in lines for _, b in line.points if b > 0),
            headings=("epoch", *names),
            rows=[
                (str(r.epoch), *(_rate_of(r, i) for i in range(len(names)))) for r in record.epochs
            ],
            wide=True,
            describe=f"{count(len(lines), 'line')}, one for each group or for groups of the same "
            "rate.",
            caption="The highest rate of each layer group in each epoch; frozen groups have none.",
        )
    ]


def _over_epochs(
    epochs: Sequence[EpochRow],
    title: str,
    unit: str,
    values: Mapping[str, Sequence[float | None]],
    *,
    notes: bool = False,
) -> Chart:
    lines = [Line(n, _points(v), f"c{i % 4}", dash=i) for i, (n, v) in enumerate(values.items())]
    lines = [line for line in lines if line.points]
    ends = [f"{x.name} from {figure(x.points[0][1])} to {figure(x.points[-1][1])}" for x in lines]
    phases = phases_of(epochs)
    return Chart(
        title=title,
        lines=lines,
        x=epoch_axis([row.epoch for row in epochs]),
        y=linear_axis([b for line in lines for _, b in line.points]),
        y_label=unit,
        headings=("epoch", "phase", *values, *(("note",) if notes else ())),
        rows=[
            (str(row.epoch), row.phase, *map(figure, cells), *((row.note,) if notes else ()))
            for row, *cells in zip(epochs, *values.values(), strict=True)
        ],
        bands=[(float(p.start), p.name) for p in phases] if len(phases) <= _MAX_BANDS else [],
        describe=f"{'; '.join(ends)}." if ends else "",
    )


def _points(values: Iterable[float | None]) -> list[Point]:
    return [(i + 0.5, value) for i, value in enumerate(values) if value is not None]


def _is_frozen(row: EpochRow, group: int) -> bool:
    frozen = group < len(row.frozen) and row.frozen[group]
    return frozen or group >= len(row.lrs)


def _rates_within(epochs: Sequence[EpochRow], group: int) -> Iterator[Point]:
    """Rates over time; nan where the group was frozen."""
    for i, row in enumerate(epochs):
        if _is_frozen(row, group):
            yield i + 0.5, float("nan")
            continue
        parts = row.lr_profile or (1.0, 1.0)
        last = max(1, len(parts) - 1)
        for k, part in enumerate(parts):
            yield i + k / last if len(parts) > 1 else i + 0.5, row.lrs[group] * part


def _rate_of(row: EpochRow, group: int) -> str:
    return "–" if _is_frozen(row, group) else rate(row.lrs[group])


def _merged(lines: Sequence[Line]) -> list[Line]:
    same: dict[str, list[Line]] = {}
    for line in lines:
        same.setdefault(repr(line.points), []).append(line)
    return [
        replace(first, name=", ".join([first.name, *(line.name for line in rest)]), dash=i)
        for i, (first, *rest) in enumerate(same.values())
    ]


def group_names(record: RunRecord) -> list[str]:
    """Names of the layer groups; numbered if the history has more of them."""
    most = max((len(row.frozen) for row in record.epochs), default=0)
    own = [group.name for group in record.network.groups]
    return own if len(own) >= most else [f"group {i}" for i in range(most)]


@dataclass(frozen=True)
class Stretch:
    """Consecutive epochs of a phase in which a group is "trained", "frozen" or "absent"."""

    epochs: int
    state: str
    rate: float


@dataclass(frozen=True)
class Lanes:
    """When each layer group was trained and when it was frozen."""

    phases: list[tuple[str, int]]
    groups: list[tuple[str, list[Stretch]]]
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]


def lanes(record: RunRecord) -> Lanes | None:
    """The lanes of a run; None if its history does not list frozen groups."""
    names = group_names(record)
    epochs = record.epochs[:: -(-len(record.epochs) // _MAX_LANES) or 1]
    if not any(row.frozen for row in epochs):
        return None
    return Lanes(
        phases=[(phase.name, len(phase.rows)) for phase in phases_of(epochs)],
        groups=[(name, list(_stretches(epochs, i))) for i, name in enumerate(names)],
        headings=("epoch", *names),
        rows=[
            (str(r.epoch), *("frozen" if f else "trained" for f in r.frozen)) for r in record.epochs
        ],
    )


def _stretches(epochs: Sequence[EpochRow], group: int) -> Iterator[Stretch]:
    def state(row: EpochRow) -> tuple[str, bool | None]:
        return row.phase, row.frozen[group] if group < len(row.frozen) else None

    for (_, frozen), run in groupby(epochs, state):
        rows = list(run)
        top = max((row.lrs[group] for row in rows if group < len(row.lrs)), default=0.0)
        kind = "absent" if frozen is None else "frozen" if frozen else "trained"
        yield Stretch(len(rows), kind, top)


def calibration_chart(outcome: Outcome) -> Chart | None:
    """Accuracy over confidence; the size of a dot shows its number of predictions."""
    found = outcome.calibration
    if found is None or not found.known:
        return None
    share = Axis(0.0, 1.0, ticks=tuple((i / 5, f"{i / 5:.1f}") for i in range(6)))
    points = [(confidence, accuracy) for _, confidence, accuracy in found.known]
    most = max(each.count for each, *_ in found.known)
    sizes = [
        4.0 if each.count < _FEW else 7 + 11 * math.sqrt(each.count / most)
        for each, *_ in found.known
    ]
    error = f"On average, confidence and accuracy are {percent(found.error)} apart."
    return Chart(
        title="Accuracy at each confidence",
        lines=[
            Line("perfect calibration", [(0.0, 0.0), (1.0, 1.0)], "rule", dots=False),
            Line("this model", points, "c0", joined=False, sizes=sizes),
        ],
        x=share,
        y=share,
        y_label="accuracy",
        x_label="confidence",
        headings=("confidence", "accuracy", "predictions"),
        rows=[(percent(c), percent(a), f"{each.count:,}") for each, c, a in found.known],
        caption=error,
        describe=error,
        square=True,
    )


def scatter_chart(outcome: Outcome) -> Chart:
    """Predicted against actual numbers."""
    axis = linear_axis([value for point in outcome.points for value in point])
    ends = [(axis.low, axis.low), (axis.high, axis.high)]
    name = outcome.classes[0] if outcome.classes else "the target"
    return Chart(
        title=f"Predicted against actual: {name}",
        lines=[
            Line("equal", ends, "rule", dots=False),
            Line("items", outcome.points, "c0 soft", joined=False),
        ],
        x=axis,
        y=axis,
        y_label="predicted",
        x_label="actual",
        headings=("actual", "predicted"),
        rows=[(figure(a), figure(b)) for a, b in outcome.points],
        caption=f"{len(outcome.points)} of {outcome.items:,} items.",
        describe=f"{len(outcome.points)} points; on the line both values are equal.",
        square=True,
    )


def compared_charts(runs: Sequence[RunRecord]) -> list[Chart]:
    """Losses and metrics of both runs over the epochs."""
    charts = [_compared(runs, "Validation loss", "loss", lambda row: row.valid_loss)]
    charts += [
        _compared(runs, _title(name), name, lambda row, name=name: row.metrics.get(name))  # type: ignore[misc] # name=name binds it
        for name in _metric_names(row for run in runs for row in run.epochs)
    ]
    charts.append(_compared(runs, "Training loss", "loss", lambda row: row.train_loss))
    return [chart for chart in charts if chart.lines]


def _compared(
    runs: Sequence[RunRecord], title: str, unit: str, value: Callable[[EpochRow], float | None]
) -> Chart:
    one, other = runs
    longest = max(one.epochs, other.epochs, key=len)
    values = {
        letter: [value(row) for row in run.epochs] + [None] * (len(longest) - len(run.epochs))
        for letter, run in zip("AB", runs, strict=True)
    }
    positions = [replace(row, epoch=i, phase="") for i, row in enumerate(longest)]
    chart = _over_epochs(positions, title, unit, values)
    looks = {"A": "run-0", "B": "run-1"}
    lines = [replace(line, look=looks[line.name]) for line in chart.lines]
    rows = [(epoch, *cells) for epoch, _, *cells in chart.rows]
    return replace(chart, lines=lines, headings=("epoch", "A", "B"), rows=rows, bands=[])


def compared_recall(runs: Sequence[RunRecord]) -> list[tuple[str, ...]]:
    """The recall of each class that both runs have, and the difference in points."""
    one, other = (
        {row.name: row.recall for row in run.outcome.class_report.classes}
        if run.outcome and run.outcome.class_report
        else {}
        for run in runs
    )
    rows: list[tuple[str, ...]] = []
    for name in [name for name in one if name in other]:
        a, b = one[name], other[name]
        apart = "–" if a is None or b is None else f"{(b - a) * 100:+.1f} points"
        rows.append((name, percent(a), percent(b), apart))
    return rows
