"""The demo of texts, with real weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.texts import minilm

from layergroups import load_learner
from layergroups.cli import main
from layergroups.demo._run_text import TEXTS


def test_the_texts_are_in_the_package() -> None:
    assert len(TEXTS.read_text(encoding="utf-8").splitlines()) == 321
    assert "CC BY 4.0" in (TEXTS.parent / "SOURCE.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_demo_fine_tunes_minilm(tmp_path: Path, capsys: Any) -> None:
    minilm()
    assert main(["demo", "text", "--out", str(tmp_path / "run"), "--epochs", "0"]) == 0
    assert "Accuracy" in capsys.readouterr().out
    assert main(["reproduce", str(tmp_path / "run")]) == 0
    again = load_learner(tmp_path / "run")
    asked = again.dls.table_dl(TEXTS, valid_col="split")
    assert again.validate(asked)["accuracy"] > 0.8
