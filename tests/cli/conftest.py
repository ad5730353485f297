"""A tiny folder of photos, and a model that the command line trained on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layergroups.cli import main

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220)}
TINY = ["--arch", "timm:test_resnet", "--no-pretrained", "--size", "32", "--batch-size", "8"]


def make_photos(folder: Path, each: int = 8) -> Path:
    """Noisy photos of one colour, in a folder for each class."""
    generator = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = np.clip(generator.normal(colour, 20, (40, 36, 3)), 0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("cli") / "photos")


@pytest.fixture(scope="session")
def model(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `layergroups train` wrote."""
    out = tmp_path_factory.mktemp("cli") / "model"
    assert main(["train", str(photos), *TINY, "--epochs", "1", "--out", str(out)]) == 0
    return out


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str

    @property
    def only_error_line(self) -> str:
        """The one line on stderr of a command that failed by the user's fault."""
        assert (self.code, self.out) == (2, "")
        (line,) = self.err.splitlines()
        return line


Run = Callable[..., Answer]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process."""

    def runner(*words: Any) -> Answer:
        capsys.readouterr()
        code = main([str(word) for word in words])
        out, err = capsys.readouterr()
        return Answer(code, out, err)

    return runner
