"""Predictions written to stdout row by row, as they come: a table, CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from layergroups.reports.tables import PhotoPrediction

_WIDEST = 120  # columns for the path; longer ones push their row to the right
_HEADINGS = ("photo", "prediction", "probability", "next")


def write_rows(
    format: str, rows: Iterable[PhotoPrediction], classes: Sequence[str], paths: Sequence[str]
) -> None:
    """Write each row as soon as it is there; nothing is kept.

    Args:
        format: one of `FORMATS`.
        rows: the predictions.
        classes: the names of all classes.
        paths: all photos that will come, for the width of a table.
    """
    for line in FORMATS[format](rows, classes, paths):
        sys.stdout.write(line)
        sys.stdout.flush()


def _table(
    rows: Iterable[PhotoPrediction], classes: Sequence[str], paths: Sequence[str]
) -> Iterator[str]:
    widths = (
        min(_WIDEST, max(map(len, (_HEADINGS[0], *paths)))),
        max(map(len, (_HEADINGS[1], *classes))),
        len(_HEADINGS[2]),
    )
    yield _cells(_HEADINGS, widths)
    for row in rows:
        after = "  ".join(f"{name} {chance:.3f}" for name, chance in row.ranking[1:2])
        yield _cells((str(row.path), row.label, f"{row.probability:.3f}", after), widths)


def _cells(cells: tuple[str, str, str, str], widths: tuple[int, int, int]) -> str:
    photo, label, probability, after = cells
    line = f"{photo:<{widths[0]}}  {label:<{widths[1]}}  {probability:>{widths[2]}}  {after}"
    return f"{line.rstrip()}\n"


def _json(rows: Iterable[PhotoPrediction], *_: object) -> Iterator[str]:
    """One list; a comma before each row but the first."""
    before = "[\n"
    for row in rows:
        yield before + json.dumps(row.to_dict(), ensure_ascii=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _jsonl(rows: Iterable[PhotoPrediction], *_: object) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row.to_dict(), ensure_ascii=False) + "\n"


def _csv(rows: Iterable[PhotoPrediction], classes: Sequence[str], _: object) -> Iterator[str]:
    """A column for the probability of each class, in the order of the model's outputs."""
    yield _csv_line(["photo", "prediction", "probability", *classes])
    for row in rows:
        chances = dict(row.ranking)
        yield _csv_line([row.path, row.label, row.probability, *(chances[c] for c in classes)])


def _csv_line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


_Writer = Callable[[Iterable[PhotoPrediction], Sequence[str], Sequence[str]], Iterator[str]]
FORMATS: Final[dict[str, _Writer]] = {"table": _table, "json": _json, "jsonl": _jsonl, "csv": _csv}
