"""The command line on tables: several labels of a photo, numbers, grey images."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import TINY, Run

from layergroups import load_learner
from layergroups.cli import main


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen photos, reddish or not, bright or dark, and what is known of them."""
    folder = tmp_path_factory.mktemp("tables")
    random = np.random.default_rng(0)
    labels, numbers = [], []
    for number in range(16):
        red, bright = number % 2, number // 2 % 2
        pixels = random.integers(0, 60, (36, 36, 3), dtype=np.uint8) + np.uint8(100 * bright)
        pixels[..., 0] += np.uint8(80 * red)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        words = ";".join(word for word, on in (("red", red), ("bright", bright)) if on)
        part = "valid" if number >= 12 else "train"
        labels.append([f"{number}.png", words, part])
        numbers.append([f"{number}.png", pixels.mean(), pixels[..., 0].mean(), part])
    for name, rows in (("labels", labels), ("numbers", numbers)):
        heads = ["file", "labels", "part"] if name == "labels" else ["file", "light", "red", "part"]
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([heads, *rows])
    return folder


LABELS = ["--label-delim", ";", "--valid-col", "part"]
NUMBERS = ["--label-col", "light,red", "--valid-col", "part"]


@pytest.fixture(scope="module")
def labelled(tables: Path) -> Path:
    out = tables / "models" / "labels"
    words = ["train", str(tables / "labels.csv"), *LABELS, *TINY, "--epochs", "1"]
    assert main([*words, "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def numbered(tables: Path) -> Path:
    out = tables / "models" / "numbers"
    words = ["train", str(tables / "numbers.csv"), *NUMBERS, *TINY, "--epochs", "1"]
    assert main([*words, "--out", str(out)]) == 0
    return out


def test_the_history_has_a_metric_of_the_task(labelled: Path, numbered: Path) -> None:
    for folder, metric in ((labelled, "f1"), (numbered, "mae")):
        first, *rows = csv.DictReader((folder / "history.csv").read_text("utf-8").splitlines())
        assert all(float(row[metric]) >= 0 for row in (first, *rows))


def test_a_table_may_lie_elsewhere_than_its_photos(
    run: Run, labelled: Path, tables: Path, tmp_path: Path
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text((tables / "labels.csv").read_text("utf-8"), "utf-8")
    words = [*LABELS, "--json"]
    lost = run("validate", labelled, table, *words)
    assert "--images DIR" in lost.err
    found = json.loads(run("validate", labelled, table, *words, "--photos", tables).out)
    assert found == json.loads(run("validate", labelled, tables / "labels.csv", *words).out)
    rows = [row.split(",") for row in table.read_text("utf-8").splitlines()]
    moved = [f"{words},{name.removesuffix('.png')},{part}" for name, words, part in rows]
    (tmp_path / "ids.csv").write_text("\n".join(moved), "utf-8")
    words += ["--images", tables, "--image-col", "file", "--suffix", ".png"]
    words += ["--label-col", "labels"]
    assert found == json.loads(run("validate", labelled, tmp_path / "ids.csv", *words).out)
    out = tmp_path / "model"
    trained = run("train", table, *LABELS, "--photos", tables, *TINY, "--epochs", "0", "--out", out)
    assert trained.code == 0
    refused = run("train", tables, "--images", tables, "--out", tmp_path / "other")
    assert "--images" in refused.err


def test_labels_are_predicted_in_every_format(run: Run, labelled: Path, tables: Path) -> None:
    photos = [tables / "0.png", tables / "3.png"]
    expected = [load_learner(labelled).predict(photo) for photo in photos]
    rows = json.loads(run("predict", labelled, *photos, "--json").out)
    assert [row["labels"] for row in rows] == [list(found.labels) for found in expected]
    assert rows[1]["probabilities"] == pytest.approx(expected[1].by_name, abs=1e-5)
    head, *lines = csv.reader(run("predict", labelled, *photos, "--format", "csv").out.splitlines())
    assert head == ["image", "labels", "bright", "red"]
    assert [line[1] for line in lines] == [";".join(found.labels) for found in expected]
    table = run("predict", labelled, *photos).out.splitlines()
    assert table[0].split() == ["image", "labels", "probabilities"]
    assert len(table) == 3


def test_numbers_are_predicted_in_every_format(run: Run, numbered: Path, tables: Path) -> None:
    expected = load_learner(numbered).predict(tables / "5.png").by_name
    assert list(expected) == ["light", "red"]
    (row,) = json.loads(run("predict", numbered, tables / "5.png", "--json").out)
    assert row["numbers"] == pytest.approx(expected, rel=1e-4)
    head, line = csv.reader(
        run("predict", numbered, tables / "5.png", "--format", "csv").out.splitlines()
    )
    assert head == ["image", "light", "red"]
    assert float(line[1]) == pytest.approx(expected["light"], rel=1e-4)
    assert f"{expected['red']:.5g}" in run("predict", numbered, tables / "5.png").out


def test_a_model_of_labels_is_measured_label_by_label(
    run: Run, labelled: Path, tables: Path
) -> None:
    answer = run("validate", labelled, tables / "labels.csv", *LABELS)
    assert answer.out.startswith("items        4\nloss")
    assert "precision" in answer.out
    found = json.loads(run("validate", labelled, tables / "labels.csv", *LABELS, "--json").out)
    assert [row["name"] for row in found["classes"]] == ["bright", "red"]
    assert [row["support"] for row in found["classes"]] == [2, 2]
    assert 0 <= found["exact_match"] <= 1


def test_a_model_of_numbers_is_measured_by_its_errors(
    run: Run, numbered: Path, tables: Path
) -> None:
    words = ("validate", numbered, tables / "numbers.csv", *NUMBERS)
    assert "root mean square" in run(*words).out
    found = json.loads(run(*words, "--json").out)
    assert found["items"] == 4
    assert [row["name"] for row in found["outputs"]] == ["light", "red"]
    assert found["mae of red"] == found["outputs"][1]["mean_absolute"]


def test_no_confusion_matrix_is_drawn_of_labels(run: Run, labelled: Path, tables: Path) -> None:
    assert not (labelled / "confusion_matrix.png").exists()
    answer = run("validate", labelled, tables / "labels.csv", *LABELS, "--out", "m.png")
    assert answer.code == 2
    assert "confusion matrix" in answer.err


def test_options_of_a_table_are_refused_for_a_folder(run: Run, photos: Path) -> None:
    answer = run("train", photos, "--label-delim", ";", *TINY)
    assert answer.code == 2
    assert "--label-delim" in answer.err


def test_a_folder_of_classes_cannot_measure_labels(run: Run, labelled: Path, photos: Path) -> None:
    answer = run("validate", labelled, photos)
    assert "multilabel" in answer.only_error_line
    assert ".csv" in answer.only_error_line
