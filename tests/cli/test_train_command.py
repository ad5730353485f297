"""`layergroups train`: what it writes and says, what it refuses, and Ctrl-C."""

from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.cli.conftest import TINY, Run, make_photos

from layergroups import load_learner
from layergroups.cli._run_config import RunConfig
from layergroups.reports import RunRecord
from layergroups.training.recipes._search import _Bench


def test_it_writes_model_history_and_picture(model: Path) -> None:
    names = {path.name for path in model.iterdir()}
    written = {"learner.json", "model.safetensors", "history.csv", "confusion_matrix.png"}
    assert names - {"run.html"} == {*written, "run.json", "run.yaml"}
    with (model / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["phase"] for row in rows] == ["head", "all"]
    assert all(0 <= float(row["accuracy"]) <= 1 for row in rows)
    with Image.open(model / "confusion_matrix.png") as picture:
        assert min(picture.size) > 300


def test_stdout_has_the_figures_and_stderr_the_rest(run: Run, photos: Path, tmp_path: Path) -> None:
    answer = run("train", photos, *TINY, "--epochs", 1, "--out", tmp_path / "m")
    assert answer.code == 0
    figures = dict(line.split(maxsplit=1) for line in answer.out.splitlines())
    assert list(figures) == ["accuracy", "loss", "items", "model", "history", "confusion"]
    assert "valid_loss" in answer.err
    assert f"layergroups predict {tmp_path / 'm'} image.jpg" in answer.err


def test_log_lines_give_options_and_no_arguments_of_python(
    run: Run, photos: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert run("train", photos, *TINY, "--epochs", 1, "--out", tmp_path / "m").code == 0
    assert "--train-all-layers --epochs 10" in " ".join(caplog.messages)
    assert run("train", "--from", model, "--epochs", 1, "--out", tmp_path / "more").code == 0
    lines = " ".join(caplog.messages)
    assert lines.count("without pretrained weights") == 1  # a finished run has trained ones
    assert not [word for word in ("learn.", "batch_norm=", "fine_tune") if word in lines]


def test_json_is_all_that_stands_on_stdout(run: Run, photos: Path, tmp_path: Path) -> None:
    words = ["--epochs", 0, "--seed", 1, "--augment", "document", "--json", "--out", tmp_path / "m"]
    answer = run("train", photos, *TINY, *words)
    found = json.loads(answer.out)
    assert "flip=0.0" in RunRecord.load(tmp_path / "m").plan["augment"]
    assert found["classes"] == ["blue", "green", "red"]
    assert found["items"] == sum(map(sum, found["matrix"])) == 6
    assert len(load_learner(tmp_path / "m").layer_groups) == 3


def test_the_split_is_asked_for_in_words(run: Run, photos: Path, tmp_path: Path) -> None:
    words = ["--epochs", 0, "--split", "4", "--out", tmp_path / "m"]
    assert "body-1, body-2, body-3, head" in run("train", photos, *TINY, *words).err
    assert len(load_learner(tmp_path / "m").layer_groups) == 4


def test_a_training_goes_on_from_its_checkpoints(
    run: Run, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ["--epochs", 1, "--checkpoint-dir", tmp_path / "saved", "--out"]
    assert run("train", photos, *TINY, *words, tmp_path / "one").code == 0
    again = run("train", photos, *TINY, *words, tmp_path / "two")
    assert "give --resume" in again.err
    assert run("train", photos, *TINY, *words, tmp_path / "two", "--resume").code == 0
    assert "Fit 1 was done before" in caplog.text
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())


def test_a_search_needs_more_images_and_the_usual_head_phase(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    words = ["train", photos, *TINY, "--search", 4, "--out", tmp_path / "m"]
    assert "too few" in run(*words).err
    assert "--freeze-epochs 1" in run(*words, "--freeze-epochs", 2).err


def test_ctrl_c_during_a_search_shows_what_it_found(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add = _Bench._add

    def interrupted(self: _Bench, *args: Any) -> None:
        add(self, *args)
        if len(self.trials) == 3:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(_Bench, "_add", interrupted)
    photos = make_photos(tmp_path / "many", each=60)
    answer = run("train", photos, *TINY, "--search", 90, "--split", 2, "--out", tmp_path / "m")
    assert (answer.code, answer.out) == (130, "")
    assert answer.err.count("head, 1/16") >= 3
    assert sum("search" in line for line in caplog.messages) == 3  # heads only, 24 of them, ended
    assert "learn." not in " ".join(caplog.messages)
    assert not (tmp_path / "m").exists()


def test_all_layers_train_at_the_rate_that_was_asked_for(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    words = ["--train-all-layers", "--optimizer", "sgd", "--weight-decay", 0.1, "--balance"]
    words += ["--metrics", "f1, accuracy", "--device", "cpu", "--epochs", 1, "--lr", 0.5]
    answer = run("train", photos, *TINY, *words, "--out", tmp_path / "m")
    assert answer.code == 0
    record = RunRecord.load(tmp_path / "m")
    shown = dict(line.split(maxsplit=1) for line in answer.out.splitlines())
    assert float(shown["f1"]) == pytest.approx(record.epochs[-1].metrics["f1"], abs=1e-3)
    assert [(row.phase, row.frozen) for row in record.epochs] == [("one cycle", (False,) * 3)]
    assert max(record.epochs[0].lrs) > 0.4
    assert list(record.epochs[0].metrics) == ["f1", "accuracy"]
    assert "SGD" in (tmp_path / "m/run.json").read_text(encoding="utf-8").upper()
    written = RunConfig.load(tmp_path / "m/run.yaml")
    assert (written.optimizer, written.weight_decay, written.balance) == ("sgd", 0.1, True)


def test_the_best_epoch_is_kept_and_a_fit_ends_early(
    run: Run, photos: Path, tmp_path: Path, caplog
) -> None:
    words = ["--train-all-layers", "--lr", 3, "--optimizer", "sgd", "--epochs", 9, "--json"]
    words += ["--keep-best", "valid_loss", "--patience", 2, "--out", tmp_path / "m"]
    answer = run("train", photos, *TINY, *words)
    losses = [row.valid_loss for row in RunRecord.load(tmp_path / "m").epochs]
    assert losses.index(min(losses)) == len(losses) - 3 < 6
    assert json.loads(answer.out)["loss"] == pytest.approx(min(losses), rel=1e-4)
    assert f"in epoch {len(losses) - 3}; the model has its weights" in caplog.text


def test_the_best_epoch_of_both_phases_is_kept_by_a_resumed_run(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    words = ["--lr", 1, "--epochs", 2, "--keep-best", "valid_loss"]
    words += ["--checkpoint-dir", tmp_path / "c", "--resume", "--json", "--out", tmp_path / "m"]
    once = json.loads(run("train", photos, *TINY, *words).out)
    losses = [row.valid_loss for row in RunRecord.load(tmp_path / "m").epochs]
    assert losses.index(min(losses)) == 0
    assert once["loss"] == pytest.approx(losses[0], rel=1e-4)
    for newest in (tmp_path / "c/fit-001").glob("*"):  # killed in the second phase
        newest.unlink()
    assert json.loads(run("train", photos, *TINY, *words).out)["loss"] == once["loss"]


def test_a_finished_run_trains_on_and_that_repeats(run: Run, model: Path, tmp_path: Path) -> None:
    words = ["train", "--from", model, "--epochs", 1, "--out"]
    assert run(*words, tmp_path / "more").code == 0
    before, after = RunRecord.load(model).epochs, RunRecord.load(tmp_path / "more").epochs
    assert after[: len(before)] == before
    assert [(row.epoch, row.phase) for row in after[len(before) :]] == [(2, "all")]
    assert run("reproduce", tmp_path / "more").code == 0
    assert "give another --out" in run(*words, model).only_error_line.lower()
    assert "--arch: --from" in run(*words, tmp_path / "m", "--arch", "resnet18").only_error_line


def test_other_classes_are_trained_on_by_name(
    run: Run, model: Path, photos: Path, tmp_path: Path
) -> None:
    fewer = shutil.copytree(photos, tmp_path / "photos", ignore=lambda *_: ["green"])
    words = ["--from", model, "--epochs", 1, "--lr", 1e-9, "--freeze-epochs", 0]
    answer = run("train", fewer, *words, "--out", tmp_path / "m")
    assert "classes by name: blue, red" in answer.err
    old, new = (load_learner(folder) for folder in (model, tmp_path / "m"))
    one, other = (list(learn.model[1].parameters())[-2] for learn in (old, new))
    assert torch.allclose(one[[0, 2]], other, atol=1e-6)  # the rate is near 0
    assert new.pretrained


def test_a_device_that_is_not_there_is_refused(run: Run, photos: Path, tmp_path: Path) -> None:
    for device in ("tpu", "meta"):
        words = ["train", photos, *TINY, "--device", device, "--out", tmp_path / "m"]
        assert f"--device {device}" in run(*words).only_error_line.split("pixels")[-1]


def test_resuming_needs_a_folder_to_go_on_from(run: Run, photos: Path, tmp_path: Path) -> None:
    line = run("train", photos, *TINY, "--resume", "--out", tmp_path / "m").only_error_line
    assert "--resume needs --checkpoint-dir" in line


def test_a_folder_with_other_things_is_left_alone(run: Run, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work", encoding="utf-8")
    line = run("train", photos, *TINY, "--out", tmp_path).only_error_line
    assert "other content (thesis.txt)" in line
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_earlier_model_is_replaced_and_that_is_said(
    run: Run, photos: Path, tmp_path: Path
) -> None:
    words = ["train", photos, *TINY, "--epochs", 0, "--out", tmp_path / "m"]
    run(*words)
    before = (tmp_path / "m/model.safetensors").read_bytes()
    answer = run(*words, "--seed", 7)
    assert "holds an earlier model" in answer.err
    assert (tmp_path / "m/model.safetensors").read_bytes() != before


def test_the_model_may_not_lie_among_the_photos(run: Run, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", each=1)
    line = run("train", photos, *TINY, "--out", photos / "model").only_error_line
    assert "count as a class" in line
    assert not (photos / "model").exists()


def test_after_a_fault_no_empty_folder_stays(run: Run, photos: Path, tmp_path: Path) -> None:
    line = run("train", photos, *TINY, "--arch", "resnet-18", "--out", tmp_path / "m")
    assert line.code == 2
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_ctrl_c_saves_what_was_learned(photos: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "layergroups", "train", str(photos), *TINY]
    process = subprocess.Popen(
        [*command, "--epochs", "100000", "--out", str(tmp_path / "m")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    rows = (line.split() for line in process.stderr)
    assert any(row[1:2] == ["all"] for row in rows)  # the second phase has begun
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert "Interrupted: the model after" in err.splitlines()[-1]
    assert {"learner.json", "history.csv"} <= {path.name for path in (tmp_path / "m").iterdir()}
    photo = next((photos / "red").iterdir())
    assert load_learner(tmp_path / "m").predict(photo).label in ("red", "green", "blue")


def test_a_misspelt_name_is_found_before_the_data_are_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/learner.json").touch()
    assert "resnet18" in run("train", tmp_path / "no", "--arch", "resnet81").only_error_line
    assert "nix.pth" in run("train", tmp_path / "no", "--weights", "nix.pth").only_error_line
    wrong = run("predict", tmp_path / "rums", "photo.jpg").only_error_line
    assert f"Did you mean {tmp_path / 'runs'}?" in wrong


def test_a_folder_without_a_model_cannot_be_trained_on(run: Run, photos: Path) -> None:
    answer = run("train", "--from", photos)
    assert answer.code == 2
    assert "learner.json" in answer.err
