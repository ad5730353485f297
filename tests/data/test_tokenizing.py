"""Texts to tokens: limits, windows, texts without tokens, and the tokenizer of an export."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.texts import model_folder

from layergroups.data import TextTransform
from layergroups.data.text import text_transform_from_config
from layergroups.errors import DataError

LONG = "film " * 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model"))


def test_a_long_text_is_cut_and_counted(folder: Path) -> None:
    transform = TextTransform.of(folder)
    assert transform.max_length == 24
    short, long = transform.encode(["a film", LONG])
    assert (short.length, short.cut) == (4, False)
    assert (long.length, long.cut, len(long.windows)) == (24, True, 1)


def test_windows_read_all_of_a_text(folder: Path) -> None:
    transform = TextTransform.of(folder, max_length=12, long="windows")
    short, long = transform.encode(["a film", LONG])
    assert len(short.windows) == 1
    words = sum(window.shape[1] - 2 for window in long.windows)
    assert words >= 50
    batch = transform.collate([short, long])
    assert batch["input_ids"].shape == (2, len(long.windows), 12)
    assert batch["attention_mask"][0, 1:].sum() == 0
    assert transform.collate([short])["input_ids"].shape == (1, 4)


def test_the_windows_of_a_text_have_a_limit(folder: Path, tmp_path: Path) -> None:
    transform = TextTransform.of(folder, 12, "windows", max_tokens=30)
    short, long = transform.encode(["a film", LONG])
    assert (len(long.windows), long.cut, short.cut) == (2, True, False)
    transform.save(tmp_path)
    assert text_transform_from_config(transform.to_config(), tmp_path) == replace(
        transform, model=str(tmp_path / "tokenizer")
    )


def test_padding_is_on_the_right_and_masked(folder: Path) -> None:
    transform = TextTransform.of(folder)
    batch = transform.collate(transform.encode(["a very fine film", "dull"]))
    assert batch["attention_mask"].tolist() == [[1] * 6, [1, 1, 1, 0, 0, 0]]
    assert batch["input_ids"][1].tolist()[3:] == [0, 0, 0]


def test_a_text_without_tokens_has_one(tmp_path: Path) -> None:
    transform = TextTransform.of(model_folder(tmp_path, "gpt2"))
    batch = transform.collate(transform.encode([" ", "a film"]))
    assert batch["attention_mask"].sum(1).tolist() == [1, 2]


def test_an_export_has_the_tokenizer(folder: Path, tmp_path: Path) -> None:
    transform = TextTransform.of(folder, 9)
    transform.save(tmp_path)
    again = text_transform_from_config(transform.to_config(), tmp_path)
    texts = ["a fine film", LONG]
    ours, theirs = transform.encode(texts), again.encode(texts)
    assert all(torch.equal(a.windows[0], b.windows[0]) for a, b in zip(ours, theirs, strict=True))


def test_what_cannot_be_used_is_refused(folder: Path, tmp_path: Path) -> None:
    for wrong in ({"max_length": 99}, {"max_length": 0}, {"long": "drop"}):
        with pytest.raises(DataError):
            TextTransform.of(folder, **wrong)  # type: ignore[arg-type] # the mistake
    with pytest.raises(DataError, match="folder"):
        TextTransform.of(tmp_path / "nothing")


def test_a_folder_without_the_files_of_a_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    """With the config alone, transformers makes a tokenizer that knows no word."""
    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DataError):
        TextTransform.of(bert)
    assert TextTransform.of(folder).max_length == 24
