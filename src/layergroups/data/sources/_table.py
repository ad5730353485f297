"""Tables of images: CSV files and data frames, read into files, labels and marks."""

from __future__ import annotations

import ast
import csv
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, Literal

from layergroups._paths import path_of
from layergroups._suggestions import nearest
from layergroups.data._samples import names_of
from layergroups.errors import DataError
from layergroups.tasks import Task, checked_task, missing

Column = str | int
_SEPARATORS = ("\t", ",", ";", "|")
# The cells that pandas reads as empty.
_EMPTY = frozenset(
    {
        *("", "NaN", "nan", "-NaN", "-nan", "NA", "<NA>", "N/A", "n/a", "#N/A", "#NA", "#N/A N/A"),
        *("NULL", "null", "None"),
    }
)
_YES = frozenset({"true", "1", "1.0", "yes", "valid", "validation", "val", "dev", "eval"})
_NO = frozenset({"false", "0", "0.0", "no", "train", "training", ""})


@dataclass(frozen=True)
class Table:
    """Columns of equal length, by name, in their order."""

    columns: tuple[tuple[Any, tuple[Any, ...]], ...]
    source: str  # where it is from, for messages

    def __len__(self) -> int:
        return len(self.columns[0][1]) if self.columns else 0

    def column(self, key: Column, argument: str) -> tuple[str, tuple[Any, ...]]:
        """Name and values of a column, by its name or its position."""
        names, n = [name for name, _ in self.columns], len(self.columns)
        if key in names:
            return str(key), self.columns[names.index(key)][1]
        if isinstance(key, int) and not isinstance(key, bool) and -n <= key < n:
            name, values = self.columns[key]
            return str(name), values
        near = nearest(str(key), map(str, names), "'", "'")
        raise DataError(
            f"{argument}={key!r}: {self.source} has no such column.{near} It has "
            f"{names_of(names)}; give a name, or a position from 0 to {n - 1}."
        )


@dataclass(frozen=True)
class Rows:
    files: list[str]
    labels: list[Any]
    columns: tuple[str, ...]
    valid: list[bool] | None


def read_table(source: Any, *, header: bool = True) -> Table:
    """A CSV or TSV file, a data frame or a dict of columns as a table.

    The separator of a file is the one of tab, comma, semicolon and bar that its first line has most
    of; text is UTF-8. Without `header`, columns have positions only.
    """
    if isinstance(source, str | os.PathLike):
        right = 'ImageDataLoaders.from_table("labels.csv")'
        return _read_file(path_of(source, DataError, right).expanduser(), header)
    if isinstance(source, Mapping):
        found = [(name, _values(column, name)) for name, column in source.items()]
    elif hasattr(source, "columns") and hasattr(source, "__getitem__"):
        found = [(name, _values(source[name], name)) for name in source.columns]
    else:
        raise DataError(
            f"{type(source).__name__} is not a table; give the path of a CSV file, a data frame "
            "or a dict of columns. For lists: ImageDataLoaders.from_lists(files, labels)."
        )
    table = Table(tuple(found), f"the {type(source).__name__}")
    if len({len(values) for _, values in found}) > 1:
        raise DataError(f"The columns of {table.source} have different lengths.")
    return _not_empty(table)


def rows_of(
    table: Table,
    folder: Path,
    *,
    fn_col: Column,
    label_col: Column | Sequence[Column],
    label_delim: str | None,
    valid_col: Column | None,
    suff: str,
    task: Task | str | None,
) -> Rows:
    """Files, labels and marks of a table; the arguments are those of `from_table`."""
    files = _files(table, folder, fn_col, suff)
    labels, columns = labels_of(table, label_col, label_delim, task)
    return Rows(files, labels, columns, marks_of(table, valid_col))


def marks_of(table: Table, valid_col: Column | None) -> list[bool] | None:
    """Whether each row is for validation; None if no column says so."""
    if valid_col is None:
        return None
    name, marks = table.column(valid_col, "valid_col")
    return [_mark(value, name, row) for row, value in enumerate(marks)]


def _files(table: Table, folder: Path, fn_col: Column, suff: str) -> list[str]:
    name, values = table.column(fn_col, "fn_col")
    empty = [row for row, value in enumerate(values) if missing(value)]
    if empty:
        raise DataError(
            f"Column {name!r} of {table.source} names no file in {len(empty)} rows "
            f"(counted from 0: {names_of(empty)})."
        )
    files = [str(folder / f"{value}{suff}") for value in values]
    if not any(map(os.path.exists, files)):
        slashes = [file.replace("\\", "/") for file in files]  # a table made on Windows
        if any(map(os.path.exists, slashes)):
            return slashes
        raise DataError(
            f"No file of column {name!r} exists; the first would be {files[0]}. If they lie "
            "elsewhere give folder=... (--images DIR on the command line), if they lack their "
            "ending suff='.jpg' (--suffix), if another column names the files fn_col=... "
            "(--image-col)."
        )
    return files


def labels_of(
    table: Table,
    label_col: Column | Sequence[Column],
    label_delim: str | None,
    task: Task | str | None,
    argument: str = "label_col",
) -> tuple[list[Any], tuple[str, ...]]:
    """The label of each row, and the names of the label columns; see `from_table`."""
    if isinstance(label_col, str | int):
        name, values = table.column(label_col, argument)
        if label_delim is None:
            return _lists_of(values), (name,)
        return [_split(value, label_delim) for value in values], (name,)
    if label_delim is not None:
        raise DataError(
            "label_delim= divides the labels of one column; with several columns leave it out."
        )
    found = [table.column(key, argument) for key in label_col]
    if not found:
        raise DataError(f"{argument}=[] names no column; give one, or several.")
    columns = [
        [_number(value, name, row, table) for row, value in enumerate(values)]
        for name, values in found
    ]
    if task is None or checked_task(task, DataError).has_counts:
        _check_flags(columns, [name for name, _ in found], task, table)
    return [list(row) for row in zip(*columns, strict=True)], tuple(name for name, _ in found)


def _split(value: Any, delimiter: str) -> list[str]:
    if not delimiter:
        raise DataError("label_delim='' divides nothing; give for example ' ' or ';'.")
    if missing(value):
        return []
    return [part.strip() for part in str(value).split(delimiter) if part.strip()]


def _lists_of(values: Sequence[Any]) -> list[Any]:
    """Labels of one column; the text of a list, as pandas writes one, as the list."""
    texts = [value for value in values if not missing(value)]
    if not texts or not all(isinstance(t, str) and _LIST.fullmatch(t) for t in texts):
        return list(values)
    try:
        return [None if missing(value) else ast.literal_eval(value) for value in values]
    except (ValueError, SyntaxError):
        return list(values)


def _number(value: Any, column: str, row: int, table: Table) -> float:
    """Several label columns hold numbers, or say of each label whether it holds."""
    try:
        if not missing(value):
            return float(_TRUTH.get(str(value).strip().lower(), value))
        cause = None
    except (TypeError, ValueError) as error:
        cause = error
    raise DataError(
        f"Row {row} of {table.source} has {value!r} in the label column {column!r}; several "
        "columns must hold 0 and 1 (a column for each label) or numbers to predict, in every row. "
        "For several labels in one column give label_col='labels', label_delim=' '."
    ) from cause


def _check_flags(
    columns: Sequence[list[float]], names: Sequence[str], task: Task | str | None, table: Table
) -> None:
    """Columns of labels hold 0 and 1 only; without `task`, if they have -1, 0 and 1 only."""
    if task is None and not {value for column in columns for value in column} <= {-1.0, 0.0, 1.0}:
        return
    for name, column in zip(names, columns, strict=True):
        odd = [row for row, value in enumerate(column) if value not in (0.0, 1.0)]
        if odd:
            raise DataError(
                f"Column {name!r} of {table.source} has {column[odd[0]]:g} in rows {names_of(odd)} "
                "(counted from 0): a label holds (1) or does not (0). Replace it, leave these rows "
                "out, or predict the columns as numbers: task='regression'."
            )


_LIST = re.compile(r"\s*\[.*\]\s*", re.DOTALL)
_TRUTH = {"true": 1, "false": 0}


def _mark(value: Any, column: str, row: int) -> bool:
    word = "" if missing(value) else str(value).strip().lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise DataError(
        f"Row {row} has {value!r} in column {column!r}, which should say whether an item is for "
        "validation; expected True or False, 1 or 0, 'valid' or 'train'."
    )


_OTHER_FILES = {
    ".json": "pandas.read_json(path)",
    ".jsonl": "pandas.read_json(path, lines=True)",
    ".ndjson": "pandas.read_json(path, lines=True)",
    ".parquet": "pandas.read_parquet(path)",
    ".feather": "pandas.read_feather(path)",
    ".xlsx": "pandas.read_excel(path)",
    ".xls": "pandas.read_excel(path)",
}


def _read_file(path: Path, header: bool) -> Table:
    other = _OTHER_FILES.get(path.suffix.lower())
    if other is not None:
        raise DataError(
            f"The table {path} is a {path.suffix} file. Expected a CSV or TSV file, or a frame: "
            f"from_table({other})."
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as opened:
            first = opened.readline()
            separator = max(_SEPARATORS, key=first.count)
            opened.seek(0)
            lines = _lines(opened.read(), separator)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"The table {path} cannot be read: {error}. Expected a CSV or TSV file in UTF-8. Give "
            'one in another encoding as a frame: from_table(pandas.read_csv(path, encoding="…")).'
        ) from error
    if not lines:
        raise DataError(f"The table {path} is empty.")
    width = len(lines[0][1])
    odd = [number for number, line in lines if len(line) != width]
    if odd:
        raise DataError(
            f"{path} has {width} columns in its first line, but not in {len(odd)} others "
            f"(lines {names_of(odd)})."
        )
    names: Iterable[Any] = lines.pop(0)[1] if header else range(width)
    rows = [[None if cell.strip() in _EMPTY else cell for cell in line] for _, line in lines]
    values = list(zip(*rows, strict=True)) or [()] * width
    return _not_empty(Table(tuple(zip(names, values, strict=True)), str(path)))


def _lines(text: str, separator: str) -> list[tuple[int, list[str]]]:
    """The rows of a file, each with the number of its last line."""

    def read(quoting: Literal[0, 3], strict: bool = False) -> list[tuple[int, list[str]]]:
        opened = StringIO(text, newline="")
        reader = csv.reader(opened, delimiter=separator, quoting=quoting, strict=strict)
        return [(reader.line_num, line) for line in reader if line]

    with suppress(csv.Error):
        return read(csv.QUOTE_MINIMAL, strict=True)
    # A quotation mark that only opens, as in many tab-separated files, would join lines.
    plain = read(csv.QUOTE_NONE)
    return plain if len({len(line) for _, line in plain}) == 1 else read(csv.QUOTE_MINIMAL)


def _values(column: Any, name: Any) -> tuple[Any, ...]:
    for method in ("tolist", "to_list"):
        if hasattr(column, method):
            return tuple(getattr(column, method)())
    if isinstance(column, str | bytes) or not isinstance(column, Iterable):
        raise DataError(
            f"Column {name!r} is {column!r:.60}: expected a list, with an entry for each image. "
            'Right would be from_table({"file": ["a.jpg", "b.jpg"], "label": ["cat", "dog"]}).'
        )
    return tuple(column)


def _not_empty(table: Table) -> Table:
    if not len(table):
        raise DataError(f"{table.source} has no rows.")
    return table
