"""Predictions, classes and layer groups as tables; predictions also as CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from layergroups.groups import HEADINGS, group_cells
from layergroups.tasks import AnyPrediction, Column, ConfusionMatrix, Prediction

if TYPE_CHECKING:
    from layergroups.groups import LayerGroups


Row = tuple[Path, AnyPrediction]
_WIDEST_STREAM = 120  # columns of the path; longer paths shift their row to the right


def write_rows(
    format: str,
    rows: Iterable[Row],
    kind: type[AnyPrediction],
    names: Sequence[str],
    paths: Sequence[str],
) -> None:
    """Write each row to stdout as soon as it is available.

    Args:
        format: one of `FORMATS`.
        rows: the predictions.
        kind: their class, which defines the columns.
        names: of all classes, labels or targets.
        paths: of all images, for the width of a table.
    """
    for line in FORMATS[format](rows, kind, names, paths):
        sys.stdout.write(line)
        sys.stdout.flush()


def _stream_table(
    rows: Iterable[Row], kind: type[AnyPrediction], names: Sequence[str], paths: Sequence[str]
) -> Iterator[str]:
    image = Column("image", min(_WIDEST_STREAM, max(map(len, ("image", *paths)))))
    columns = (image, *kind.columns(names))
    yield _line([column.heading for column in columns], columns)
    for path, found in rows:
        yield _line([str(path), *found.cells()], columns)


def _line(cells: Sequence[str], columns: Sequence[Column]) -> str:
    placed = [
        cell.rjust(column.width) if column.right else cell.ljust(column.width)
        for cell, column in zip(cells, columns, strict=True)
    ]
    return f"{'  '.join(placed).rstrip()}\n"


def _json(rows: Iterable[Row], *_: object) -> Iterator[str]:
    before = "[\n"
    for row in rows:
        yield before + _as_json(row)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"


def _jsonl(rows: Iterable[Row], *_: object) -> Iterator[str]:
    for row in rows:
        yield _as_json(row) + "\n"


def _as_json(row: Row) -> str:
    path, found = row
    return json.dumps({"path": str(path), **found.to_dict()}, ensure_ascii=False)


def _csv(
    rows: Iterable[Row], kind: type[AnyPrediction], names: Sequence[str], _: object
) -> Iterator[str]:
    yield _csv_line(["image", *kind.csv_columns(names)])
    for path, found in rows:
        yield _csv_line([path, *found.csv_cells()])


def _csv_line(cells: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(cells)
    return line.getvalue()


FORMATS: Final[
    dict[
        str,
        Callable[[Iterable[Row], type[AnyPrediction], Sequence[str], Sequence[str]], Iterator[str]],
    ]
] = {"table": _stream_table, "json": _json, "jsonl": _jsonl, "csv": _csv}


def predictions_table(rows: Sequence[tuple[Path, Prediction]], actual: Sequence[str] = ()) -> Table:
    """A row for each image, with the actual class if `actual` is given."""
    table = _table("image")
    if actual:
        table.add_column("actual")
    table.add_column("predicted")
    table.add_column("confidence", justify="right")
    table.add_column("runner-up", style="dim")
    for i, (path, found) in enumerate(rows):
        known = [Text(actual[i])] if actual else []
        verdict = "bold" if not actual else f"bold {'green' if found.label == actual[i] else 'red'}"
        label, probability, runner_up = found.cells()
        table.add_row(
            Text(str(path)), *known, Text(label, style=verdict), probability, Text(runner_up)
        )
    return table


def per_class_table(confusion: ConfusionMatrix) -> Table:
    """A row for each class: items, correct predictions, and the most frequent errors."""
    table = _table("class")
    for heading in ("items", "found", "recall", "precision"):
        table.add_column(heading, justify="right")
    table.add_column("most often predicted as", style="dim")
    wrong = confusion.most_confused(len(confusion.classes) ** 2)
    for row in confusion.class_report().classes:
        others = [f"{c.predicted} ({c.count})" for c in wrong if c.actual == row.name]
        figures = (str(row.support), str(row.right), _figure(row.recall), _figure(row.precision))
        table.add_row(Text(row.name), *figures, Text(", ".join(others[:2])))
    return table


def groups_report(groups: LayerGroups) -> Group:
    """A row for each layer group, then why each begins where it does; fits 80 columns."""
    table = _table("group")
    table.add_column("blocks", overflow="fold")
    for heading in HEADINGS[3:]:
        table.add_column(heading, justify="right", no_wrap=True)
    why = Table(box=None, pad_edge=False, show_header=False)
    for row in groups.rows():
        _, name, blocks, *figures, _, reason = group_cells(row)
        table.add_row(Text(name, style="bold"), Text(blocks), *figures, f"{row.rate:.2g}")
        why.add_row(Text(f"{name} begins here:"), Text(reason))
    return Group(table, why)


def _table(first: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    return table


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
