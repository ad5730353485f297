"""`TextDataLoaders`: texts as training and validation batches, and texts to predict."""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self, Unpack

import torch

from layergroups._fingerprint import stable_text
from layergroups._formatting import count
from layergroups._suggestions import SuggestsNames
from layergroups.data._batches import Balance, item_weights
from layergroups.data._samples import Samples, Split, names_of
from layergroups.data._source import DataFacts, DataSource
from layergroups.data._text_batches import TextEvalLoader, TextSet, TextTrainLoader
from layergroups.data.image import OnError, check_on_error
from layergroups.data.sources import (
    Column,
    TextOptions,
    TextSettings,
    check_batch_size,
    checked_marks,
    joined_cells,
    labelled_texts,
    labels_of,
    marks_of,
    read_table,
    sound_rows,
    texts_of,
)
from layergroups.data.text import TextTransform
from layergroups.errors import DataError, TrainingError
from layergroups.tasks import Task, missing, parse_labels

_LOG = logging.getLogger("layergroups")


class _Texts(DataSource):
    """What data have that hold a tokenizer: `TextDataLoaders` and `InferenceTexts`."""

    transform: TextTransform

    @property
    def augmented(self) -> bool:
        return False

    def example(self) -> dict[str, torch.Tensor]:
        return self.transform.example()

    def load(self, item: Any) -> Any:
        return loaded(self.transform, item)

    def transform_config(self) -> dict[str, Any]:
        return self.transform.to_config()

    def inputs_are(self) -> str:
        return self.transform.vocabulary

    def token_spans(self, item: Any) -> list[tuple[int, int]]:
        return self.transform.spans(item)

    def save_transform(self, folder: Path) -> None:
        self.transform.save(folder)

    @property
    def max_tokens(self) -> int:
        """Tokens in a batch at most, padding included, and of a text read in windows."""
        return self.transform.max_tokens


@dataclass(frozen=True, eq=False, repr=False)
class TextDataLoaders(SuggestsNames, _Texts):
    """Texts and their labels as batches for training and for validation.

    Make it with `from_table`, `from_lists` or `from_dataset`. Batches are pairs (inputs, targets):
    inputs is a dict of int64 (N, L), such as input_ids and attention_mask, padded to the longest
    text of the batch; targets are as in `ImageDataLoaders`.

    Attributes:
        train_texts: texts and labels for training, `files` being the texts.
        valid_texts: texts and labels for validation.
        vocab: names of the classes, sorted; of the labels; or of the numbers to predict.
        transform: the tokenizer and its limits.
        batch_size: texts in a batch, at most.
    """

    train_texts: Samples
    valid_texts: Samples
    vocab: tuple[str, ...]
    transform: TextTransform
    batch_size: int = 32
    seed: int = 42
    balance: Balance = False
    name: str = ""  # of the table
    input: None = field(default=None, init=False)
    size: None = field(default=None, init=False)

    def __post_init__(self) -> None:
        item_weights(self.balance, self.train_texts, self.vocab)  # checks the argument

    @classmethod
    def from_table(
        cls,
        table: Any,
        *,
        text: Column | Sequence[Column] = "text",
        label: Column | Sequence[Column] = "label",
        label_delim: str | None = None,
        valid_col: Column | None = None,
        header: bool = True,
        task: Task | str | None = None,
        vocab: Sequence[str] | None = None,
        **options: Unpack[TextOptions],
    ) -> Self:
        """A table with a row for each text.

        Args:
            table: the path of a CSV or TSV file, a frame of pandas or polars, or a dict of columns.
            text: the column of texts, or several, which are joined by the model's separator.
            label: the column of labels, or a list of columns; see `ImageDataLoaders.from_table`.
            label_delim: separates several labels in one column, such as " ".
            valid_col: a column that marks which rows are for validation (True or False, "valid" or
                "train"); else `valid_pct` of them are, chosen by the seed.
            header: whether the first line of a CSV file names the columns.
            task: "multiclass", "multilabel" or "regression", if the labels do not show it.
            vocab: names of classes or labels in the order of the outputs.
            **options: the arguments below, which all of these constructors have.

        Options:
            model: whose tokenizer is used, and which `text_learner` trains: a name on the hub, or
                a folder.
            max_length: tokens of a text; None for as many as the model takes, at most 512.
            long: what happens to longer texts: "truncate", or "windows" to read all of them.
            valid_pct: share for validation.
            seed: decides split and order.
            batch_size: texts in a batch, at most.
            max_tokens: tokens in a batch, at most, padding included; long texts come in smaller
                batches. Of a text read in windows, what is beyond is left out.
            balance: True for all classes equally often in training, a dict by class name, or a
                list with a weight for each training text.
            on_error: "raise" to stop at cells that hold no text, or no label, "skip" to leave
                these rows out.

        Raises:
            DataError: table, texts, labels or arguments are not as expected.
        """
        found = read_table(table, header=header)
        columns = [text] if isinstance(text, str | int) else list(text)
        settings = TextSettings(options, cls.from_table, len(columns))
        labels, named = labels_of(found, label, label_delim, task, "label")
        made = settings.split(
            texts_of(found, columns, settings.transform),
            labels,
            marks_of(found, valid_col),
            task=task,
            vocab=vocab,
            columns=named,
        )
        is_file = isinstance(table, str | os.PathLike)
        return cls._of(made, settings, Path(table).name if is_file else "")

    @classmethod
    def from_lists(
        cls,
        texts: Iterable[str],
        labels: Iterable[Any],
        *,
        is_valid: Iterable[bool] | None = None,
        task: Task | str | None = None,
        vocab: Sequence[str] | None = None,
        **options: Unpack[TextOptions],
    ) -> Self:
        """Texts and their labels, read as those of `ImageDataLoaders.from_lists`.

        Args:
            texts: the texts.
            labels: the label of each text.
            is_valid: for each, whether it is for validation; else the seed chooses `valid_pct`.
            task: as for `from_table`.
            vocab: as for `from_table`.
            **options: the options of `from_table`.
        """
        if isinstance(texts, str):
            raise DataError(f"texts={texts[:40]!r}: expected a list of texts, not one text.")
        settings = TextSettings(options, cls.from_lists)
        marks = None if is_valid is None else checked_marks(is_valid, "text")
        made = settings.split(list(texts), list(labels), marks, task=task, vocab=vocab)
        return cls._of(made, settings)

    @classmethod
    def from_dataset(
        cls,
        train: Any,
        valid: Any | None = None,
        *,
        text: str | int | None = None,
        label: str | int | None = None,
        task: Task | str | None = None,
        vocab: Sequence[str] | None = None,
        **options: Unpack[TextOptions],
    ) -> Self:
        """Any map-style dataset: of Hugging Face, or your own class; all items are read once.

        Args:
            train: has len(train) and train[i], which is (text, label) or a dict.
            valid: the same, for validation; else `valid_pct` of `train` is.
            text: key or position of the text in an item; None to find it.
            label: key or position of the label; None to find it.
            task: as for `from_table`.
            vocab: as for `from_table`; None for the names that a dataset of Hugging Face knows.
            **options: the options of `from_table`.
        """
        settings = TextSettings(options, cls.from_dataset)
        texts, labels, names = labelled_texts(train, text, label, "train")
        marks = None
        if valid is not None:
            others, their_labels, _ = labelled_texts(valid, text, label, "valid")
            marks = [False] * len(texts) + [True] * len(others)
            texts, labels = texts + others, labels + their_labels
        made = settings.split(texts, labels, marks, task=task, vocab=vocab or names)
        return cls._of(made, settings)

    @classmethod
    def _of(cls, found: Split, settings: TextSettings, name: str = "") -> Self:
        made = cls(
            found.train, found.valid, found.vocab, settings.transform, name=name, **settings.fields
        )
        made._warn_of_truncation()
        made._warn_of_copies()
        return made

    def _warn_of_copies(self) -> None:
        known = set(self.train_texts.files)
        n = sum(text in known for text in self.valid_texts.files)
        if n:
            _LOG.warning(
                "%d of %d validation texts are also training texts, so their scores are too good.",
                n, len(self.valid_texts),
            )  # fmt: skip

    def _warn_of_truncation(self) -> None:
        cut = self.train.items.n_cut + self.valid.items.n_cut
        if cut:
            n = len(self.train_texts) + len(self.valid_texts)
            read, hint = self.transform.max_length, 'long="windows" reads all of it.'
            if self.transform.long == "windows":
                read, hint = self.max_tokens, "A higher max_tokens reads more, in more memory."
            _LOG.warning(
                "%d of %d texts (%.1f%%) have more than %d tokens: what is beyond is left out. "
                "%s",
                cut, n, 100 * cut / n, read, hint,
            )  # fmt: skip

    @cached_property
    def _train_set(self) -> TextSet:
        return TextSet(self.train_texts, self.transform)

    @cached_property
    def train(self) -> TextTrainLoader:
        """Shuffled training batches; its `epoch` is that of the next pass."""
        return self._training()

    def _training(self, batch_size: int = 0, left_out: Collection[int] = ()) -> TextTrainLoader:
        limits = (batch_size or self.batch_size, self.max_tokens)
        return TextTrainLoader(self._train_set, *limits, self.seed, self.sampling_weights, left_out)

    def training(
        self,
        *,
        size: Any = None,
        batch_size: int = 0,
        left_out: Collection[int] = (),
        plain: bool = False,  # texts have no augmentation
    ) -> TextTrainLoader | None:
        return self._training(batch_size, left_out) if size is None else None

    @cached_property
    def valid(self) -> TextEvalLoader:
        """Validation batches, by length; `order` has the positions in `valid_texts`."""
        return self._all(TextSet(self.valid_texts, self.transform))

    @cached_property
    def train_eval(self) -> TextEvalLoader:
        """The training texts, not shuffled."""
        return self._all(self._train_set)

    def _all(self, texts: TextSet) -> TextEvalLoader:
        return TextEvalLoader(texts, self.batch_size, self.max_tokens, by_length=True)

    def views(self, epoch: int | None) -> TextEvalLoader:
        """The training texts by length; they are the same in every epoch."""
        return self.train_eval

    @property
    def task(self) -> Task:
        return self.train_texts.task

    @property
    def sampling_weights(self) -> torch.Tensor | None:
        return item_weights(self.balance, self.train_texts, self.vocab)

    def targets(self) -> torch.Tensor:
        return self.train_texts.targets()

    def test_dl(self, texts: Any, labels: Iterable[Any] | None = None) -> TextEvalLoader:
        """Batches of other texts, with their labels if they are given.

        Args:
            texts: a text, or a list of texts; of several columns each may be a list of its cells,
                of which "" and None are left out, as in training.
            labels: the label of each text, as these data were made of.
        """
        return text_loader(self, texts, labels, self.batch_size, self.max_tokens)

    def test_batches(self, items: Any) -> TextEvalLoader:
        return self.test_dl(items)

    def fingerprint(self) -> str:
        texts = (*self.train_texts.files, *self.valid_texts.files)
        found = zlib.crc32("\0".join(texts).encode(errors="surrogatepass"))
        return stable_text((self.transform.max_length, self.transform.long, self.seed, found))

    def facts(self, *, read_files: bool = True) -> DataFacts:
        lengths = self.train.items.lengths.float()
        cut = self.train.items.n_cut + self.valid.items.n_cut
        found = {
            "texts": f"{int(lengths.median())} tokens in the middle, {int(lengths.max())} at most",
            "tokenizer": f"{Path(self.transform.model).name}, {self.transform.max_length} tokens",
            "too long": f"{cut}, truncated" if cut else "none",
            "batch size": f"{self.batch_size}, {self.max_tokens} tokens at most",
        }
        counts: tuple[tuple[str, int, int], ...] = ()
        if self.task.has_counts:
            parts = (self.train_texts.counts(self.c), self.valid_texts.counts(self.c))
            counts = tuple(zip(self.vocab, *parts, strict=True))
        return DataFacts(
            name=self.name,
            train=len(self.train_texts),
            valid=len(self.valid_texts),
            counts=counts,
            facts=found,
        )

    def __repr__(self) -> str:
        lengths = self.train.items.lengths
        return (
            f"TextDataLoaders: {len(self.train_texts)} training and {len(self.valid_texts)} "
            f"validation texts of {self.task.count(self.c)}\n"
            f"  texts: {int(lengths.median())} tokens in the middle, {int(lengths.max())} at most "
            f"(limit {self.transform.max_length}, {self.transform.long})\n"
            f"  batches: {count(self.batch_size, 'text')}, {self.max_tokens} tokens at most\n"
            f"  tokenizer: {self.transform.model}"
        )


class InferenceTexts(_Texts):
    """The data of a learner loaded for prediction: a tokenizer, no texts."""

    input = None
    size = None
    seed = 0
    batch_size = 32

    def __init__(self, vocab: tuple[str, ...], transform: TextTransform, task: Task) -> None:
        self.vocab, self.transform, self._task = vocab, transform, task

    @property
    def task(self) -> Task:
        return self._task

    @property
    def train(self) -> Any:
        """Raise an error: there are none."""
        raise TrainingError(
            "This learner was loaded without data; it can only predict. To train or validate it, "
            "give it texts: learn.dls = TextDataLoaders.from_table(...), with the same classes."
        )

    valid = train

    def test_dl(
        self, texts: Any, labels: Iterable[Any] | None = None, *, batch_size: int = 32
    ) -> TextEvalLoader:
        """See `TextDataLoaders.test_dl`."""
        return text_loader(self, texts, labels, check_batch_size(batch_size), self.max_tokens)

    def test_batches(self, items: Any) -> TextEvalLoader:
        return self.test_dl(items)

    def table_dl(
        self,
        table: Any,
        *,
        text: Column | Sequence[Column] = "text",
        label: Column | Sequence[Column] = "label",
        label_delim: str | None = None,
        valid_col: Column | None = None,
        batch_size: int = 32,
        on_error: OnError = "raise",
    ) -> TextEvalLoader:
        """Batches of the texts in a table, of its validation rows if it marks some.

        The arguments are those of `TextDataLoaders.from_table`.
        """
        found = read_table(table)
        columns = [text] if isinstance(text, str | int) else list(text)
        texts = texts_of(found, columns, replace(self.transform, columns=len(columns)))
        labels, _ = labels_of(found, label, label_delim, self.task, "label")
        marks = marks_of(found, valid_col) or [True] * len(texts)
        valid = [i for i, mark in enumerate(marks) if mark]
        their = [texts[i] for i in valid], [labels[i] for i in valid]
        rows = [
            valid[i] for i in sound_rows(*their, self.task, check_on_error(on_error), rows=valid)
        ]
        known = [labels[i] for i in rows]
        return text_loader(
            self, [texts[i] for i in rows], known, check_batch_size(batch_size), self.max_tokens,
            [f"row {i}" for i in rows],
        )  # fmt: skip

    def fingerprint(self) -> str:
        return stable_text((self.transform.max_length, self.transform.long))


def loaded(transform: TextTransform, item: Any) -> Any:
    """One text as the model takes it, without the batch dimension."""
    if isinstance(item, list | tuple):
        item = joined_cells(item, transform)
    if not isinstance(item, str) or missing(item):
        raise DataError(
            f'{item!r:.80} is not a text. Give a string: learn.predict("What a film."); for many, '
            "learn.iter_preds(texts)."
        )
    batch = transform.collate(transform.encode([item]))
    return {name: value[0] for name, value in batch.items()}


def text_loader(
    data: TextDataLoaders | InferenceTexts,
    texts: Any,
    labels: Iterable[Any] | None,
    batch_size: int,
    max_tokens: int,
    names: Sequence[str] = (),
) -> TextEvalLoader:
    given = [
        joined_cells(each, data.transform) if isinstance(each, list | tuple) else each
        for each in ([texts] if isinstance(texts, str) else texts)
    ]
    bad = [i for i, text in enumerate(given) if not isinstance(text, str) or missing(text)]
    if bad or not given:
        raise DataError(
            f"{count(len(bad), 'item is', 'items are')} not a text, or empty (at {names_of(bad)}). "
            'Give texts: learn.predict("some text").'
            if bad
            else "There are no texts."
        )
    samples = Samples(tuple(given), None, data.task, data.n_outputs)
    if labels is not None:
        known = list(labels)
        if len(known) != len(given):
            raise DataError(f"{len(given)} texts, but {len(known)} labels; give one for each.")
        names = names or [f"text {i}" for i in range(len(given))]
        targets = parse_labels(known, names, task=data.task, vocab=data.vocab)
        samples = Samples(tuple(given), targets.labels, targets.task, data.n_outputs)
    return TextEvalLoader(TextSet(samples, data.transform), batch_size, max_tokens)
