"""Texts and their labels from tables, lists and datasets: read, checked and divided."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypedDict

from layergroups._formatting import count
from layergroups._suggestions import unknown_option
from layergroups.data._batches import Balance
from layergroups.data._samples import Samples, Split, check_valid_pct, divided, names_of
from layergroups.data.image import OnError, check_on_error
from layergroups.data.sources._datasets import (
    LABEL_KEYS,
    check_dataset,
    class_names,
    name_at,
)
from layergroups.data.sources._lists import marked
from layergroups.data.sources._settings import check_batch_size
from layergroups.data.sources._table import Column, Table
from layergroups.data.text import DEFAULT_MODEL, MAX_TOKENS, TextTransform
from layergroups.errors import DataError
from layergroups.tasks import Task, missing, parse_labels, plain, without_label

_LOG = logging.getLogger("layergroups")
_TEXT_KEYS: Final = ("text", "sentence", "review", "content", "message")


class TextOptions(TypedDict, total=False):
    """The names of the shared arguments; `TextDataLoaders.from_table` explains them."""

    model: str | os.PathLike[str]
    max_length: int | None
    long: str
    valid_pct: float
    seed: int
    batch_size: int
    max_tokens: int
    balance: Balance
    on_error: OnError


class TextSettings:
    """The shared arguments of the constructor `way`, with their defaults, checked."""

    def __init__(self, options: TextOptions, way: Any, columns: int = 1) -> None:
        for name in options:
            if name not in TextOptions.__annotations__:
                raise unknown_option(way, name, TextOptions.__annotations__)
        self.valid_pct = check_valid_pct(options.get("valid_pct", 0.2))
        self.on_error = check_on_error(options.get("on_error", "raise"))
        seed = options.get("seed", 42)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise DataError(f"seed={seed!r}: expected a whole number, such as 42.")
        self.seed = seed
        self.fields: dict[str, Any] = {
            "batch_size": check_batch_size(options.get("batch_size", 32)),
            "seed": seed,
            "balance": options.get("balance", False),
        }
        self.transform = TextTransform.of(
            options.get("model", DEFAULT_MODEL),
            options.get("max_length"),
            options.get("long", "truncate"),
            options.get("max_tokens", MAX_TOKENS),
            columns,
        )

    def split(
        self,
        texts: Sequence[Any],
        labels: Sequence[Any],
        marks: Sequence[bool] | None,
        **meaning: Any,
    ) -> Split:
        """Check the texts, parse the labels and divide both."""
        for name, values in (("labels", labels), ("is_valid", marks)):
            if values is not None and len(values) != len(texts):
                raise DataError(f"{len(texts)} texts, but {len(values)} {name}; give one for each.")
        sound = sound_rows(texts, labels, meaning.get("task"), self.on_error)
        names = [f"row {i}" for i in sound]
        targets = parse_labels([labels[i] for i in sound], names, **meaning)
        chosen = tuple(texts[i] for i in sound)
        samples = Samples(chosen, targets.labels, targets.task, len(targets.vocab))
        if marks is not None:
            return marked(samples, targets.vocab, [marks[i] for i in sound], ())
        return divided(samples, targets.vocab, self.valid_pct, self.seed, source="The table")


def sound_rows(
    texts: Sequence[Any],
    labels: Sequence[Any],
    task: Task | str | None,
    on_error: OnError,
    rows: Sequence[int] = (),
) -> list[int]:
    """Positions of the cells that hold a text and have a label.

    With `on_error="raise"` those without a label are kept: the parsing of labels names them.

    Args:
        texts: the cells.
        labels: the label of each, or what is in its place.
        task: of the labels, if it is known.
        on_error: "raise" or "skip", which logs how many rows are left out.
        rows: of the table, for messages; without any, the positions.

    Raises:
        DataError: cells hold no text, or none is left.
    """
    if not texts:
        raise DataError("There are no texts: give at least one.")
    unlabelled = without_label(labels, task) if on_error == "skip" else []
    empty = [i for i, text in enumerate(texts) if missing(text)]
    others = [i for i, t in enumerate(texts) if not missing(t) and not isinstance(t, str)]
    found = "; ".join(
        f"{count(len(bad), 'cell')} {what} (rows {names_of([rows[i] if rows else i for i in bad])},"
        " from 0)"
        for what, bad in (
            ("without text", empty),
            ("with other values", others),
            ("without a label", unlabelled),
        )
        if bad
    )
    if found and on_error == "raise":
        raise DataError(
            f"The texts have {found}. Fill them in, write numbers as text, or leave these "
            'rows out: on_error="skip".'
        )
    if found:
        _LOG.warning("Left out: %s.", found)
    bad = {*empty, *others, *unlabelled}
    sound = [i for i in range(len(texts)) if i not in bad]
    if not sound:
        raise DataError("No row has a text and a label, so nothing is left.")
    return sound


def texts_of(table: Table, keys: Sequence[Column], transform: TextTransform) -> list[Any]:
    """The text of each row."""
    if not keys:
        raise DataError("text=[] names no column; give one, or several.")
    columns = [table.column(key, "text")[1] for key in keys]
    if len(columns) == 1:
        return list(columns[0])
    return [joined_cells(cells, transform) for cells in zip(*columns, strict=True)]


def joined_cells(cells: Sequence[Any], transform: TextTransform) -> Any:
    """The cells of several columns as one text, without empty ones; a cell of another type alone.

    Raises:
        DataError: the texts of the model have another number of columns.
    """
    if transform.columns not in (0, len(cells)):
        raise DataError(
            f"{list(cells)!r:.80} has {len(cells)} parts, but each text of this model is made of "
            f"{count(transform.columns, 'column')}. "
            + (
                "For many texts: learn.iter_preds(texts)."
                if transform.columns == 1
                else 'Give them all, "" for an empty one.'
            )
        )
    known = [cell for cell in cells if not missing(cell)]
    odd = next((cell for cell in known if not isinstance(cell, str)), None)
    return transform.separator.join(known) if odd is None else odd


def labelled_texts(
    dataset: Any, text: str | int | None, label: str | int | None, part: str
) -> tuple[list[Any], list[Any], list[str] | None]:
    """Texts and labels of a dataset, and the names of the classes that it knows."""
    if not isinstance(dataset, list | tuple):
        lists = "texts and labels: TextDataLoaders.from_lists(texts, labels)"
        check_dataset(dataset, part, lists)
    features = getattr(dataset, "features", None) or {}
    key = next((k for k in LABEL_KEYS if k in features), None) if label is None else label
    names, texts, labels = class_names(dataset, key), [], []
    for found, its_label in _items_of(dataset, text, label):
        texts.append(found)
        value = plain(its_label)
        labels.append(name_at(value, names) if names else value)
    return texts, labels, list(names) if names else None


def _items_of(dataset: Any, text: Any, label: Any) -> Iterator[tuple[Any, Any]]:
    for i in range(len(dataset)):
        item = dataset[i]
        if isinstance(item, dict):
            keys = [
                next((name for name in names if name in item), None) if key is None else key
                for key, names in zip((text, label), (_TEXT_KEYS, LABEL_KEYS), strict=True)
            ]
        else:
            keys = [0 if text is None else text, 1 if label is None else label]
        try:
            yield item[keys[0]], item[keys[1]]
        except (KeyError, IndexError, TypeError) as cause:
            has = ", ".join(map(repr, item)) if isinstance(item, dict) else type(item).__name__
            raise DataError(
                f"Item {i} of the dataset has no text or no label: it has {has}. Name them: "
                'text="sentence", label="class".'
            ) from cause
