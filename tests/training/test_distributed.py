"""Several processes train as one does: real second processes, gloo, CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training import distributed_script as script
from tests.training.tiny import moved, snapshot

from layergroups.training import Learner

ROOT = Path(__file__).parents[2]
LAUNCHERS = {
    "forks": ("tests.training.forks",),  # the quickest: one start of Python
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node"),
    "accelerate": (
        "accelerate.commands.launch", "--multi_gpu", "--main_process_port", "0", "--num_processes",
    ),
    "fsdp": (
        "accelerate.commands.launch", "--use_fsdp", "--fsdp_version", "2",
        "--main_process_port", "0", "--num_processes",
    ),
}  # fmt: skip
EQUAL = (
    "life", "life_sgd", "uneven", "few", "fine_tune", "stored", "accumulated", "averaged", "stops",
    "transformer", "labels", "numbers", "masks", "ready", "two_boundaries",
)  # fmt: skip
STORED = ("fine_tune", "stored", "two_boundaries")  # under FSDP2 they train through the network
FAILING = ("freeze_on_one", "surgery_on_one", "rates_on_one", "error_on_one")
OTHERS = (
    "averaged_norms", "moving_norms", "life_bf16", "shuffled", "skips_alike", "saved",
    "broken_loss", "mixes",
)  # fmt: skip


def launch(scenarios: tuple[str, ...], folder: Path, *, by: str = "torchrun", n: int = 2) -> Path:
    """Run scenarios in n processes of a launcher; they end in two minutes or fail."""
    module, *options = LAUNCHERS[by]
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "",
    }
    environment.pop("WORLD_SIZE")
    command = [sys.executable, "-m", module, *options, str(n), script.__file__]
    done = subprocess.run(
        [*command, ",".join(scenarios), str(folder)],
        env=environment, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def told(folder: Path, scenario: str) -> list[dict[str, Any]]:
    """What every process came to."""
    files = sorted((folder / scenario).glob("told-*.json"))
    return [json.loads(file.read_text()) for file in files]


def alone(scenario: str, folder: Path) -> Learner:
    """The same in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    os.chdir(folder)
    try:
        with torch.random.fork_rng():
            return script.SCENARIOS[scenario](folder)
    finally:
        os.chdir(before)


def assert_in_step(processes: list[dict[str, Any]], n: int) -> None:
    assert [p["world"] for p in processes] == [n] * n
    assert all(p["history"] == processes[0]["history"] for p in processes)
    assert all(p["hashes"] == processes[0]["hashes"] for p in processes)
    assert len(processes[0]["hashes"]) == len(processes[0]["history"]) > 0


def assert_as_alone(folder: Path, scenario: str, tmp_path: Path) -> None:
    """Weights, losses and metrics as those of one process, within rounding."""
    one, many = alone(scenario, tmp_path / "alone"), told(folder, scenario)
    weights = torch.load(folder / scenario / "weights-0.pt")
    for name, tensor in snapshot(one.model).items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6, msg=name)
    for own, theirs in zip(one.history, many[0]["history"], strict=True):
        assert theirs["train_loss"] == pytest.approx(own.train_loss, rel=1e-5)
        assert theirs["valid_loss"] == pytest.approx(own.valid_loss, rel=1e-5)
        assert theirs["metrics"] == pytest.approx(dict(own.metrics), rel=1e-4)
        assert tuple(theirs["frozen"]) == own.frozen
        assert theirs["note"] == own.note


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_freeze_thaw_and_surgery_in_two_processes_are_those_of_one(tmp_path: Path) -> None:
    launch(("life",), tmp_path, by="forks")
    assert_in_step(told(tmp_path, "life"), 2)
    assert_as_alone(tmp_path, "life", tmp_path)


@pytest.fixture(scope="module")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replicated")
    return launch((*EQUAL, "texts", *FAILING, "change_on_one", "skips", *OTHERS), folder)


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return launch((*EQUAL, *FAILING, *OTHERS), tmp_path_factory.mktemp("sharded"), by="fsdp")


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [*EQUAL, "texts"])
def test_two_processes_train_as_one(replicated: Path, tmp_path: Path, scenario: str) -> None:
    assert_in_step(told(replicated, scenario), 2)
    assert not any(p["sharded"] for p in told(replicated, scenario))
    assert_as_alone(replicated, scenario, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [s for s in EQUAL if s not in STORED])
def test_two_processes_train_as_one_under_fsdp2(
    sharded: Path, tmp_path: Path, scenario: str
) -> None:
    assert_in_step(told(sharded, scenario), 2)
    assert all(p["sharded"] for p in told(sharded, scenario))
    assert_as_alone(sharded, scenario, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", [*STORED, *OTHERS])
@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_processes_stay_in_step(request: Any, kind: str, scenario: str) -> None:
    assert_in_step(told(request.getfixturevalue(kind), scenario), 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replicated", "sharded"])
@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ("freeze_on_one", "frozen: 0.0 False on process 0, 0.0 True on process 1"),
        ("surgery_on_one", "process 1 at "),
        ("rates_on_one", "rates: 1 0.01 on process 0, 1 0.5 on process 1"),
        ("error_on_one", "the disk is full"),
    ],
)
def test_what_is_done_on_one_process_only_is_an_error_on_all(
    request: Any, kind: str, scenario: str, says: str
) -> None:
    folder = request.getfixturevalue(kind) / scenario
    errors = [(folder / f"error-{rank}.txt").read_text() for rank in range(2)]
    assert all(says in error for error in errors), errors
    if scenario != "error_on_one":
        assert all("Every process must make the same calls" in error for error in errors)
    else:
        assert "Process 1 failed" in errors[0]


@pytest.mark.slow
def test_a_part_that_only_some_processes_use_still_trains_everywhere(replicated: Path) -> None:
    assert_in_step(told(replicated, "skips"), 2)
    weights = torch.load(replicated / "skips" / "weights-0.pt")
    torch.manual_seed(0)
    before = script.Skips(by_rank=True).state_dict()
    still = {name for name, tensor in weights.items() if torch.equal(tensor, before[name])}
    assert still == {"never.weight", "never.bias"}


@pytest.mark.slow
def test_a_weight_changed_on_one_process_is_named(replicated: Path) -> None:
    for rank in range(2):
        error = (replicated / "change_on_one" / f"error-{rank}.txt").read_text()
        assert "differ between the processes: 0.0.weight" in error


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["replicated", "sharded"])
def test_what_several_processes_save_one_process_loads(request: Any, kind: str) -> None:
    folder = request.getfixturevalue(kind) / "saved"
    assert [file.name for file in folder.glob("*.safetensors")] == ["state.safetensors"]
    learn = script.learner(path=folder).load("state")
    weights = torch.load(folder / "weights-0.pt")
    assert not moved(weights, learn.model)
    learn.fit(1)


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["plain", "plain_spread"])
def test_a_loop_of_ones_own(tmp_path: Path, scenario: str) -> None:
    launch((scenario,), tmp_path)
    assert_in_step(told(tmp_path, scenario), 2)
    assert all(p["sharded"] == (scenario == "plain_spread") for p in told(tmp_path, scenario))
    assert_as_alone(tmp_path, scenario, tmp_path)


@pytest.mark.slow
def test_a_wrapper_of_torch_follows_freezing_and_refuses_surgery(tmp_path: Path) -> None:
    launch(("wrapped",), tmp_path)
    first, second = (
        (tmp_path / "wrapped" / f"told-{rank}.txt").read_text().split("\n") for rank in range(2)
    )
    assert first == second  # gradients are averaged
    assert [text.split()[0] for text in first[:5]] == ["2", "10", "6", "8", "10"]
    assert "the gradients of 1.2.weight, 1.2.bias" in first[5]


@pytest.mark.slow
def test_three_processes_started_by_accelerate(tmp_path: Path) -> None:
    launch(("life", "uneven"), tmp_path, by="accelerate", n=3)
    for scenario in ("life", "uneven"):
        assert_in_step(told(tmp_path, scenario), 3)
        assert_as_alone(tmp_path, scenario, tmp_path)
