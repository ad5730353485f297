"""Predictions written to stdout row by row, as they come: a table, CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from layergroups.reports.photo_rows import Column, PhotoRow

_WIDEST = 120  # columns for the path; longer ones push their row to the right


def write_rows(
    format: str,
    rows: Iterable[PhotoRow],
    kind: type[PhotoRow],
    names: Sequence[str],
    paths: Sequence[str],
) -> None:
    """Write each row as soon as it is there; nothing is kept.

    Args:
        format: one of `FORMATS`.
        rows: the predictions.
        kind: their class, which knows the columns.
        names: of all classes, labels or numbers.
        paths: all photos that will come, for the width of a table.
    """
    for line in FORMATS[format](rows, kind, names, paths):
        sys.stdout.write(line)
        sys.stdout.flush()


def _table(
    rows: Iterable[PhotoRow], kind: type[PhotoRow], names: Sequence[str], paths: Sequence[str]
) -> Iterator[str]:
    photo = Column("photo", min(_WIDEST, max(map(len, ("photo", *paths)))))
    columns = (photo, *kind.columns(names))
    yield _line([column.heading for column in columns], columns)
    for row in rows:
        yield _line([str(row.path), *row.cells()], columns)


def _line(cells: Sequence[str], columns: Sequence[Column]) -> str:
    placed = [
        cell.rjust(column.width) if column.right else cell.ljust(column.width)
        for cell, column in zip(cells, columns, strict=True)
    ]
    return f"{'  '.join(placed).rstrip()}\n"


def _json(rows: Iterable[PhotoRow], *_: object) -> Iterator[str]:
    """One list; a comma before each row but the first."""
    before = "[\n"
    for row in rows:
        yield before + json.dumps(row.to_dict(), ensure_ascii=False)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _jsonl(rows: Iterable[PhotoRow], *_: object) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row.to_dict(), ensure_ascii=False) + "\n"


def _csv(
    rows: Iterable[PhotoRow], kind: type[PhotoRow], names: Sequence[str], _: object
) -> Iterator[str]:
    """A column for each output, in the order of the model's."""
    yield _csv_line(["photo", *kind.csv_columns(names)])
    for row in rows:
        yield _csv_line([row.path, *row.csv_cells(names)])


def _csv_line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


_Writer = Callable[
    [Iterable[PhotoRow], type[PhotoRow], Sequence[str], Sequence[str]], Iterator[str]
]
FORMATS: Final[dict[str, _Writer]] = {"table": _table, "json": _json, "jsonl": _jsonl, "csv": _csv}
