"""The types of the public interface: a user's program passes strict type checkers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = ROOT / "tests/user_program.py"
WRONG = (  # each of these lines is an error
    'learn.fine_tune("three")',
    "learn.no_such_method()",
    "learn.validate()['valid_loss'].upper()",
    'ImageDataLoaders.from_folder("photos", sise=160)',
    'vision_learner(ImageDataLoaders.from_folder("photos"), "resnet18", mixed_precision=16)',
    'vision_learner(ImageDataLoaders.from_folder("photos"), "resnet18", weigt_decay=0.1)',
    'learn.predict("a.jpg").labels',
)


def mypy(file: Path) -> str:
    # With the settings of `make types`, whose cache it uses; they are strict.
    words = ["--config-file", ROOT / "pyproject.toml", file]
    return subprocess.run(
        [sys.executable, "-m", "mypy", *words], capture_output=True, text=True, cwd=ROOT
    ).stdout


def pyright(file: Path) -> str:
    settings = {"extraPaths": [str(ROOT / "src")], "typeCheckingMode": "strict"}
    (file.parent / "pyrightconfig.json").write_text(json.dumps(settings))
    words = ["--project", file.parent, "--pythonpath", sys.executable]
    done = subprocess.run([sys.executable, "-m", "pyright", *words], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        pytest.skip(f"pyright cannot run here; it needs node: {done.stderr.strip()[-200:]}")
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("checker", [mypy, pyright])
def test_a_users_program_is_typed_and_mistakes_in_it_are_found(checker, tmp_path: Path) -> None:
    text = PROGRAM.read_text(encoding="utf-8") + "\n\ndef wrong(learn: Learner) -> None:\n"
    expected = set(range(text.count("\n") + 1, text.count("\n") + 1 + len(WRONG)))
    file = tmp_path / "program.py"
    file.write_text(text + "".join(f"    {line}\n" for line in WRONG))
    found = checker(file)
    lines = {int(n) for n in re.findall(r"program\.py:(\d+)[:\d]* (?:- )?error", found)}
    assert lines == expected, found
