"""How it learned: losses, metrics, which group trained when and at which rate.

The network, the data, what it cost, and how to do it again.

What the model gets right and what it takes for something else, with the photos.

The top of the page: what was done, and what it came to.

Photos on the page: pictures that are data of the page itself, and nothing else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

from layergroups._formatting import count, duration, figure, memory, percent, rate, shape, short
from layergroups.data import DataFacts
from layergroups.reports.figures._network import Row, Stack
from layergroups.reports.page._markup import Content, Html, tag
from layergroups.reports.page._page_charts import (
    Axis,
    Line,
    Point,
    epoch_axis,
    level,
    line_chart,
    linear_axis,
    numbers,
    rate_axis,
    scatter_chart,
    scrolled,
    table_of,
)
from layergroups.reports.run._narrative import (
    figures_in_words,
    headline,
    per_class,
    phases_of,
    savings_of,
    savings_text,
    story,
)
from layergroups.reports.run._record import (
    Cell,
    EpochFacts,
    NetworkFacts,
    Outcome,
    Photo,
    RunRecord,
    SetupFacts,
)

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


_BROKEN: Final = 200
_OPEN_GROUPS: Final = 40


# The network


def network(facts: NetworkFacts) -> Html:
    """The blocks from input to output, in their groups; bars are in proportion to parameters."""
    blocks = [row for group in facts.groups for row in group.rows]
    most = max((row.parameters for row in blocks), default=1)
    groups = [_group(group, i, most) for i, group in enumerate(facts.groups)]
    rule = f" Divided by the rule: {facts.rule}." if facts.rule else ""
    words = f"Input on top, output below; bars are in proportion to parameters.{rule}"
    return tag("div", tag("p", words, class_="hint"), tag("ol", groups, class_="stack"))


def _group(group: Stack, i: int, most: int) -> Html:
    state = "frozen" if group.frozen else f"trains at {rate(group.rate)}"
    facts = (
        f"{count(group.blocks, 'block')}, {short(group.parameters)} parameters, {state} at the end"
    )
    reason = f"{group.reason[:1].upper()}{group.reason[1:]}"
    return tag(
        "li",
        tag("h3", swatch(i), group.name), tag("p", facts, class_="facts"),
        tag("p", f"Begins here: {group.reason}" if i else reason, class_="reason")
        if group.reason else None,
        tag("ol", [_block(row, most, group.frozen) for row in group.rows], class_="blocks"),
        class_="group", style=f"--c:var(--g{i},#808080)",
    )  # fmt: skip


def _block(row: Row, most: int, frozen: bool) -> Html:
    width = max(0.4, 100 * row.parameters / max(1, most))
    look = "fill frozen" if frozen else "fill"
    fill = tag("span", class_=look, style=f"width:{width:.1f}%")
    bar = tag("span", fill, class_="track", aria_hidden="true")
    return tag(
        "li", tag("span", row.name, class_="name"), bar,
        tag("span", short(row.parameters), class_="size"),
        tag("span", shape(row.shape), class_="shape"),
    )  # fmt: skip


# The data


def data(facts: DataFacts) -> Html:
    """How many items of each class, what was done to them, and which could not be read."""
    return tag("div", _counts(facts), pairs(facts.facts), _broken(facts))


def _counts(facts: DataFacts) -> Html | None:
    if not facts.counts:
        return None
    most = max(max(t, v) for _, t, v in facts.counts) or 1
    rows = [
        (name, f"{t:,}", _rate_bar(t / most), f"{v:,}", _rate_bar(v / most))
        for name, t, v in facts.counts
    ]
    table = table_of(("class", "to learn from", "", "to measure with", ""), rows)
    shown = scrolled(table, "items of each class")
    if len(rows) <= _OPEN_GROUPS:
        return shown
    return tag("details", tag("summary", f"{len(rows)} classes"), shown)


def _rate_bar(part: float) -> Html:
    return tag("svg", tag("rect", width=f"{100 * part:.1f}", height="10", class_="c0"),
               viewBox="0 0 100 10", preserveAspectRatio="none", class_="meter",
               aria_hidden="true")  # fmt: skip


def _broken(facts: DataFacts) -> Html:
    if not facts.broken:
        return tag("p", "No broken files were left out.", class_="hint")
    rows = [tag("li", tag("code", path), f": {reason}") for path, reason in facts.broken[:_BROKEN]]
    more = len(facts.broken) - _BROKEN
    title = f"{count(len(facts.broken), 'broken file')} left out"
    listed = tag("ul", rows, tag("li", f"and {more:,} more") if more > 0 else None, class_="broken")
    return tag("div", tag("h3", title), listed)


# What it cost


def costs(record: RunRecord) -> Html:
    """Time and memory of each phase, and what stored outputs saved."""
    phases = phases_of(record.epochs)
    total = record.seconds or 1.0
    devices = any(phase.device_memory is not None for phase in phases)
    headings = ["phase", "epochs", "time", "", "memory", *(["on the device"] if devices else [])]
    rows = [
        [
            p.name,
            str(len(p.rows)),
            duration(p.seconds),
            _rate_bar(p.seconds / total),
            memory(p.memory),
            *([memory(p.device_memory)] if devices else []),
        ]
        for p in phases
    ]  # fmt: skip
    savings = savings_of(record.epochs)
    saved = savings_text(savings) if savings else "No outputs of frozen layers were stored."
    caption = "Memory: the most that the process had held by the end of the phase."
    return tag("div", scrolled(table_of(headings, rows, caption), "time and memory"),
               tag("h3", "What the feature store saved"), tag("p", saved))  # fmt: skip


# How to do it again


def setup(facts: SetupFacts) -> Html:
    """Command, settings, versions, machine."""
    command = tag("pre", tag("code", facts.command), tabindex="0", role="region",
                  aria_label="command") if facts.command else None  # fmt: skip
    parts = (("Settings", facts.settings), ("Versions", facts.versions), ("Machine", facts.machine))
    listed = [
        tag("div", tag("h3", title), pairs(values)) for title, values in parts if values
    ]  # fmt: skip
    return tag("div", command, tag("div", listed, class_="columns"))


def pairs(values: Mapping[str, str]) -> Html | None:
    """Names and values, one below the other."""
    items = [tag("div", tag("dt", name), tag("dd", value)) for name, value in values.items()]
    return tag("dl", items, class_="named") if items else None


_PICTURE: Final = re.compile(r"data:image/(?:jpeg|png);base64,[A-Za-z0-9+/]+={0,2}")


def picture_of(uri: str) -> str:
    """The picture, if it is one that needs no network; else nothing."""
    return uri if _PICTURE.fullmatch(uri) else ""


def worst(photos: Sequence[Photo], task: str) -> Html:
    """The items of the highest losses, each beside what spoke for the prediction."""
    return tag("ul", [tag("li", _card(photo, task)) for photo in photos], class_="worst")


def _card(photo: Photo, task: str) -> Html:
    pictures = [
        tag("img", src=uri, alt=alt)
        for uri, alt in (
            (picture_of(photo.thumb), f"{photo.path}, {photo.actual}"),
            (picture_of(photo.heat), f"the same, with the places that spoke for {photo.predicted}"),
        )
        if uri
    ]
    sure = None if photo.score is None else f", {percent(photo.score)} sure"
    said = [
        *("said " if task == "regression" else "taken for ", tag("strong", photo.predicted), sure),
        *(tag("br"), "is ", tag("strong", photo.actual)),
    ]
    words = tag("p", *said, class_="said")
    below = tag(
        "p", tag("span", photo.path), tag("b", f"loss {figure(photo.loss)}"), class_="where"
    )
    return tag("figure", tag("div", pictures, class_="pair") if pictures else None,
               tag("figcaption", words, below))  # fmt: skip


MOST_CLASSES: Final = 30  # of a matrix; of more, the most frequent confusions are listed
_PAIRS: Final = 60
_FEW_PAIRS: Final = 5
_OPEN_CLASSES: Final = 12


def result(outcome: Outcome, run: int = 0) -> Html:
    """The section of a result.

    Args:
        outcome: of the run.
        run: its number on the page, by which the script finds its photos.
    """
    if outcome.task == "regression":
        return tag("div", _figures(outcome), _scatter(outcome))
    parts = [_figures(outcome)]
    if outcome.task == "multiclass":
        parts.append(confusions(outcome, run))
    parts.append(tag("div", _classes(outcome), _calibration(outcome), class_="charts"))
    return tag("div", parts)


def confusions(outcome: Outcome, run: int) -> Html:
    """The matrix or, of many classes, the pairs that were confused; with a place for the photos."""
    small = len(outcome.classes) <= MOST_CLASSES
    wrong = sorted((c for c in outcome.cells if c.actual != c.predicted), key=lambda c: -c.count)
    listed = wrong[: _FEW_PAIRS if small else _PAIRS]
    hint = "Choose a number to see its photos: a click, or the arrow keys and Enter."
    panel = tag(
        "div", tag("p", hint, class_="hint"), class_="panel", aria_live="polite", tabindex="-1"
    )
    return tag(
        "div", _matrix(outcome) if small else None,
        tag("div", panel, _pairs(outcome, listed), class_="beside"),
        class_="confusion" if small else "confusion long", data_run=run,
    )  # fmt: skip


def photos_for_script(outcome: Outcome | None) -> dict[str, Any]:
    """What the script shows of each cell: pictures and words, all of it text."""
    if outcome is None:
        return {"photos": [], "cells": {}}
    cells = {
        _key(cell): {"title": _title(outcome, cell), "more": _more(cell), "photos": cell.photos}
        for cell in outcome.cells
    }
    return {"photos": [_for_script(photo) for photo in outcome.photos], "cells": cells}


def _for_script(photo: Photo) -> list[str]:
    sure = "" if photo.score is None else percent(photo.score)
    words = f"{photo.path}: is {photo.actual}, taken for {photo.predicted}"
    return [picture_of(photo.thumb), words, sure, photo.path.replace("\\", "/").split("/")[-1]]


# The matrix


def _matrix(outcome: Outcome) -> Html:
    n = len(outcome.classes)
    counts = {(cell.actual, cell.predicted): cell for cell in outcome.cells}
    columns = [tag("th", tag("span", name), scope="col") for name in outcome.classes]
    head = tag("tr", tag("td", "is \\ taken for", class_="corner"), columns)
    rows = []
    for i, name in enumerate(outcome.classes):
        total = sum(cell.count for cell in outcome.cells if cell.actual == i)
        cells = [_cell(outcome, counts.get((i, j)), total) for j in range(n)]
        rows.append(tag("tr", tag("th", tag("span", name), scope="row"), cells))
    caption = tag("caption", "Rows: what a photo is. Columns: what it was taken for.")
    table = tag("table", caption, tag("thead", head), tag("tbody", rows), class_="matrix")
    return scrolled(table, "confusion matrix")


def _cell(outcome: Outcome, cell: Cell | None, total: int) -> Html:
    if cell is None:
        return tag("td", tag("span", "none", class_="unseen"))
    part = cell.count / total if total else 0.0
    right = cell.actual == cell.predicted
    shade = f"right-{level(part)}" if right else f"wrong-{level(min(1.0, part * 2))}"
    return tag("td", _button(outcome, cell, str(cell.count)), class_=shade)


def _button(outcome: Outcome, cell: Cell, text: str) -> Html:
    return tag(
        "button", text, type="button", data_cell=_key(cell), aria_label=_title(outcome, cell),
        title=_title(outcome, cell),
    )  # fmt: skip


def _key(cell: Cell) -> str:
    return f"{cell.actual}-{cell.predicted}"


def _title(outcome: Outcome, cell: Cell) -> str:
    actual, predicted = (outcome.classes[i] for i in (cell.actual, cell.predicted))
    if cell.actual == cell.predicted:
        return f"{count(cell.count, 'photo')} of {actual}, found"
    return f"{count(cell.count, 'photo')} of {actual}, taken for {predicted}"


def _more(cell: Cell) -> str:
    """Which photos are shown."""
    order = "least sure first" if cell.actual == cell.predicted else "surest first"
    if not cell.photos:
        return "There are no pictures of them on this page."
    if len(cell.photos) < cell.count:
        return f"{len(cell.photos)} of them, {order}."
    return f"{order[0].upper()}{order[1:]}." if cell.count > 1 else ""


def _pairs(outcome: Outcome, cells: Sequence[Cell]) -> Html | None:
    if not cells:
        return None
    totals = [0] * len(outcome.classes)
    for cell in outcome.cells:
        totals[cell.actual] += cell.count
    rows = [
        (
            _button(outcome, cell, f"{outcome.classes[cell.actual]} → "
                                   f"{outcome.classes[cell.predicted]}"),
            f"{cell.count} of {totals[cell.actual]}",
        )
        for cell in cells
    ]  # fmt: skip
    return tag("div", tag("h3", "Most often mistaken"),
               scrolled(table_of(("is → taken for", "photos"), rows), "most often mistaken"),
               class_="pairs")  # fmt: skip


# Figures and charts


def _figures(outcome: Outcome) -> Html:
    pairs = figures_in_words(outcome).items()
    items = [tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs]
    return tag("dl", items, class_="figures")


def _classes(outcome: Outcome) -> Html:
    """Recall and precision of each class, with a bar for the recall."""
    kind = "label" if outcome.task == "multilabel" else "class"
    rows = [
        (name, f"{n:,}", f"{right:,}", _bar(recall), percent(recall), percent(precision))
        for name, n, right, recall, precision in per_class(outcome)
    ]
    headings = (kind, "items" if kind == "label" else "photos", "found", "", "recall", "precision")
    table = scrolled(table_of(headings, rows), f"each {kind}")
    several = f"Each {kind}"
    if len(rows) <= _OPEN_CLASSES:
        return tag("figure", tag("figcaption", several), table, class_="chart")
    opened = tag("details", tag("summary", count(len(rows), kind, "classes" if kind == "class"
                                                 else "labels")), table)  # fmt: skip
    return tag("figure", tag("figcaption", several), opened, class_="chart")


def _bar(part: float | None) -> Html:
    shape = tag("rect", width=f"{100 * (part or 0):.1f}", height="10", class_="c0")
    return tag("svg", shape, viewBox="0 0 100 10", preserveAspectRatio="none", class_="meter",
               aria_hidden="true")  # fmt: skip


def _calibration(outcome: Outcome) -> Html | None:
    """How often predictions of each probability are right."""
    if not outcome.calibration:
        return None
    share = Axis(0.0, 1.0, ticks=tuple((i / 5, f"{i / 5:.1f}") for i in range(6)))
    lines = [
        Line("as often as said", [(0.0, 0.0), (1.0, 1.0)], "rule", dots=False),
        Line("this model", [(said, right) for said, right, _ in outcome.calibration], "c0"),
    ]
    rows = [(percent(s), percent(r), f"{n:,}") for s, r, n in outcome.calibration]
    distance = f"On average they are {percent(outcome.calibration_error)} apart."
    return line_chart(
        "Is it as often right as it says?", lines, share, share,
        table=table_of(("said", "right", "predictions"), rows, distance),
        y_label="part that is right", x_label="probability said",
        describe=distance,
    )  # fmt: skip


def _scatter(outcome: Outcome) -> Html:
    """Predicted numbers against actual ones."""
    axis = linear_axis([value for point in outcome.points for value in point])
    rows = [(figure(a), figure(b)) for a, b in outcome.points]
    name = outcome.classes[0] if outcome.classes else "the number"
    return scatter_chart(
        f"Predicted against actual: {name}", outcome.points, axis, labels=("actual", "predicted"),
        table=table_of(("actual", "predicted"), rows, f"{len(rows)} of {outcome.items:,} items."),
    )  # fmt: skip


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
    if outcome.task == "multiclass":
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
    below += [_class_facts(kind, classes)] if classes else []
    return _tile("Data", count(data.train, "item" if kind == "regression" else "photo"),
                 ", ".join(below))  # fmt: skip


def _class_facts(task: str, n: int) -> str:
    one, several = {"multilabel": ("label", "labels"), "regression": ("number", "numbers")}.get(
        task, ("class", "classes")
    )
    return count(n, one, several)
