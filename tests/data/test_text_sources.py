"""Tables, lists and datasets of texts: read, and what is wrong found up front."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from tests.texts import model_folder, review_table, reviews

from layergroups.data import TextDataLoaders
from layergroups.errors import ArgumentError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def test_a_quotation_mark_that_is_never_closed_joins_no_lines(folder: Path, tmp_path: Path) -> None:
    lines = ['good\t"a fine film', "bad\ta dull film", "good\tgreat", 'bad\t"awful" cast'] * 5
    file = tmp_path / "t.tsv"
    file.write_text("label\ttext\n" + "\n".join(lines) + "\n")
    dls = TextDataLoaders.from_table(file, model=folder)
    assert len(dls.train_texts) + len(dls.valid_texts) == 20


def test_a_quoted_cell_may_have_line_breaks(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("label,text\n" + 'good,"a fine\nfilm, really"\nbad,dull\n' * 5)
    dls = TextDataLoaders.from_table(file, model=folder)
    texts = {*dls.train_texts.files, *dls.valid_texts.files}
    assert texts == {"a fine\nfilm, really", "dull"}


def test_several_columns_are_joined_by_the_separator(folder: Path) -> None:
    made = {"title": ["fine", None, "dull"] * 4, "body": ["a film"] * 12}
    made["label"] = ["x", "y", "z"] * 4
    dls = TextDataLoaders.from_table(made, text=["title", "body"], model=folder)
    texts = {*dls.train_texts.files, *dls.valid_texts.files}
    assert texts == {"fine [SEP] a film", "a film", "dull [SEP] a film"}
    assert dls.load(["fine", "a film"])["input_ids"].tolist().count(3) == 2
    given = [["fine", "a film"], ("", "a film"), ["a film", None], "a film"]
    assert dls.test_dl(given).texts == ("fine [SEP] a film", "a film", "a film", "a film")
    assert torch.equal(dls.load(["a film", ""])["input_ids"], dls.load("a film")["input_ids"])
    for wrong in (["fine"], ["a", "b", "c"], ["", None], ["fine", 3]):
        for way in (dls.load, lambda item: dls.test_dl([item])):
            with pytest.raises(DataError):
                way(wrong)


def test_two_texts_are_not_the_columns_of_one(folder: Path) -> None:
    dls = TextDataLoaders.from_table(review_table(), model=folder)
    with pytest.raises(DataError, match="iter_preds"):
        dls.load(["a fine film", "a dull film"])


def test_cells_without_text_are_found_up_front(folder: Path, caplog: Any) -> None:
    made = review_table()
    made["text"][3], made["text"][5], made["text"][7] = None, "  ", 12
    with pytest.raises(DataError, match="3, 5") as caught:
        TextDataLoaders.from_table(made, model=folder)
    assert "7" in str(caught.value)
    with caplog.at_level(logging.WARNING, "layergroups"):
        dls = TextDataLoaders.from_table(made, model=folder, on_error="skip")
    assert len(dls.train_texts) + len(dls.valid_texts) == 17
    assert caplog.records
    made["label"][9] = ""
    dls = TextDataLoaders.from_table(made, model=folder, on_error="skip")
    assert len(dls.train_texts) + len(dls.valid_texts) == 16


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": "words"}, {"label": "kind"}, {"text": []}, {"valid_pct": 2}, {"batch_size": 0},
        {"max_tokens": 0}, {"long": "no"}, {"on_error": "maybe"}, {"balance": {"bad": 1}},
        {"seed": "x"}, {"model": "/no/such/folder"},
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        TextDataLoaders.from_table(review_table(), **({"model": folder} | wrong))


def test_an_unknown_option_is_refused(folder: Path) -> None:
    with pytest.raises(ArgumentError, match="batch_size"):
        TextDataLoaders.from_table(review_table(), model=folder, batchsize=3)  # type: ignore[call-arg] # the mistake


class Dataset:
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


def test_datasets_of_pairs_and_of_dicts(folder: Path) -> None:
    texts, labels = reviews(20)
    pairs = TextDataLoaders.from_dataset(Dataset([*zip(texts, labels, strict=True)]), model=folder)
    dicts = [{"sentence": a, "label": b} for a, b in zip(texts, labels, strict=True)]
    both = TextDataLoaders.from_dataset(Dataset(dicts[:14]), Dataset(dicts[14:]), model=folder)
    assert pairs.vocab == both.vocab
    assert both.valid_texts.files == tuple(texts[14:])
    with pytest.raises(DataError, match="sentence"):
        TextDataLoaders.from_dataset(Dataset(dicts), text="words", model=folder)
    with pytest.raises(DataError):
        TextDataLoaders.from_dataset(3, model=folder)
    parts = {"train": Dataset(dicts[:14]), "test": Dataset(dicts[14:])}
    with pytest.raises(DataError, match=r"parts\['train'\], parts\['test'\]"):
        TextDataLoaders.from_dataset(parts, model=folder)


class Named(Dataset):
    """With the names of its classes, as datasets of Hugging Face have them."""

    @property
    def features(self) -> dict[str, Any]:
        return {"text": None, "label": SimpleNamespace(names=["bad", "good"])}


def test_names_of_several_labels_come_from_the_dataset(folder: Path) -> None:
    class Several(Dataset):
        features: ClassVar = {"targets": SimpleNamespace(feature=SimpleNamespace(names=["a", "b"]))}

    texts, _ = reviews(20)
    rows = [{"text": t, "targets": [0, 1] if i % 2 else [1]} for i, t in enumerate(texts)]
    assert TextDataLoaders.from_dataset(Several(rows), model=folder).vocab == ("a", "b")


def test_labels_beyond_the_names_of_a_dataset_are_no_classes(folder: Path) -> None:
    texts, _ = reviews(20)
    rows = [{"text": t, "label": np.int64(i % 2)} for i, t in enumerate(texts)]
    dls = TextDataLoaders.from_dataset(Named(rows), model=folder)
    assert sum(dls.train_texts.counts(2)) + sum(dls.valid_texts.counts(2)) == 20
    for beyond in (-1, 2):
        rows[3] = {"text": texts[3], "label": beyond}
        with pytest.raises(DataError, match="no class"):
            TextDataLoaders.from_dataset(Named(rows), model=folder)
