"""Help is quick, faults of the user are one line, faults of ours keep their traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Run

import layergroups
from layergroups.cli import _predict_command as predict
from layergroups.cli import main

HEAVY = ("torch", "torchvision", "timm", "matplotlib", "numpy", "PIL")


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"], ["--version"], []])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys; from layergroups.cli import main; code = main(sys.argv[1:]); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr); "
        "sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    assert done.stderr.strip() == "[]"
    assert "layergroups" in done.stdout


def test_version(run: Run) -> None:
    assert run("--version").out == f"layergroups {layergroups.__version__}\n"


def test_every_command_is_in_the_help(run: Run) -> None:
    words = run("--help").out
    assert all(name in words for name in ("demo", "train", "predict", "inspect", "validate"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "No such command 'trian'"),
        (["train"], "Missing argument 'FOLDER'. See layergroups train --help."),
        (["train", "photos", "--epochs", "many"], "--epochs"),
        (["train", "photos", "--speed", "9"], "--speed"),
        (["train", "photos", "--epochs", "0", "--freeze-epochs", "0"], "trains nothing"),
        (["train", "photos", "--learning-rate", "9"], "--learning-rate. Did you mean --lr?"),
        (["train", "photos", "--on-error", "ignore"], "'ignore' is not one of 'raise', 'skip'"),
        (["inspect", "resnte18"], "torchvision:resnet18"),
        (["inspect", "yolov8n"], "`layergroups models '*'` lists names"),
        (["inspect", "./absent"], "not the folder of a model"),
        (["inspect", "timm:test_resnet", "--split", "layrwise"], "'layerwise'"),
        (["inspect", "timm:test_resnet", "--out", "net.gif"], ".png, .svg"),
        (["predict", "no/such/model", "photo.jpg"], "There is no folder"),
    ],
)
def test_faults_of_the_user_are_one_line(run: Run, words: list[str], expected: str) -> None:
    line = run(*words).only_error_line
    assert line.startswith("layergroups: ")
    assert expected in line


def test_every_name_that_models_lists_is_a_network(run: Run) -> None:
    names = run("models", "test_resn").out.split()
    assert names
    assert all(run("inspect", name, "--json").code == 0 for name in names)
    assert "timm:test_resnet" in json.loads(run("models", "*test_*", "--json").out)


def test_errors_name_options_not_arguments_of_python(run: Run, model: Path) -> None:
    answer = run("predict", model, "absent.jpg")
    assert answer.code == 2
    assert "absent.jpg: the file does not exist" in answer.err
    assert "--on-error skip" in answer.err
    assert "on_error=" not in answer.err


def test_faults_of_ours_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(predict, "run", broken)
    with pytest.raises(ZeroDivisionError, match="ours"):
        main(["predict", "model", "photo.jpg"])


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_fault() -> None:
    command = [sys.executable, "-m", "layergroups", "inspect", "--json", "timm:test_resnet"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()


@pytest.mark.parametrize(
    ("shell", "words"),
    [
        ("{command} --version >&-", "standard output is closed"),
        ("{command} --version > /dev/full", "No space left"),
        ("{command} inspect timm:test_resnet --json > /dev/full", "No space left"),
        ("{python} '{leave}; main(sys.argv[1:])' inspect resnet18; exit 2", "deleted"),
    ],
)
def test_surroundings_that_are_broken_are_one_line(tmp_path: Path, shell: str, words: str) -> None:
    gone = tmp_path / "gone"
    leave = "import os, sys; from layergroups.cli import main; "
    leave += f'os.mkdir("{gone}"); os.chdir("{gone}"); os.rmdir("{gone}")'
    python = f"{sys.executable} -c"
    line = shell.format(command=f"{sys.executable} -m layergroups", python=python, leave=leave)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
