"""`layergroups reproduce`: the same run again from its run.yaml, and what differs if it does."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image
from tests.cli.conftest import TINY, Run

from layergroups.cli import main


@pytest.fixture(scope="module")
def quick(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without the many steps of the head-only phase."""
    out = tmp_path_factory.mktemp("cli") / "quick"
    words = ["--freeze-epochs", "0", "--epochs", "2", "--out", str(out)]
    assert main(["train", str(photos), *TINY, *words]) == 0
    return out


@pytest.fixture
def copy(quick: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(quick, tmp_path / "copy"))


def change_record(folder: Path, **setup: object) -> None:
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["setup"] |= setup
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")


def test_a_run_is_repeated_to_the_bit(run: Run, quick: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in quick.iterdir()}
    answer = run("reproduce", quick, "--out", tmp_path / "again")
    assert answer.code == 0
    assert answer.out.startswith("Identical")
    assert {path.name: path.read_bytes() for path in quick.iterdir()} == before
    assert (tmp_path / "again/model.safetensors").is_file()


def test_a_different_run_says_where_and_why(run: Run, copy: Path, photos: Path) -> None:
    text = (copy / "run.yaml").read_text(encoding="utf-8")
    (copy / "run.yaml").write_text(text.replace("seed: 42", "seed: 7"), encoding="utf-8")
    record = json.loads((copy / "run.json").read_text(encoding="utf-8"))
    change_record(copy, versions=record["setup"]["versions"] | {"torch": "1.0"})
    answer = run("reproduce", copy, "--json")
    found = json.loads(answer.out)
    assert (answer.code, found["identical"]) == (1, False)
    assert (found["row"]["epoch"], found["row"]["column"]) == (0, "train_loss")
    assert found["sha256"][0] != found["sha256"][1]
    differing = {name: (one, other) for name, one, other in found["surroundings"]}
    assert {"torch", "checksums of the data"} <= differing.keys()
    assert differing["torch"][0] == "1.0"


def test_changed_photos_are_noticed(run: Run, copy: Path, photos: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(photos, tmp_path / "photos")
    Image.new("RGB", (40, 36)).save(changed / "red/0.png")
    answer = run("reproduce", copy, "--folder", changed)
    assert answer.code == 1
    assert "sizes" in answer.out
    assert "History: first in epoch 0" in answer.out


@pytest.mark.parametrize("change", ["no config", "no record", "no model", "itself"])
def test_what_cannot_be_repeated_is_one_line(run: Run, copy: Path, change: str) -> None:
    words = ["reproduce", copy]
    if change == "no config":
        (copy / "run.yaml").unlink()
    elif change == "no record":
        (copy / "run.json").unlink()
    elif change == "no model":
        (copy / "learner.json").unlink()
    else:
        words += ["--out", copy]
    assert str(copy) in run(*words).only_error_line
