"""Every file in examples/ runs."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layergroups.demo.run import PHOTOS

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
TINY = ["--arch", "timm:test_resnet", "--size", "32"]


def load(name: str) -> Callable[[list[str]], None]:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[list[str]], None] = module.main
    return main


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A few of the demo's photos."""
    for folder in PHOTOS.glob("*/*/"):
        copy = tmp_path / "photos" / folder.relative_to(PHOTOS)
        copy.mkdir(parents=True)
        for photo in sorted(folder.iterdir())[:2]:
            shutil.copy(photo, copy)
    return tmp_path / "photos"


def test_all_examples_are_tested() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {"fine_tune_folder", "plain_loop"}


def test_fine_tune_folder(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    load("fine_tune_folder")(
        [str(photos), *TINY, "--from-noise", "--epochs", "0", "--out", str(out)]
    )
    told = capsys.readouterr().out
    assert "Layer groups of " in told
    assert "accuracy 0." in told
    assert {"learner.json", "network.png"} <= {path.name for path in out.iterdir()}


def test_plain_loop(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load("plain_loop")([str(photos), *TINY])
    told = capsys.readouterr().out
    assert told.count("validation photos right") == 2
    assert "head" in told
