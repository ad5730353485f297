"""`layergroups predict`: photos and folders, a table or JSON."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Run

from layergroups import load_learner
from layergroups.training import _inference as prediction


def test_the_table_has_a_row_for_each_photo(run: Run, model: Path, photos: Path) -> None:
    answer = run("predict", model, photos / "red/0.png", photos / "blue")
    rows = [line.split() for line in answer.out.splitlines() if ".png" in line]
    assert [row[0] for row in rows] == [
        str(photos / "red/0.png"),
        *(str(photos / f"blue/{number}.png") for number in range(8)),
    ]
    assert all(row[1] in ("red", "green", "blue") and float(row[2]) <= 1 for row in rows)
    assert "\x1b" not in answer.out


def test_json_gives_what_the_learner_predicts(run: Run, model: Path, photos: Path) -> None:
    (found,) = json.loads(run("predict", model, photos / "red/1.png", "--json").out)
    expected = load_learner(model).predict(photos / "red/1.png")
    assert found["path"] == str(photos / "red/1.png")
    assert found["prediction"] == expected.label
    assert found["probability"] == pytest.approx(expected.probabilities.max().item(), abs=1e-5)
    assert sum(found["probabilities"].values()) == pytest.approx(1)


def test_broken_photos_stop_it_or_are_left_out(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.jpg").write_text("not a photo", encoding="utf-8")
    shutil.copy(photos / "red/0.png", tmp_path / "good.png")
    stopped = run("predict", model, tmp_path, "--json")
    assert (stopped.code, stopped.out) == (2, "")
    assert f"{tmp_path / 'bad.jpg'}: not an image" in stopped.err
    answer = run("predict", model, tmp_path, "--json", "--on-error", "skip")
    assert [row["path"] for row in json.loads(answer.out)] == [str(tmp_path / "good.png")]


def test_nothing_to_predict_is_a_fault(run: Run, model: Path, tmp_path: Path) -> None:
    assert "There are no images in" in run("predict", model, tmp_path).only_error_line


def test_csv_and_json_lines_say_the_same_as_json(run: Run, model: Path, photos: Path) -> None:
    words = ("predict", model, photos / "green", "--batch-size", "3")
    expected = json.loads(run(*words, "--json").out)
    assert expected == json.loads(run(*words, "--format", "json").out)
    lines = run(*words, "--format", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == expected
    rows = list(csv.DictReader(io.StringIO(run(*words, "--format", "csv").out)))
    assert [(row["image"], row["prediction"]) for row in rows] == [
        (row["path"], row["prediction"]) for row in expected
    ]
    assert list(rows[0]) == ["image", "prediction", "probability", "blue", "green", "red"]
    assert float(rows[0]["red"]) == expected[0]["probabilities"]["red"]


def test_two_formats_are_a_fault(run: Run, model: Path, photos: Path) -> None:
    answer = run("predict", model, photos, "--json", "--format", "csv")
    assert "--json and --format csv are two formats" in answer.only_error_line


def test_rows_are_written_as_they_come(
    run: Run, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    predict_all = prediction.predict_all

    def watched(*arguments: Any, **options: Any) -> Any:
        written.append(sys.stdout.tell())
        return predict_all(*arguments, **options)

    monkeypatch.setattr(prediction, "predict_all", watched)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    run("predict", model, photos / "blue", "--batch-size", "3", "--format", "jsonl")
    assert len(written) == 3
    assert 0 == written[0] < written[1] < written[2]
