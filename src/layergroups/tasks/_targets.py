"""Parse labels of lists and tables into the labels of a task."""

from __future__ import annotations

import logging
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from layergroups._formatting import first_few
from layergroups.errors import DataError
from layergroups.tasks._task import TASKS, Label, Task, checked_task

_LOG = logging.getLogger("layergroups")
_NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")
_WITH_COMMA: Final = re.compile(r"[+-]?\d+,\d+")
WHOLE: Final = re.compile(r"\s*[+-]?\d+\s*")
_NAMED: Final = 10  # names that a message lists
_FILES_NAMED: Final = 3
_CODES: Final = 20  # fewer different whole numbers than this are perhaps classes


@dataclass(frozen=True)
class Targets:
    """Labels of items, their task and the names of its outputs."""

    task: Task
    vocab: tuple[str, ...]
    labels: tuple[Label, ...]


def parse_labels(
    labels: Sequence[Any],
    files: Sequence[str],
    *,
    task: Task | str | None = None,
    vocab: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Targets:
    """Parse labels, one for each item.

    Without `task`, strings and whole numbers are classes; fractions are numbers to predict; lists
    of strings, lists of different lengths and lists of zeros and ones are several labels of one
    item; other lists of numbers are several numbers to predict.

    Args:
        labels: strings, numbers or lists of them, of Python, NumPy or PyTorch.
        files: the items, for messages.
        task: what the labels are, if the rule above is wrong.
        vocab: names in the order that is wanted: of classes, labels, or numbers. Else classes and
            labels are sorted, whole numbers by size; numbers are "value", or "value 0", "value 1".
        columns: names of the label columns of a table; they name numbers and labels.
    """
    known = None if task is None else checked_task(task, DataError)
    if isinstance(vocab, str):
        raise DataError(f"vocab={vocab!r}: expected a list of names, such as [{vocab!r}].")
    values = [plain(label) for label in labels]
    names = None if vocab is None else tuple(map(class_name, vocab))
    if names is not None and len(set(names)) < len(names):
        raise DataError(f"vocab={list(names)} has a name twice; give each once.")
    if known is None:
        known = _task_of(values)
        _tell_of_whole_numbers(values, known)
        _tell_of_commas(values)
    if known.needs_label:
        _check_none_missing(values, files, known, columns or ())
    return Targets(known, *known.parse_labels(values, files, names, tuple(columns or ())))


def without_label(labels: Sequence[Any], task: Task | str | None = None) -> list[int]:
    """Positions of the items without a label, where the task needs one; as in `parse_labels`."""
    values = [plain(label) for label in labels]
    known = _task_of(values) if task is None else checked_task(task, DataError)
    return [i for i, value in enumerate(values) if missing(value)] if known.needs_label else []


def _task_of(values: Sequence[Any]) -> Task:
    claims = [each for each in TASKS.values() if each.recognises(values)]
    return claims[0] if claims else next(iter(TASKS.values()))


def missing(value: Any) -> bool:
    """Whether a cell of a table is empty, as in Python, NumPy or pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return (isinstance(value, float) and math.isnan(value)) or (
        isinstance(value, str) and not value.strip()
    )


def plain(value: Any) -> Any:
    """A label of NumPy, PyTorch or a tuple or set as plain Python: a string, number or list."""
    if isinstance(value, str | bool | int) or value is None:
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value), key=str)
    if isinstance(value, tuple | list):
        return [plain(item) for item in value]
    return value


def as_list(value: Any) -> list[Any]:
    """A label as a list of labels, empty if it is missing."""
    if isinstance(value, list):
        return value
    return [] if missing(value) else [value]


def zeros_and_ones(rows: Sequence[list[Any]]) -> bool:
    return (
        bool(rows)
        and len({len(row) for row in rows}) == 1
        and all(is_finite(item) and float(item) in (0.0, 1.0) for row in rows for item in row)
    )


def is_finite(value: Any) -> bool:
    """Whether a value is a number, or a string that is one."""
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None and math.isfinite(float(value))
    return isinstance(value, int | float) and math.isfinite(value)


def class_name(value: Any) -> str:
    """The name of a class; 3.0, which pandas makes of a 3, is "3"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return readable(value.strip()) if isinstance(value, str) else str(value)


def readable(name: str) -> str:
    """A name that can be printed and stored.

    macOS and Linux write accents differently; the same name is the same class. In a file name that
    is not UTF-8, the bytes that do not fit are read as Latin-1.
    """
    if not name.isascii():
        name = "".join(chr(ord(c) - 0xDC00) if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)
    return unicodedata.normalize("NFC", name)


def sorted_names(names: Sequence[str]) -> tuple[str, ...]:
    """Each name once; whole numbers by size."""
    different = set(names)
    if all(map(WHOLE.fullmatch, different)):
        return tuple(sorted(different, key=lambda name: (int(name), name)))
    return tuple(sorted(different))


def quoted(names: Sequence[object]) -> str:
    return first_few(map(repr, names), _NAMED)


def listed(files: Sequence[str]) -> str:
    """Files, for a message: how many, and the first of them."""
    more = ", ..." if len(files) > _FILES_NAMED else ""
    shown = ", ".join(map(repr, files[:_FILES_NAMED]))
    return f"{len(files)} item{'s' if len(files) > 1 else ''} ({shown}{more})"


def check_known(names: Sequence[str], files: Sequence[str], vocab: tuple[str, ...]) -> None:
    """Check that every name is in the vocabulary."""
    known = set(vocab)
    unknown = {name: file for name, file in zip(names, files, strict=True) if name not in known}
    if unknown:
        name, file = next(iter(unknown.items()))
        raise DataError(
            f"The vocabulary lacks {quoted(sorted(unknown))} ({name!r} is the label of {file}). "
            f"It has {quoted(vocab)}."
        )


def _tell_of_whole_numbers(values: Sequence[Any], task: Task) -> None:
    """Classes become 0.0 and 1.0 in a pandas column that once had an empty cell."""
    if task.has_counts or any(isinstance(v, list) or missing(v) for v in values):
        return
    different = set(map(float, values))
    if len(different) < _CODES and all(value.is_integer() for value in different):
        _LOG.warning(
            "The labels %s are predicted as numbers, because they are written with fractions; if "
            "they are classes, give task='multiclass'.", quoted(sorted(different)),
        )  # fmt: skip


def _tell_of_commas(values: Sequence[Any]) -> None:
    """Numbers with a decimal comma are text, so they become classes."""
    known = [value for value in values if not missing(value)]
    if known and all(isinstance(v, str) and _WITH_COMMA.fullmatch(v.strip()) for v in known):
        _LOG.warning(
            "The labels %s are classes. If they are numbers, write them with a point: in pandas, "
            'read_csv(..., decimal=","). If they are several labels: label_delim=",".',
            quoted(sorted(set(known))),
        )  # fmt: skip


def _check_none_missing(
    values: Sequence[Any], files: Sequence[str], task: Task, columns: Sequence[str]
) -> None:
    rows = [row for row, value in enumerate(values) if missing(value)]
    if rows:
        where = f" in column {quoted(columns)}, rows {quoted(rows)} (from 0)" if columns else ""
        raise DataError(
            f"There is no {task.one} for {listed([files[row] for row in rows])}{where}. Fill them "
            "in (NaN, NA, null and None are empty cells of a CSV file), or leave these rows out: "
            "on_error='skip'."
            + (" If items may have no label, give task='multilabel'." if task.has_counts else "")
        )
