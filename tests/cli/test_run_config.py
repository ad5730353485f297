"""`layergroups train --config run.yaml`: what it takes from the file, and what it refuses."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Run

from layergroups import FineTuneDefaults
from layergroups.cli._app import train
from layergroups.cli._run_config import RunConfig, read_settings
from layergroups.errors import ConfigError


def test_every_setting_is_an_option_of_train() -> None:
    options = set(inspect.signature(train).parameters)
    assert options - {f.name for f in dataclasses.fields(RunConfig)} == {
        "context", "config", "resume", "json"
    }  # fmt: skip


def test_the_default_rate_is_that_of_the_recipe() -> None:
    assert RunConfig.lr == FineTuneDefaults().base_lr


def test_options_override_the_file(run: Run, model: Path, tmp_path: Path) -> None:
    words = ["--config", model / "run.yaml", "--freeze-epochs", 0, "--split", 4]
    assert run("train", *words, "--out", tmp_path / "m").code == 0
    written = RunConfig.load(tmp_path / "m" / "run.yaml")
    assert (written.freeze_epochs, written.split) == (0, "4")
    assert written.arch == "timm:test_resnet"


def test_what_a_file_may_say_and_how_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("folder: 2024\nlr: 1e-3\nsplit: [layer2, layer4]\ntask:\nvalid_pct: 1\n")
    expected = {"folder": Path("2024"), "lr": 1e-3, "split": "layer2,layer4", "valid_pct": 1.0}
    assert read_settings(file) == expected


def test_all_that_a_run_may_be_set_to_is_written_and_read(tmp_path: Path) -> None:
    set_all: dict[str, Any] = {
        "folder": tmp_path / "a: 'b' #ü.csv", "weights": tmp_path / "w.pth", "split": "5",
        "label_col": "no", "label_delim": " ", "channels": 1, "workers": 0, "lr": 1e-05,
        "out": tmp_path / "\udcff", "pretrained": False,
    }  # fmt: skip
    config = RunConfig(**set_all)
    (tmp_path / "run.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert RunConfig.load(tmp_path / "run.yaml") == config


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch: 3", "Did you mean epochs?"),
        ("batch-size: 3", "Did you mean batch_size?"),
        ("epochs: many", "epochs: expected a whole number, not 'many'"),
        ("epochs: 2.5", "epochs: expected a whole number"),
        ("epochs: true", "epochs: expected a whole number"),
        ("lr: fast", "lr: expected a number"),
        ("pretrained: maybe", "pretrained: expected true or false"),
        ("arch: 1.5", "arch: expected text"),
        ("folder: {a: 1}", "folder: expected a path"),
        ("epochs: 1\nepochs: 2", "epochs is given twice"),
        ("epochs: [1", "not valid YAML"),
        ("just words", "a setting on each line"),
        ("", "a setting on each line"),
        ("? [a]\n: 1", "not valid YAML"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
        ("folder: x\nepochs: -1", "--epochs"),
        ("folder: x\non_error: ignore", "--on-error"),
        ("arch: resnet18", "FOLDER"),
    ],
)
def test_mistakes_in_the_file_are_one_line(
    run: Run, tmp_path: Path, text: str, expected: str
) -> None:
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert expected in run("train", "--config", tmp_path / "mine.yaml").only_error_line


def test_a_file_that_is_missing_is_named(run: Run, tmp_path: Path) -> None:
    line = run("train", "--config", tmp_path / "absent.yaml").only_error_line
    assert "absent.yaml" in line


def test_a_file_without_the_images_cannot_be_repeated(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({"epochs": 1}))
    with pytest.raises(ConfigError, match="folder"):
        RunConfig.load(tmp_path / "run.yaml")
