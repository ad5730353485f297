"""The record of a run is made of a learner, which is left as it was."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.reports.looked_at import says
from tests.reports.runs import tiny_run
from tests.training.tiny import TinyLoaders, moved, snapshot, tiny_model

from layergroups import ImageDataLoaders
from layergroups.reports import Interpretation, record_run
from layergroups.reports.run._collect import (
    command_line,
    outcome_of,
    versions,
)
from layergroups.reports.run._narrative import figures_in_words, summary
from layergroups.training import Learner, vision_learner


def test_it_tells_history_groups_result_and_versions() -> None:
    record = tiny_run()
    assert [row.phase for row in record.epochs] == ["head", "all", "all", "fit", "fit", "fit"]
    assert [group.name for group in record.network.groups] == ["0.0", "0.7", "1"]
    outcome = record.outcome
    assert outcome.items == sum(cell.count for cell in outcome.cells) == 18
    right = sum(cell.count for cell in outcome.cells if cell.actual == cell.predicted)
    assert outcome.figures["accuracy"] == pytest.approx(right / 18)
    assert record.setup.versions["torch"] == torch.__version__.partition("+")[0]
    assert record.setup.command == "layergroups train 'my photos'"
    assert record.setup.machine["device"] == "cpu"


def test_each_cell_has_its_own_photos() -> None:
    outcome = tiny_run().outcome
    for cell in outcome.cells:
        photos = [outcome.shown[i] for i in cell.shown]
        assert len(photos) == cell.count
        assert {photo.actual for photo in photos} == {outcome.classes[cell.actual]}
        assert {photo.predicted for photo in photos} == {outcome.classes[cell.predicted]}
        assert all(photo.thumb.startswith("data:image/jpeg;base64,") for photo in photos)


def test_the_highest_losses_come_first_with_their_heat() -> None:
    worst = tiny_run().outcome.worst
    losses = [photo.loss for photo in worst]
    assert losses == sorted(losses, reverse=True)
    assert len(worst) == 9
    assert all(photo.thumb and photo.heat and photo.thumb != photo.heat for photo in worst)


def test_recording_changes_nothing() -> None:
    learn = Learner(TinyLoaders(n=32), tiny_model(), split=["0", "1"], progress=False)
    learn.fit(1)
    before, state, rows = snapshot(learn.model), torch.get_rng_state(), len(learn.history)
    record_run(learn)
    assert not moved(before, learn.model)
    assert torch.equal(state, torch.get_rng_state())
    assert len(learn.history) == rows
    assert all(p.grad is None for p in learn.model.parameters())


def test_pictures_stay_within_their_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    learn = Learner(TinyLoaders(n=32), tiny_model(), split=["0", "1"], progress=False)
    interp = Interpretation.from_learner(learn)
    monkeypatch.setattr("layergroups.reports.run._collect._THUMB_BYTES", 5000)
    outcome = outcome_of(interp)
    assert 0 < sum(len(photo.thumb) for photo in outcome.shown) <= 5000
    assert all(i < len(outcome.shown) for cell in outcome.cells for i in cell.shown)
    assert outcome_of(interp, pictures=False).shown == ()


def test_photos_are_named_below_their_folder(tmp_path: Path) -> None:
    for name, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("RGB", (40, 40), colour).save(tmp_path / "pets" / name / f"{i}.png")
    dls = ImageDataLoaders.from_folder(tmp_path / "pets", size=32, batch_size=4)
    learn = vision_learner(dls, "timm:test_resnet", pretrained=False, progress=False)
    record = record_run(learn)
    assert record.title == "test_resnet on pets"
    assert record.data.counts == (("blue", 5, 1), ("red", 5, 1))
    assert {photo.path.split("/")[0] for photo in record.outcome.shown} <= {"red", "blue"}
    assert record.data.facts["images"].startswith("32 × 32")
    varied = record.data.facts["augmentation"]
    assert varied.startswith("scale 0.5 to 1, ratio 0.75 to 1.33, flip 0.5, ")
    assert "None" not in varied


def test_photos_that_lie_flat_are_named_for_their_folder(tmp_path: Path) -> None:
    (tmp_path / "flat pets").mkdir()
    for i in range(12):
        name = f"{'cat' if i % 2 else 'dog'}_{i}.png"
        Image.new("RGB", (40, 40), (20 * i, 0, 0)).save(tmp_path / "flat pets" / name)
    dls = ImageDataLoaders.from_pattern(
        tmp_path / "flat pets", r"(?P<label>cat|dog)_", size=32, batch_size=4
    )
    learn = vision_learner(dls, "timm:test_resnet", pretrained=False, progress=False)
    record = record_run(learn)
    assert record.title == "test_resnet on flat pets"
    assert record.data.facts["folder"] == str(tmp_path / "flat pets")
    assert {photo.path[:4] for photo in record.outcome.worst} <= {"cat_", "dog_"}


def test_the_calibration_error_is_that_of_the_interpretation() -> None:
    targets = torch.arange(40) % 3
    outputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    for learn in (
        says(3 * outputs, targets, "abc"),
        says(3 * outputs, torch.eye(3)[targets], "abc", task="multilabel", loss="bce"),
    ):
        interp = Interpretation.from_learner(learn)
        outcome = outcome_of(interp, pictures=False)
        found = interp.calibration()
        assert outcome.calibration == found
        told = figures_in_words(outcome)["expected calibration error"]
        assert told == f"{100 * found.error:.1f} %"


def test_the_seed_of_the_data_and_that_of_the_learner_are_told_apart() -> None:
    def told(seed: int | None) -> dict[str, str]:
        data = TinyLoaders(n=16)
        data.seed = 42
        learn = Learner(data, tiny_model(), seed=seed, progress=False)
        return record_run(learn, measured=False).setup.settings

    assert told(5)["seed of the data"].startswith("42: ")
    assert told(5)["seed of the learner"].startswith("5: ")
    assert told(0)["seed of the learner"].startswith("0: ")
    assert told(None)["seed of the learner"].startswith("none: ")


def test_a_learner_without_photos_is_told_without_a_result(tmp_path: Path) -> None:
    class NoValidation(TinyLoaders):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.valid = []

    record = record_run(Learner(NoValidation(n=16), tiny_model(), progress=False))
    assert record.outcome is None
    assert "not evaluated" in summary(record)


def test_commands_are_told_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["train.py", "--api-key", "abc", "--wandb_token=xyz", "two words"]
    assert command_line(words) == "train.py --api-key '***' '--wandb_token=***' 'two words'"
    monkeypatch.setattr(sys, "argv", ["/x/ipykernel_launcher.py", "-f", "y"])
    assert command_line() == "a notebook"
    monkeypatch.setattr(sys, "argv", ["/x/layergroups/__main__.py", "train"])
    assert command_line() == "python -m layergroups train"
    monkeypatch.setattr(sys, "argv", ["work/train.py", "--lr", "0.1"])
    assert command_line() == "python work/train.py --lr 0.1"
    assert {"Python", "layergroups", "torch", "torchvision", "timm"} <= set(versions())


def test_broken_files_and_copies_are_told(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (40 + i, 40), (50 * i, 0, 0)).save(tmp_path / f"pets/{name}/{i}.png")
    (tmp_path / "pets" / "a" / "<b>.jpg").write_bytes(b"no image")
    dls = ImageDataLoaders.from_folder(
        tmp_path / "pets", size=32, batch_size=4, on_error="skip", cache=False
    )
    facts = dls.facts()
    ((path, reason),) = facts.broken
    assert path.endswith("<b>.jpg")
    assert "not an image" in reason
    assert facts.facts["file types"].startswith("8 ")
    assert facts.facts["duplicate files"] == "4"
    assert "image sizes" not in dls.facts(read_files=False).facts
    assert dls.facts(read_files=False).broken == facts.broken
