"""A model of texts from a table to predictions, by commands alone."""

from __future__ import annotations

import csv
import io
import json
import os
import select
import sys
from codecs import BOM_UTF8
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.texts import model_folder, reviews

from layergroups import FocalLoss, load_learner
from layergroups.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with reviews.csv and a trained model, `run`."""
    folder = tmp_path_factory.mktemp("texts")
    with (folder / "reviews.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *zip(*reviews(60), strict=True)])
    words = ["train", str(folder / "reviews.csv"), "--text", "text", "--label", "label"]
    words += ["--arch", str(model_folder(folder / "encoder")), "--epochs", "1"]
    words += ["--long", "windows", "--max-length", "6"]
    assert main([*words, "--out", str(folder / "run")]) == 0
    return folder


def rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_table_of_texts_trains_a_model(run: Path) -> None:
    files = {file.name for file in (run / "run").iterdir()}
    assert {"learner.json", "model.safetensors", "tokenizer", "run.json"} <= files
    settings = (run / "run" / "run.yaml").read_text().splitlines()
    assert {"text: text", "long: windows", "max_length: 6"} <= set(settings)
    transform = load_learner(run / "run").dls.transform
    assert (transform.long, transform.max_length) == ("windows", 6)


def test_pooling_and_loss_are_chosen_and_repeated(run: Path, capsys: Any, tmp_path: Path) -> None:
    table, model = str(run / "reviews.csv"), tmp_path / "run"
    words = ["train", table, "--text", "text", "--label", "label", "--arch", str(run / "encoder")]
    words += ["--pooling", "cls", "--loss", "focal", "--epochs", "1", "--out", str(model)]
    assert main(words) == 0
    assert {"pooling: cls", "loss: focal"} <= set((model / "run.yaml").read_text().splitlines())
    learn = load_learner(model)
    assert (learn.model[0].pooling, learn.loss_func) == ("cls", FocalLoss())
    assert main(["reproduce", str(model)]) == 0
    assert main([*words[:-1], str(tmp_path / "new"), "--pooling", "maen"]) == 2
    assert "Did you mean mean" in capsys.readouterr().err


def test_texts_are_predicted_from_arguments_and_from_lines(
    run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, model = ["a dull film", "a great film"], str(run / "run")
    assert main(["predict", model, *texts, "--format", "jsonl"]) == 0
    first = rows(capsys.readouterr().out)
    assert [row["text"] for row in first] == texts
    for mark, more in ((b"", []), (BOM_UTF8, ["-"])):
        lines = mark + "\r\n".join([texts[0], "", texts[1], ""]).encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
        assert main(["predict", model, *more, "--format", "jsonl"]) == 0
        found = capsys.readouterr()
        assert rows(found.out) == first
        assert "2" in found.err  # the line without a row
    assert main(["predict", model, "a\tdull\nfilm", "--format", "table"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_lines_of_an_open_pipe_are_answered_as_they_come(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, outputs = os.pipe(), os.pipe()
    pipes = [os.fdopen(inputs[0], "r"), os.fdopen(outputs[1], "w")]
    monkeypatch.setattr(sys, "stdin", pipes[0])
    monkeypatch.setattr(sys, "stdout", pipes[1])
    words = ["predict", str(run / "run"), "--format", "jsonl"]
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(main, words)
        with os.fdopen(inputs[1], "wb", buffering=0) as ask, os.fdopen(outputs[0]) as answers:
            for text in (b"a dull film", b"a fine film \xff", "这部电影".encode()):
                ask.write(text + b"\n")
                assert select.select([answers], [], [], 60)[0], "no answer"
                answer = json.loads(answers.readline())
                assert answer["text"] == text.decode(errors="replace")
            ask.close()
            assert ended.result(60) == 0
    for pipe in pipes:
        pipe.close()


def test_a_terminal_is_asked_for_texts(
    run: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyboard, terminal = os.openpty()
    os.write(keyboard, b"a dull film\n\x04")  # Ctrl-D
    with os.fdopen(terminal, "r") as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert main(["predict", str(run / "run"), "--format", "jsonl"]) == 0
    os.close(keyboard)
    found = capsys.readouterr()
    assert [row["text"] for row in rows(found.out)] == ["a dull film"]
    assert "Ctrl-D" in found.err


def test_several_columns_are_those_of_the_run(
    run: Path, capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts, labels = reviews(12)
    cells = [*zip(texts, labels, strict=True)]
    table, model = tmp_path / "posts.csv", str(tmp_path / "run")
    lines = "".join(f"{text},the end,{label}\n" for text, label in cells)
    table.write_text(f"title,body,kind\n{lines}")
    options = ["--text", "title,body", "--label-col", "kind", "--arch", str(run / "encoder")]
    words = ["train", str(table), *options, "--epochs", "1", "--freeze-epochs", "0"]
    assert main([*words, "--out", model]) == 0
    other = tmp_path / "others.csv"
    other.write_text(f"kind,body,title\n{cells[0][1]},the end,{cells[0][0]}\n")
    capsys.readouterr()
    assert main(["validate", model, str(other), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["items"] == 1
    learn = load_learner(model)
    whole, alone = learn.predict([texts[0], "the end"]), learn.predict([texts[0], None])
    assert torch.equal(alone.probabilities, learn.predict(texts[0]).probabilities)
    both = [p for _, p in learn.iter_preds([[texts[0], "the end"], [texts[0], None]])]
    assert [p.label for p in both] == [whole.label, alone.label]
    given = f"{texts[0]}\tthe end\n{texts[0]}\t\n".encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), "utf-8"))
    assert main(["predict", model, "--format", "jsonl"]) == 0
    found = [row["probabilities"] for row in rows(capsys.readouterr().out)]
    expected = [
        dict(zip(learn.dls.vocab, p.probabilities.tolist(), strict=True)) for p in (whole, alone)
    ]
    for row, known in zip(found, expected, strict=True):
        assert row == pytest.approx(known, abs=1e-5)


def test_a_model_of_texts_is_validated_inspected_and_reported(
    run: Path, capsys: Any, tmp_path: Path
) -> None:
    model, table = str(run / "run"), str(run / "reviews.csv")
    assert main(["validate", model, table, "--text", "text", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["loss"] > 0
    assert main(["inspect", model, "--split", "2"]) == 0
    assert "frozen" not in "".join(capsys.readouterr())  # other groups than those of the run
    assert main(["report", model, "--out", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_file()


def test_rows_without_text_or_label_are_left_out(
    run: Path, capsys: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, table = str(run / "run"), tmp_path / "some.csv"
    texts, labels = reviews(4)
    rows = [("text", "label"), *zip(texts, labels, strict=True)]
    for odd, says in ((("", labels[0]), "without text"), (("a film", ""), "row 4")):
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([*rows, odd])
        capsys.readouterr()
        assert main(["validate", model, str(table)]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert "4" in error
        assert "--on-error skip" in error
        assert main(["validate", model, str(table), "--on-error", "skip", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["items"] == 4
        assert "Left out: 1 cell" in caplog.messages[-1]


def test_mistakes_are_explained(run: Path, capsys: Any) -> None:
    table = str(run / "reviews.csv")
    for words in (
        ["train", table, "--text", "words", "--arch", str(run / "encoder")],
        ["train", table, "--text", "text", "--arch", "/no/such/folder"],
        ["train", table, "--text", "text", "--images", "."],
        ["train", table, "--text", "text", "--long", "windws", "--arch", str(run / "encoder")],
        ["train", table, "--long", "windows"],
        ["train", str(run), "--text", "text"],
        ["validate", str(run / "run"), str(run / "encoder"), "--text", "text"],
        ["predict", str(run / "run"), table],
    ):
        out = ["--out", str(run / "new")] if words[0] == "train" else []
        assert main([*words, *out]) == 2
        assert capsys.readouterr().err.startswith("layergroups: ")
    assert not (run / "new").exists()


def test_options_of_images_and_another_encoder_are_not_left_out(run: Path, capsys: Any) -> None:
    words = ["train", str(run / "reviews.csv"), "--text", "text", "--out", str(run / "none")]
    for option in (["--size", "96"], ["--channels", "1"], ["--augment", "none"]):
        assert main([*words, *option]) == 2
        assert option[0] in capsys.readouterr().err
    assert main([*words, "--arch", "./resnet18"]) == 2
    assert "resnet18" in capsys.readouterr().err
    assert main(["predict", str(run / "run"), "a film", "--tile", "64"]) == 2
    assert not (run / "none").exists()
