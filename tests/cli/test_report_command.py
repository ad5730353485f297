"""`layergroups report`: the page of a run, two runs side by side, tables, JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.cli.conftest import TINY, Run

from layergroups import RunReport, load_learner


def test_the_page_is_made_without_model_and_photos(run: Run, model: Path, tmp_path: Path) -> None:
    alone = tmp_path / "run"
    alone.mkdir()
    shutil.copy(model / "run.json", alone)
    answer = run("report", alone)
    assert (answer.code, answer.out) == (0, f"{alone / 'run.html'}\n")
    page = (alone / "run.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "<h1>test_resnet on " in page
    assert "layergroups train" in page
    assert "data:image/jpeg;base64," in page


def test_the_command_stands_in_the_record_as_it_was_typed(model: Path, photos: Path) -> None:
    (record,) = RunReport.read(model).records
    assert record.setup.command.startswith(f"layergroups train {photos} --arch timm:test_resnet")
    assert [row.phase for row in record.epochs] == ["head", "all"]
    assert record.outcome.items == 6
    assert load_learner(model).dls.vocab == ("blue", "green", "red")


def test_tables_and_json_tell_the_same(run: Run, model: Path) -> None:
    text = run("report", model, "--text").out
    found = json.loads(run("report", model, "--json").out)
    assert f"{found['outcome']['figures']['accuracy'] * 100:.1f} %" in text
    assert found["setup"]["command"] in text.replace("\n", " ")
    for heading in ("Training curves", "Network and layer groups", "Time and memory"):
        assert heading in text
    assert "data:image" not in json.dumps(found)


def test_two_runs_stand_side_by_side(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = run("report", "--compare", model, model)
    assert (answer.code, answer.out) == (0, "compare.html\n")
    page = (tmp_path / "compare.html").read_text(encoding="utf-8")
    assert page.count('class="matrix"') == 2
    assert "Settings, versions, machine and data are the same." in page
    assert len(json.loads(run("report", "--compare", model, model, "--json").out)["runs"]) == 2
    assert "Differences" in run("report", "--compare", model, model, "--text").out


def test_mistakes_are_answered(run: Run, model: Path, tmp_path: Path) -> None:
    assert "no record of a run" in run("report", tmp_path).only_error_line
    assert "takes two runs, not 1" in run("report", "--compare", model).only_error_line
    assert "--compare A B" in run("report", model, model).only_error_line
    assert "two formats" in run("report", model, "--text", "--json").only_error_line
    line = run("report", model, "--out", tmp_path / "x.pdf").only_error_line
    assert "x.html" in line


@pytest.mark.parametrize("task", ["labels", "numbers"])
def test_runs_on_labels_and_on_numbers_have_a_page_too(
    run: Run, photos: Path, tmp_path: Path, task: str
) -> None:
    files = sorted(photos.rglob("*.png"))
    rows = [
        f"{file},{'warm bright' if file.parent.name == 'red' else 'cold'},{number + 0.5}"
        for number, file in enumerate(files)
    ]
    table = tmp_path / "photos.csv"
    table.write_text("\n".join(["file,labels,numbers", *rows]) + "\n", encoding="utf-8")
    words = ["--label-col", task, *(["--label-delim", " "] if task == "labels" else [])]
    out = tmp_path / "m"
    assert run("train", table, *TINY, "--epochs", 1, *words, "--out", out).code == 0
    assert run("report", out).code == 0
    page = (out / "run.html").read_text(encoding="utf-8")
    assert 'class="matrix"' not in page
    assert ("3 labels" in page) is (task == "labels")
    assert ("Predicted against actual" in page) is (task == "numbers")
    assert "Largest errors" in page
