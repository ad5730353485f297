"""`layergroups validate`: loss, accuracy, classes, and the picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import Run, make_photos


def test_table_and_picture(run: Run, model: Path, photos: Path, tmp_path: Path) -> None:
    answer = run("validate", model, photos, "--out", tmp_path / "confusion.svg")
    assert answer.code == 0
    assert "too good" in answer.err  # these images trained the model
    assert answer.out.startswith("items     24\nloss")
    assert "most often predicted as" in answer.out
    assert "<svg" in (tmp_path / "confusion.svg").read_text(encoding="utf-8")


def test_json(run: Run, model: Path, photos: Path) -> None:
    found = json.loads(run("validate", model, photos, "--json").out)
    right = sum(row[i] for i, row in enumerate(found["matrix"]))
    assert found["accuracy"] == pytest.approx(right / 24)
    assert found["loss"] > 0


def test_of_a_divided_folder_the_validation_part_is_taken(
    run: Run, model: Path, tmp_path: Path
) -> None:
    make_photos(tmp_path / "train", each=2)
    make_photos(tmp_path / "valid", each=1)
    answer = run("validate", model, tmp_path, "--json")
    assert json.loads(answer.out)["items"] == 3
    assert "too good" not in answer.err
    assert "valid" in answer.err


def test_rows_of_a_table_without_a_label_are_left_out(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    table = tmp_path / "some.csv"
    table.write_text("image,label\nred/0.png,red\nblue/0.png,\ngreen/0.png,green\n")
    words = ["validate", model, table, "--images", photos]
    assert "--on-error skip" in run(*words).only_error_line
    assert json.loads(run(*words, "--on-error", "skip", "--json").out)["items"] == 2


def test_unknown_classes_are_a_fault(run: Run, model: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", each=1)
    (photos / "red").rename(photos / "crimson")
    assert "'crimson'" in run("validate", model, photos).only_error_line
