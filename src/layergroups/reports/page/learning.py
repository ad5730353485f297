"""How it learned: losses, metrics, which group trained when and at which rate."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Final

from layergroups.reports.page.charts import (
    Line,
    Point,
    epoch_axis,
    line_chart,
    linear_axis,
    numbers,
    rate_axis,
    table_of,
)
from layergroups.reports.page.markup import Html, tag
from layergroups.reports.run_facts import EpochFacts
from layergroups.reports.run_record import RunRecord
from layergroups.reports.telling import phases_of
from layergroups.reports.words import count, duration, figure, rate

_MOST_LANES: Final = 60  # epochs across; of more, some are left out
_MOST_BANDS: Final = 20


def learning(record: RunRecord) -> Html:
    """All charts over the epochs."""
    return tag(
        "div", losses(record), metrics(record), rates(record), lanes(record), class_="charts"
    )


def losses(record: RunRecord) -> Html:
    """The training and the validation loss of each epoch."""
    epochs = record.epochs
    lines = [
        Line("training", _points(row.train_loss for row in epochs), "c0"),
        Line("validation", _points(row.valid_loss for row in epochs), "c1", dash=1),
    ]
    lines = [line for line in lines if line.points]
    rows = [
        (
            *(str(row.epoch), row.phase),
            *(figure(row.train_loss), figure(row.valid_loss)),
            *(duration(row.seconds), row.note),
        )
        for row in epochs
    ]
    table = table_of(("epoch", "phase", "training", "validation", "time", "note"), rows, "Losses.")
    return line_chart(
        "Loss", lines, epoch_axis([row.epoch for row in epochs]),
        linear_axis([b for line in lines for _, b in line.points]),
        table=table, y_label="loss", bands=_bands(record), describe=_from_to(lines),
        wide=not any(row.metrics for row in epochs),
    )  # fmt: skip


def metrics(record: RunRecord) -> Html | None:
    """The metrics of each epoch on the validation data; None if there are none."""
    epochs = record.epochs
    names = list(dict.fromkeys(name for row in epochs for name in row.metrics))
    if not names:
        return None
    lines = [
        Line(name, _points(row.metrics.get(name) for row in epochs), f"c{i % 4}", dash=i)
        for i, name in enumerate(names)
    ]
    rows = [(str(r.epoch), r.phase, *(figure(r.metrics.get(n)) for n in names)) for r in epochs]
    return line_chart(
        names[0].capitalize() if len(names) == 1 else "Metrics", lines,
        epoch_axis([row.epoch for row in epochs]),
        linear_axis([b for line in lines for _, b in line.points]),
        table=table_of(("epoch", "phase", *names), rows, "On the validation data."),
        y_label=names[0] if len(names) == 1 else "value", bands=_bands(record),
        describe=_from_to(lines),
    )  # fmt: skip


def rates(record: RunRecord) -> Html | None:
    """The rate of each layer group at up to 16 steps of each epoch."""
    names = group_names(record)
    if not any(row.lrs for row in record.epochs):
        return None
    lines = [
        Line(name, list(_course(record.epochs, i)), f"g{i}", dots=False, dash=i)
        for i, name in enumerate(names)
    ]
    lines = _together([line for line in lines if any(map(_is_known, line.points))])
    rows = [
        (str(r.epoch), *(_rate_of(r, i) for i in range(len(names))))
        for r in record.epochs
    ]  # fmt: skip
    caption = "The highest rate of each layer group in each epoch; frozen groups have none."
    return line_chart(
        "Learning rate of each layer group", lines,
        epoch_axis([row.epoch for row in record.epochs]),
        rate_axis(b for line in lines for _, b in line.points if b > 0),
        table=table_of(("epoch", *names), rows, caption), y_label="rate", bands=_bands(record),
        describe=f"{count(len(lines), 'line')}, one for each group or for those that share a rate.",
        wide=True,
    )  # fmt: skip


def lanes(record: RunRecord) -> Html | None:
    """A lane for each layer group: hatched where it was frozen, full where it trained."""
    names = group_names(record)
    epochs = record.epochs[:: -(-len(record.epochs) // _MOST_LANES) or 1]
    if not any(row.frozen for row in epochs):
        return None
    head = tag("tr", tag("th", "group", scope="col"), [
        tag("th", phase.name, colspan=len(phase.rows), scope="colgroup")
        for phase in phases_of(epochs)
    ])  # fmt: skip
    rows = [
        tag("tr", tag("th", swatch(i), name, scope="row"), list(_stretches(epochs, i)))
        for i, name in enumerate(names)
    ]
    table = tag("table", tag("thead", head), tag("tbody", rows), class_="lanes")
    return tag("figure", tag("figcaption", "Frozen or not, in each epoch"), table, _states(record),
               class_="chart wide")  # fmt: skip


def group_names(record: RunRecord) -> list[str]:
    """Names of the layer groups; numbered where the history has another number of them."""
    most = max((len(row.frozen) for row in record.epochs), default=0)
    own = [group.name for group in record.network.groups]
    return own if len(own) >= most else [f"group {i}" for i in range(most)]


def swatch(i: int) -> Html:
    """A piece of a group's colour."""
    return tag("span", class_="swatch", style=f"background:var(--g{i},#808080)", aria_hidden="true")


def _stretches(epochs: Sequence[EpochFacts], group: int) -> Iterator[Html]:
    """Epochs of one phase in which the group was the same, as one cell."""

    def state(row: EpochFacts) -> tuple[str, bool | None]:
        return row.phase, row.frozen[group] if group < len(row.frozen) else None

    for (_, frozen), run in groupby(epochs, state):
        rows = list(run)
        top = max((row.lrs[group] for row in rows if group < len(row.lrs)), default=0.0)
        words = "no such group" if frozen is None else "frozen" if frozen else f"up to {rate(top)}"
        *before, last = words.split(" ")
        shown = [*(f"{word} " for word in before), tag("span", last, class_="whole")]
        kind = "absent" if frozen is None else "frozen" if frozen else "trains"
        style = f"--c:var(--g{group},#808080)"
        bar = tag("span", class_=f"bar {kind}", style=style, aria_hidden="true")
        yield tag("td", bar, tag("span", shown, class_="state"), colspan=len(rows), title=words)


def _states(record: RunRecord) -> Html:
    names = group_names(record)
    rows = [
        (str(r.epoch), *("frozen" if f else "trains" for f in r.frozen)) for r in record.epochs
    ]  # fmt: skip
    return numbers(table_of(("epoch", *names), rows, "Frozen or not, in each epoch."))


def _points(values: Iterable[float | None]) -> list[Point]:
    """A point in the middle of each epoch that has a value."""
    return [(i + 0.5, value) for i, value in enumerate(values) if value is not None]


def _course(epochs: Sequence[EpochFacts], group: int) -> Iterator[Point]:
    """Rates at places in time; where the group was frozen there are none."""
    for i, row in enumerate(epochs):
        if group >= len(row.lrs) or (group < len(row.frozen) and row.frozen[group]):
            yield i + 0.5, float("nan")
            continue
        parts = row.course or (1.0, 1.0)
        last = max(1, len(parts) - 1)
        for k, part in enumerate(parts):
            yield i + k / last if len(parts) > 1 else i + 0.5, row.lrs[group] * part


def _is_known(point: Point) -> bool:
    return math.isfinite(point[1])


def _together(lines: Sequence[Line]) -> list[Line]:
    """Lines that are the same everywhere as one."""
    same: dict[str, list[Line]] = {}
    for line in lines:
        same.setdefault(repr(line.points), []).append(line)
    return [
        replace(first, name=", ".join([first.name, *(line.name for line in rest)]), dash=i)
        for i, (first, *rest) in enumerate(same.values())
    ]


def _rate_of(row: EpochFacts, group: int) -> str:
    if group >= len(row.lrs) or (group < len(row.frozen) and row.frozen[group]):
        return "–"
    return rate(row.lrs[group])


def _bands(record: RunRecord) -> list[tuple[float, str]]:
    """Where each phase begins; nothing where there are too many to be told apart."""
    phases = phases_of(record.epochs)
    return [(float(p.start), p.name) for p in phases] if len(phases) <= _MOST_BANDS else []


def _from_to(lines: Sequence[Line]) -> str:
    told = [f"{line.name} from {figure(line.points[0][1])} to {figure(line.points[-1][1])}"
            for line in lines if line.points]  # fmt: skip
    return f"{'; '.join(told)}." if told else ""
