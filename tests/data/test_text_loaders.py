"""`TextDataLoaders`: how texts are split, counted, and predicted."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from tests.texts import model_folder, review_table

from layergroups.data import TextDataLoaders
from layergroups.errors import DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def test_a_table_with_marks(folder: Path) -> None:
    dls = TextDataLoaders.from_table(review_table(), valid_col="split", model=folder)
    assert (len(dls.train_texts), len(dls.valid_texts)) == (14, 6)
    assert dls.vocab == ("bad", "good")
    assert dls.train_texts.files == tuple(review_table()["text"][:14])


def test_validation_texts_that_are_also_training_texts_are_counted(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["a fine film", "a dull film", "great", "weak", "lovely", "a dull film"]
    marks = [False, False, False, False, True, True]
    for n_copies in (0, 1):
        caplog.clear()
        end = len(texts) - 1 + n_copies
        labels = ["good", "bad", "good", "bad", "good", "bad"]
        TextDataLoaders.from_lists(texts[:end], labels[:end], is_valid=marks[:end], model=folder)
        assert [record.args for record in caplog.records] == [(1, 2)] * n_copies


def test_a_mark_that_is_neither_true_nor_false_is_refused(folder: Path) -> None:
    marks: list[Any] = [True, float("nan"), False, False]
    with pytest.raises(DataError, match="is_valid has nan for text 1"):
        TextDataLoaders.from_lists(["a", "b", "c", "d"], list("xyxy"), is_valid=marks, model=folder)


def test_a_share_of_each_class_is_for_validation(folder: Path) -> None:
    one = TextDataLoaders.from_table(review_table(40), model=folder, valid_pct=0.25, seed=3)
    same = TextDataLoaders.from_table(review_table(40), model=folder, valid_pct=0.25, seed=3)
    assert one.valid_texts.counts(2) == (5, 5)
    assert one.valid_texts.files == same.valid_texts.files


def test_truncation_is_counted_and_logged(folder: Path, caplog: Any) -> None:
    made = review_table()
    made["text"][0] = "film " * 100
    with caplog.at_level(logging.WARNING, "layergroups"):
        dls = TextDataLoaders.from_table(made, model=folder, valid_col="split")
    assert dls.train.items.n_cut == 1
    assert "1 of 20 texts" in caplog.text


def test_test_texts_with_and_without_labels(folder: Path) -> None:
    dls = TextDataLoaders.from_table(review_table(), model=folder)
    (batch,) = dls.test_dl(["fine", "dull film"])
    assert batch["input_ids"].shape[0] == 2
    ((_, targets),) = dls.test_dl(["fine", "dull film"], ["good", "bad"])
    assert targets.tolist() == [1, 0]
    for wrong in ([], ["a", 3], [""]):
        with pytest.raises(DataError):
            dls.test_dl(wrong)
    with pytest.raises(DataError):
        dls.load("")


def test_facts_and_repr_say_what_the_data_are(folder: Path) -> None:
    dls = TextDataLoaders.from_table(review_table(), model=folder)
    facts = dls.facts()
    assert (facts.train, facts.valid) == (len(dls.train_texts), len(dls.valid_texts))
    assert [name for name, *_ in facts.counts] == ["bad", "good"]
    assert str(len(dls.train_texts)) in repr(dls)
