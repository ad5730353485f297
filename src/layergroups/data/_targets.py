"""Labels as people have them, in lists and tables, to labels as `Photos` keep them."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, get_args

from layergroups._formatting import count, first_few
from layergroups.data._samples import Label, Task, names_of
from layergroups.errors import DataError
from layergroups.tasks import OLD_NAMES

_LOG = logging.getLogger("layergroups")


_NUMBER = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*")


_WHOLE = re.compile(r"\s*[+-]?\d+\s*")


_FILES_SHOWN = 3


_MANY_NUMBERS = 20  # classes named by whole numbers, from which they may be numbers to predict


@dataclass(frozen=True)
class Targets:
    """What is to be learned of some photos.

    Attributes:
        task: "multiclass", "multilabel" or "regression".
        vocab: names of the classes, of the labels, or of the numbers.
        labels: of each photo, as `Photos` has them.
    """

    task: Task
    vocab: tuple[str, ...]
    labels: tuple[Label, ...]


def parse_labels(
    labels: Sequence[Any],
    files: Sequence[str],
    *,
    task: Task | None = None,
    vocab: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
) -> Targets:
    """What labels mean, one for each photo.

    Without `task`, strings and whole numbers are classes; fractions are numbers to predict; lists
    of strings, lists of different lengths and lists of zeros and ones are several labels of one
    photo; other lists of numbers are several numbers to predict.

    Args:
        labels: strings, numbers or lists of them, of Python, NumPy or PyTorch.
        files: the photos, for messages.
        task: says what the labels are, where the rule above is wrong.
        vocab: names in the order that is wanted: of classes, labels, or numbers. Else classes and
            labels are sorted, whole numbers by size; numbers are "value", or "value 0", "value 1".
        columns: of a table where the labels stand, which name numbers and labels in columns.

    Raises:
        DataError: labels are missing, do not fit each other, the task or the vocabulary.
    """
    if task is not None and task not in get_args(Task):
        old = OLD_NAMES.get(str(task))
        raise DataError(
            f'task={task!r} is not known; give "multiclass", "multilabel" or "regression".'
            + (f' The task "{task}" is now called task="{old}".' if old else "")
        )
    if isinstance(vocab, str):
        raise DataError(f"vocab={vocab!r}: expected a list of names, such as [{vocab!r}].")
    values = [plain(label) for label in labels]
    names = None if vocab is None else tuple(map(str, vocab))
    if names is not None and len(set(names)) < len(names):
        raise DataError(f"vocab={list(names)} has a name twice; give each once.")
    if task is None:
        task = _task_of(values)
    if task != "multilabel":
        _none_missing(values, files, task)
    return _READERS[task](values, files, names, tuple(columns or ()))


def _classes(
    values: Sequence[Any], files: Sequence[str], vocab: tuple[str, ...] | None, _: tuple[str, ...]
) -> Targets:
    lists = [file for file, v in zip(files, values, strict=True) if isinstance(v, list)]
    if lists:
        raise DataError(
            "task='multiclass' means one class for each photo, but there are lists for "
            f"{_photos(lists)}. For several labels of a photo: task='multilabel'; for several "
            "numbers: task='regression'."
        )
    names = [_name(value) for value in values]
    known = vocab or _sorted(names)
    _all_known(names, files, known)
    if len(known) < 2:
        raise DataError(
            f"All photos have the class {names_of(known)}. A classifier needs at least two classes."
        )
    if vocab is None and len(known) > _MANY_NUMBERS and all(map(_WHOLE.fullmatch, known)):
        _LOG.warning(
            "%d different whole numbers are taken as classes; if they are numbers to predict, give "
            "task='regression'.",
            len(known),
        )
    place = {name: i for i, name in enumerate(known)}
    return Targets("multiclass", known, tuple(place[name] for name in names))


def _several(
    values: Sequence[Any],
    files: Sequence[str],
    vocab: tuple[str, ...] | None,
    columns: tuple[str, ...],
) -> Targets:
    rows = [_as_list(value) for value in values]
    width = len(rows[0]) if rows else 0
    if _zeros_and_ones(rows) and (vocab is None or len(vocab) == width):
        numbered = tuple(map(str, range(width)))
        known = vocab or (columns if len(columns) == width else numbered)
        places = [tuple(i for i, on in enumerate(row) if float(on)) for row in rows]
    else:
        named = [[_name(value) for value in row] for row in rows]
        flat = [name for row in named for name in row]
        known = vocab or _sorted(flat)
        _all_known(flat, [file for file, row in zip(files, named, strict=True) for _ in row], known)
        at = {name: i for i, name in enumerate(known)}
        places = [tuple(sorted({at[name] for name in row})) for row in named]
    if vocab is None and not any(places):
        raise DataError("No photo has any label, so there is nothing to learn.")
    _say_none(sum(not row for row in places), len(places))
    return Targets("multilabel", known, tuple(places))


def _numbers(
    values: Sequence[Any],
    files: Sequence[str],
    vocab: tuple[str, ...] | None,
    columns: tuple[str, ...],
) -> Targets:
    rows = [_as_list(value) for value in values]
    odd = [
        f for f, row in zip(files, rows, strict=True) if not all(map(_is_finite, row)) or not row
    ]
    if odd:
        first = values[files.index(odd[0])]
        raise DataError(
            f"task='regression' needs a number, or a list of numbers, for each photo, but "
            f"there is none for {_photos(odd)}; the first has {first!r}."
        )
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1:
        raise DataError(
            f"The photos have different numbers of numbers to predict ({names_of(widths)}); "
            "expected as many for each. For several labels of a photo: task='multilabel'."
        )
    (width,) = widths
    default = ("value",) if width == 1 else tuple(f"value {i}" for i in range(width))
    known = vocab or (columns if len(columns) == width else default)
    if len(known) != width:
        raise DataError(
            f"vocab has {len(known)} names, but each photo has {width} numbers to predict; give a "
            "name for each, or leave vocab= out."
        )
    return Targets("regression", known, tuple(tuple(map(float, row)) for row in rows))


_READERS = {"multiclass": _classes, "multilabel": _several, "regression": _numbers}


def _task_of(values: Sequence[Any]) -> Task:
    lists = [value for value in values if isinstance(value, list)]
    if lists:
        flat = [item for row in lists for item in row]
        numeric = bool(flat) and all(isinstance(item, int | float) for item in flat)
        ragged = len({len(row) for row in lists}) > 1
        if not numeric or (ragged and all(isinstance(item, int) for item in flat)):
            return "multilabel"
        return "multilabel" if _zeros_and_ones(lists) and len(lists[0]) > 1 else "regression"
    known = [value for value in values if not missing(value)]
    numbers = [value for value in known if _is_finite(value) and not isinstance(value, bool)]
    fractions = any(isinstance(v, float) or not _WHOLE.fullmatch(str(v)) for v in numbers)
    return "regression" if fractions and len(numbers) == len(known) else "multiclass"


def missing(value: Any) -> bool:
    """Whether a cell of a table is empty, in any of the ways of Python, NumPy and pandas."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return (isinstance(value, float) and math.isnan(value)) or (
        isinstance(value, str) and not value.strip()
    )


def _none_missing(values: Sequence[Any], files: Sequence[str], task: Task) -> None:
    empty = [file for file, value in zip(files, values, strict=True) if missing(value)]
    if empty:
        what = "class" if task == "multiclass" else "number"
        raise DataError(
            f"There is no {what} for {_photos(empty)}. Fill the gaps, or leave these rows out; "
            "where a photo may have no label at all, give task='multilabel'."
        )


def _all_known(names: Sequence[str], files: Sequence[str], vocab: tuple[str, ...]) -> None:
    known = set(vocab)
    unknown = {name: file for name, file in zip(names, files, strict=True) if name not in known}
    if unknown:
        name, file = next(iter(unknown.items()))
        raise DataError(
            f"The vocabulary lacks {names_of(sorted(unknown))} ({name!r} is the label of {file}). "
            f"It has {names_of(vocab)}."
        )


def _say_none(empty: int, total: int) -> None:
    if empty:
        _LOG.info("%d of %d photos have none of the labels.", empty, total)


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


def _as_list(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if missing(value) else [value]


def _zeros_and_ones(rows: Sequence[list[Any]]) -> bool:
    """Whether the rows say of each label whether it holds: all 0 or 1, all of one length."""
    return (
        bool(rows)
        and len({len(row) for row in rows}) == 1
        and all(_is_finite(item) and float(item) in (0.0, 1.0) for row in rows for item in row)
    )


def _is_finite(value: Any) -> bool:
    if isinstance(value, str):
        return _NUMBER.fullmatch(value) is not None and math.isfinite(float(value))
    return isinstance(value, int | float) and math.isfinite(value)


def _name(value: Any) -> str:
    """The name of a class; 3.0, which pandas makes of a 3, is "3"."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip() if isinstance(value, str) else str(value)


def _sorted(names: Sequence[str]) -> tuple[str, ...]:
    different = set(names)
    if all(map(_WHOLE.fullmatch, different)):
        return tuple(sorted(different, key=lambda name: (int(name), name)))
    return tuple(sorted(different))


def _photos(files: Sequence[str]) -> str:
    return f"{count(len(files), 'photo')} ({first_few(map(repr, files), _FILES_SHOWN)})"
