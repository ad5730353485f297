"""`layergroups export`: a file for those who do not have this library."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import Run

from layergroups import load_learner


def test_the_file_says_what_the_model_says(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new" / "net.pt2"
    answer = run("export", model, "--out", out)
    assert answer.out.split() == [str(out), f"{out}.json"]
    assert "Compared with the model on 5 inputs" in answer.err
    learn = load_learner(model)
    photo = photos / "green/1.png"
    pixels = learn.dls.transform.pixels(learn.dls.opened(photo))
    (found,) = torch.export.load(out).module()(pixels[None])
    assert torch.allclose(found, learn.predict(photo).probabilities, atol=1e-5)


def test_without_out_it_stands_in_the_folder(run: Run, model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    said = json.loads(run("export", folder, "--format", "pt2", "--json").out)
    assert said["file"] == str(folder / "model.pt2")
    assert said["largest_difference"] < 1e-4
    assert {"model.pt2", "model.pt2.json"} <= {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "Which format?"),
        (["--out", "m.pth"], "must end in .onnx or .pt2"),
        (["--format", "onnx", "--out", "m.pt2"], "--out m.onnx"),
    ],
)
def test_formats_that_are_not_clear(run: Run, model: Path, words: list[str], says: str) -> None:
    assert says in run("export", model, *words).only_error_line


def test_missing_packages_are_told_in_options(
    run: Run, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    answer = run("export", model, "--out", tmp_path / "m.onnx")
    assert (answer.code, answer.out) == (2, "")
    line = answer.err.splitlines()[-1]  # after that of what is written
    assert 'pip install "layergroups[onnx]"' in line
    assert line.endswith("torch.export's own format works: --format pt2.")
