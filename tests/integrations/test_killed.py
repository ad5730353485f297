"""Runs of two processes in the loops of others are killed, and end as the unbroken ones."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
REAL = "LAYERGROUPS_REAL" in os.environ
real = pytest.mark.skipif(not REAL, reason="takes minutes: set LAYERGROUPS_REAL=1")


def run(*command: str, shared: Path | None = None) -> int:
    """Without a step it must end; else torchrun reports that a process was killed."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    environment |= {"SHARED": str(shared or ""), "PYTHONFAULTHANDLER": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, "tests/integrations/killed_script.py", *command],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or "Signal 9" in done.stderr, done.stderr[-20_000:]
    return done.returncode


def check(
    loop: str, model: str, tmp_path: Path, steps: tuple[str, ...], shared: Path | None
) -> None:
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert run(loop, model, str(unbroken), shared=shared) == 0
    for step in steps:
        assert run(loop, model, str(killed), step, shared=shared) != 0
    assert run(loop, model, str(killed), shared=shared) == 0
    first, *others = (
        load_file(folder / f"end-{rank}.safetensors")
        for folder in (unbroken, killed)
        for rank in range(2)
    )
    for other in others:  # weights and moments, in both processes
        assert first.keys() == other.keys()
        assert [name for name in first if not torch.equal(first[name], other[name])] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loop", "model"), [("trainer", "bert"), ("fsdp", "bert"), ("lightning", "vit")]
)
def test_a_killed_run_of_two_processes_ends_as_the_unbroken_one(
    loop: str, model: str, tmp_path: Path
) -> None:
    check(loop, model, tmp_path, ("18",), None)  # within the second epoch; all groups train


@real
@pytest.mark.slow
@pytest.mark.parametrize("loop", ["trainer", "lightning"])
@pytest.mark.parametrize("model", ["minilm", "dinov2"])
def test_with_real_weights(loop: str, model: str, shared: Path, tmp_path: Path) -> None:
    check(loop, model, tmp_path, ("6", "18"), shared)
