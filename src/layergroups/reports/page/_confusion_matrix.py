"""The confusion matrix of the page: cells, heat map, and the data of its script."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from layergroups._formatting import count, percent
from layergroups.reports.run import Cell, Outcome
from layergroups.tasks import task_named

MAX_CELLS: Final = 30  # classes up to which the matrix has numbers; else it is a heat map
MAX_CONFUSED: Final = 10
_MAX_NAMES: Final = 45  # beside a heat map
_CORRECT: Final = (46, 125, 190)  # of a heat map, on light and dark
_WRONG: Final = (216, 100, 20)
_PICTURE: Final = re.compile(r"data:image/(?:jpeg|png);base64,[A-Za-z0-9+/]+={0,2}")


def safe_picture(uri: str) -> str:
    """The picture if it is an embedded image, else an empty string."""
    return uri if _PICTURE.fullmatch(uri) else ""


@dataclass(frozen=True)
class MatrixCell:
    """A cell of the confusion matrix: key on the page, count, colour, description."""

    key: str
    count: int
    kind: str  # "right" or "wrong"
    step: int  # of its colour, 0 to 10
    title: str
    text: str  # the count; of pixels the share of their class


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix, as numbers in cells or as a heat map."""

    classes: tuple[str, ...]
    rows: list[list[MatrixCell | None]]  # by actual class, None without items; or a heat map:
    picture: str  # a data URI
    ticks: list[tuple[str, float]]  # classes named beside the heat map, positions in percent
    confused: list[tuple[MatrixCell, str, str, int]]  # cell, actual, predicted, items of the class
    errors: int  # number of cells
    counted: str  # "items" or "pixels"


def matrix_of(outcome: Outcome | None) -> Matrix | None:
    if outcome is None or not outcome.cells:
        return None
    n = len(outcome.classes)
    totals = [0] * n
    for cell in outcome.cells:
        totals[cell.actual] += cell.count
    by_place = {
        (c.actual, c.predicted): _matrix_cell(outcome, c, totals[c.actual]) for c in outcome.cells
    }
    wrong = sorted((c for c in outcome.cells if c.actual != c.predicted), key=lambda c: -c.count)
    step = -(-n // _MAX_NAMES)
    return Matrix(
        classes=outcome.classes,
        rows=[[by_place.get((i, j)) for j in range(n)] for i in range(n)] if n <= MAX_CELLS else [],
        picture="" if n <= MAX_CELLS else _heat_map(outcome, totals),
        ticks=[(outcome.classes[i], 100 * (i + 0.5) / n) for i in range(0, n, step)],
        confused=[
            (
                by_place[c.actual, c.predicted],
                outcome.classes[c.actual],
                outcome.classes[c.predicted],
                totals[c.actual],
            )
            for c in wrong[:MAX_CONFUSED]
        ],
        errors=len(wrong),
        counted="pixels" if task_named(outcome.task).per_pixel else "items",
    )


def _matrix_cell(outcome: Outcome, cell: Cell, total: int) -> MatrixCell:
    kind, strength = _shade(cell, total)
    title = _cell_title(outcome, cell)
    text = f"{cell.count / total:.0%}" if task_named(outcome.task).per_pixel else str(cell.count)
    return MatrixCell(_key(cell), cell.count, kind, round(10 * strength), title, text)


def _shade(cell: Cell, total: int) -> tuple[str, float]:
    """The kind and strength of a cell; errors, spread over a row, are drawn twice as strong."""
    part = cell.count / total if total else 0.0
    return ("right", part) if cell.actual == cell.predicted else ("wrong", min(1.0, part * 2))


def _heat_map(outcome: Outcome, totals: Sequence[int]) -> str:
    """A pixel for each cell, transparent if empty, for light and dark backgrounds."""
    n = len(outcome.classes)
    pixels = np.zeros((n, n, 4), np.uint8)
    for cell in outcome.cells:
        kind, strength = _shade(cell, totals[cell.actual])
        colour = _CORRECT if kind == "right" else _WRONG
        pixels[cell.actual, cell.predicted] = (*colour, round(60 + 195 * strength))
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def _key(cell: Cell) -> str:
    return f"{cell.actual}-{cell.predicted}"


def _cell_title(outcome: Outcome, cell: Cell) -> str:
    actual, predicted = (outcome.classes[i] for i in (cell.actual, cell.predicted))
    what = "pixel" if task_named(outcome.task).per_pixel else "item"
    if cell.actual == cell.predicted:
        return f"{count(cell.count, what)} of {actual}, predicted correctly"
    return f"{count(cell.count, what)} of {actual}, predicted as {predicted}"


def script_data(outcome: Outcome | None) -> dict[str, Any]:
    """The data of the script for each cell: pictures and texts.

    With many classes, only of the cells that have a button.
    """
    if outcome is None:
        return {"items": [], "cells": {}}
    matrix = matrix_of(outcome)
    listed = {cell.key for cell, *_ in matrix.confused} if matrix else set()
    cells = {
        _key(cell): {
            "title": _cell_title(outcome, cell),
            "note": _note(outcome, cell),
            "items": cell.shown,
        }
        for cell in outcome.cells
        if len(outcome.classes) <= MAX_CELLS or _key(cell) in listed
    }
    needed = {i for cell in cells.values() for i in cell["items"]}
    items = [
        [
            safe_picture(item.thumb) if i in needed else "",
            f"{item.path}: actual {item.actual}, predicted {item.predicted}",
            "" if item.confidence is None else percent(item.confidence),
            item.path.replace("\\", "/").split("/")[-1],
        ]
        for i, item in enumerate(outcome.shown)
    ]
    return {"items": items, "cells": cells}


def _note(outcome: Outcome, cell: Cell) -> str:
    if cell.shown and task_named(outcome.task).per_pixel:
        return "Where these pixels are, in orange. Images with the most of them come first."
    order = "least confident first" if cell.actual == cell.predicted else "most confident first"
    if not cell.shown:
        return "This page has no pictures of them."
    if len(cell.shown) < cell.count:
        return f"{len(cell.shown)} of them, {order}."
    return f"{order[0].upper()}{order[1:]}." if cell.count > 1 else ""
