"""Learners on a model hub: a stand-in of its HTTP API, in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.training import hub_script as script

from layergroups import load_learner
from layergroups.errors import CheckpointError

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_a_learner_goes_to_the_hub_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for i in range(16):
        file = tmp_path / "photos" / ("cat", "dog")[i % 2] / f"private{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(torch.randint(0, 255, (32, 32, 3), dtype=torch.uint8).numpy()).save(file)
    paths = f"{ROOT / 'src'}{os.pathsep}{ROOT}"
    environment = os.environ | {"PYTHONPATH": paths, "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, script.__file__, str(tmp_path / "photos")],
        env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["url"].endswith(f"me/tiny/commit/{script.SHA}")
    assert told["same"]
    assert {Path(name).suffix for name in told["files"]} == {".json", ".safetensors", ".md"}
    card = told["card"]
    assert card.startswith("---\nlibrary_name: layergroups\nlicense: mit\n")
    for part in ("timm:test_resnet", "Classes: cat, dog", "| head |", "accuracy", "## Reproduce"):
        assert part in card
    assert "private" not in card
    assert told["timm"]
    assert {"config.json", "model.safetensors"} <= set(told["pushed by the Trainer"])
    assert "refused" in told["absent"]
    assert "no model hub can be reached" in told["unreachable"]


def test_without_a_hub_and_with_a_wrong_address() -> None:
    with pytest.raises(CheckpointError, match="no model hub can be reached"):
        load_learner("hf://me/tiny")  # the tests are offline
    with pytest.raises(CheckpointError, match="not the address of a model"):
        load_learner("hf://tiny")
