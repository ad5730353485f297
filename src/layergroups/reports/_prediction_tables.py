"""Predictions and classes as tables; predictions also as CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from rich.table import Table
from rich.text import Text

from layergroups._formatting import fixed, table
from layergroups.tasks import AnyPrediction, Column, ConfusionMatrix

Row = tuple[Path | str, AnyPrediction]
_WIDEST = 120  # columns of the path; longer paths shift their row to the right


def write_rows(
    format: str,
    rows: Iterable[Row],
    kind: type[AnyPrediction],
    names: Sequence[str],
    paths: Sequence[str],
    *,
    item: str = "image",
) -> None:
    """Write each row to stdout as soon as it is available; `paths` give a table its width."""
    if format == "table":
        columns = (Column(item, min(_WIDEST, max(map(len, (item, *paths))))), *kind.columns(names))
        lines = _table_lines(rows, columns)
    elif format == "csv":
        lines = _csv_lines(rows, (item, *kind.csv_columns(names)))
    else:
        lines = _json_lines(rows, "path" if item == "image" else item, format == "json")
    for line in lines:
        sys.stdout.write(line)
        sys.stdout.flush()


def _table_lines(rows: Iterable[Row], columns: Sequence[Column]) -> Iterator[str]:
    headings = [column.heading for column in columns]
    for cells in chain([headings], ([_in_a_cell(item), *f.cells()] for item, f in rows)):
        line = "  ".join(
            cell.rjust(column.width) if column.right else cell.ljust(column.width)
            for cell, column in zip(cells, columns, strict=True)
        )
        yield f"{line.rstrip()}\n"


def _in_a_cell(item: Path | str) -> str:
    """A path as it is; a text in one line, and not longer than a path may be."""
    if isinstance(item, Path):
        return str(item)
    line = " ".join(item.split())
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST - 1]}…"


def _json_lines(rows: Iterable[Row], key: str, in_a_list: bool) -> Iterator[str]:
    count = 0
    for count, (path, found) in enumerate(rows, start=1):
        line = json.dumps({key: str(path), **found.to_dict()}, ensure_ascii=False)
        yield f"{'[' if count == 1 else ','}\n{line}" if in_a_list else f"{line}\n"
    if in_a_list:
        yield "\n]\n" if count else "[]\n"


def _csv_lines(rows: Iterable[Row], headings: Sequence[str]) -> Iterator[str]:
    for cells in chain([headings], ((path, *f.csv_cells()) for path, f in rows)):
        line = io.StringIO()
        csv.writer(line, lineterminator="\n").writerow(cells)
        yield line.getvalue()


def per_class_table(confusion: ConfusionMatrix) -> Table:
    """A row for each class: items, correct predictions, and the most frequent errors."""
    wrong, rows = confusion.most_confused(len(confusion.classes) ** 2), []
    for row in confusion.class_report().classes:
        others = [f"{c.predicted} ({c.count})" for c in wrong if c.actual == row.name]
        figures = (str(row.support), str(row.right), fixed(row.recall), fixed(row.precision))
        rows.append((row.name, *figures, Text(", ".join(others[:2]), "dim")))
    last = "most often predicted as"
    return table(("class", "items", "correct", "recall", "precision", last), rows, left=(last,))
