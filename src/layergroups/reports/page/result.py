"""What the model gets right and what it takes for something else, with the photos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from layergroups.reports.page.charts import (
    Axis,
    Line,
    line_chart,
    linear_axis,
    scatter_chart,
    scrolled,
    table_of,
)
from layergroups.reports.page.colours import level
from layergroups.reports.page.markup import Html, tag
from layergroups.reports.page.pictures import picture_of
from layergroups.reports.run_facts import Cell, Outcome, Photo
from layergroups.reports.telling import figures_in_words, per_class
from layergroups.reports.words import count, figure, percent

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
    if outcome.task == "single":
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
    kind = "label" if outcome.task == "multi" else "class"
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
