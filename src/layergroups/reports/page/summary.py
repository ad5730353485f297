"""The top of the page: what was done, and what it came to."""

from __future__ import annotations

from typing import Final

from layergroups.reports.page.markup import Content, Html, tag
from layergroups.reports.run_record import RunRecord
from layergroups.reports.telling import headline, phases_of, story
from layergroups.reports.words import count, duration, memory, short

_LONG: Final = 16


def header(record: RunRecord) -> Html:
    """Title, the story in two sentences, and the four figures that one looks for first."""
    return tag(
        "header",
        tag("p", "A run of layergroups", class_="eyebrow"),
        tag("h1", record.title),
        tag("p", story(record), class_="lead"),
        tag("dl", tiles(record), class_="tiles"),
    )


def tiles(record: RunRecord) -> list[Html]:
    """Result, time, network, data."""
    return [
        found
        for found in (_result(record), _time(record), _network(record), _data(record))
        if found is not None
    ]


def _tile(name: str, value: str, *below: Content) -> Html:
    look = "long" if len(value) > _LONG else None
    said = tag("dd", tag("strong", value, class_=look), tag("span", *below))
    return tag("div", tag("dt", name), said)


def _result(record: RunRecord) -> Html | None:
    if record.outcome is None:
        return None
    outcome = record.outcome
    name, value = headline(outcome)
    if outcome.task == "single":
        right = sum(cell.count for cell in outcome.cells if cell.actual == cell.predicted)
        below = f"{right:,} of {count(outcome.items, 'photo')}"
    else:
        below = f"on {count(outcome.items, 'item')}"
    return _tile(name.capitalize() if name[0].islower() else name, value, below)


def _time(record: RunRecord) -> Html:
    phases = phases_of(record.epochs)
    peaks = [phase.memory for phase in phases if phase.memory is not None]
    below = count(len(record.epochs), "epoch")
    if peaks:
        below += f", {memory(max(peaks))} of memory"
    return _tile("Training", duration(record.seconds), below)


def _network(record: RunRecord) -> Html:
    network = record.network
    name = network.name.rpartition(":")[2]
    groups = count(len(network.groups), "layer group")
    return _tile("Network", name, f"{short(network.parameters)} parameters, {groups}")


def _data(record: RunRecord) -> Html | None:
    data = record.data
    if data.train is None:
        return None
    kind = record.outcome.task if record.outcome else ""
    classes = len(data.counts) or len(record.outcome.classes if record.outcome else ())
    below = ["to learn from"]
    below += [] if data.valid is None else [f"{data.valid:,} to measure with"]
    below += [_classes(kind, classes)] if classes else []
    return _tile("Data", count(data.train, "item" if kind == "regression" else "photo"),
                 ", ".join(below))  # fmt: skip


def _classes(task: str, n: int) -> str:
    one, several = {"multi": ("label", "labels"), "regression": ("number", "numbers")}.get(
        task, ("class", "classes")
    )
    return count(n, one, several)
