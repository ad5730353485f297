"""A fit that was cut off goes on from its last checkpoint."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.tasks.trained import model_for
from tests.training.failing import crash
from tests.training.tiny import LabelLoaders, moved, snapshot

from layergroups.errors import CheckpointError, TrainingError
from layergroups.tasks import CrossEntropy
from layergroups.training import FineTuneDefaults, MixUp


def test_a_run_that_is_cut_off_goes_on_bit_for_bit(make, tmp_path: Path) -> None:
    dls = LabelLoaders()
    whole = make(model_for(dls), dls=dls).fine_tune(2, 1e-2)

    class Crash:
        def after_epoch(self, run: Any) -> None:
            if run.phase == "all" and run.epoch == 0:
                raise RuntimeError("power cut")

    folder = tmp_path / "runs"
    broken = make(model_for(dls), dls=dls, callbacks=[Crash()])
    with pytest.raises(TrainingError, match="power cut"):
        broken.fine_tune(2, 1e-2, checkpoint_dir=folder)
    again = make(model_for(dls), dls=dls)
    rows = again.fine_tune(2, 1e-2, checkpoint_dir=folder, resume=True)
    assert [row.valid_loss for row in rows] == [row.valid_loss for row in whole]


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}


def fit(learn: Any, **saved: Any) -> None:
    learn.fit(1, 1e-2, **saved)


def fine_tune(learn: Any, **saved: Any) -> None:
    learn.fine_tune(1, 1e-2, **saved)


@pytest.mark.parametrize(("first", "second"), [(fit, fine_tune), (fine_tune, fit)])
@pytest.mark.parametrize("resume", [True, False])
def test_a_folder_of_a_different_run_is_refused_before_anything_trains(
    make, tmp_path: Path, first: Any, second: Any, resume: bool
) -> None:
    first(make(), checkpoint_dir=tmp_path)
    learn, before = make(), files(tmp_path)
    weights = snapshot(learn.model)
    with pytest.raises(TrainingError if not resume else CheckpointError, match="fit-000"):
        second(learn, checkpoint_dir=tmp_path, resume=resume)
    assert not moved(weights, learn.model)
    assert files(tmp_path) == before


@pytest.mark.parametrize("resume", [True, False])
def test_a_used_folder_of_a_later_phase_is_refused_before_the_head_trains(
    make, tmp_path: Path, resume: bool
) -> None:
    fine_tune(make(), checkpoint_dir=tmp_path)
    for path in (tmp_path / "fit-000-head").iterdir():
        path.unlink()
    learn, before = make(), files(tmp_path)
    weights = snapshot(learn.model)
    with pytest.raises((TrainingError, CheckpointError), match="fit-001"):
        fine_tune(learn, checkpoint_dir=tmp_path, resume=resume)
    assert not moved(weights, learn.model)
    assert files(tmp_path) == before


@pytest.mark.parametrize(
    "change",
    [
        {"base_lr": 2e-2},
        {"lr": slice(1e-5, 1e-3)},
        {"freeze_epochs": 2},
        {"defaults": FineTuneDefaults(lowest=1)},
        {"defaults": FineTuneDefaults(head_steps=3)},
        {"opt_func": "sgd"},
        {"weight_decay": 0.5},
        {"clip": 1.0},
    ],
)
def test_a_finished_run_is_not_the_run_with_other_settings(
    make, tmp_path: Path, change: dict[str, Any]
) -> None:
    saved: dict[str, Any] = {"checkpoint_dir": tmp_path, "resume": True}
    fine_tune(make(), **saved)
    of_fit = {"base_lr", "lr", "freeze_epochs", "defaults"} & change.keys()
    learn = make() if of_fit else make(**change)
    weights = snapshot(learn.model)
    with pytest.raises(CheckpointError, match="different fit"):
        learn.fine_tune(1, **{"base_lr": 1e-2, **saved, **(change if of_fit else {})})
    assert not moved(weights, learn.model)
    assert not learn.history


@pytest.mark.parametrize(
    ("first", "second"),
    [
        [{"opt_func": partial(torch.optim.SGD, momentum=m)} for m in (0.9, 0.1)],
        [{"opt_func": partial(torch.optim.AdamW, betas=(b, 0.99))} for b in (0.9, 0.8)],
        [{"loss_func": CrossEntropy(label_smoothing=s)} for s in (0.1, 0.3)],
        [{"mixed_precision": word} for word in ("no", "bf16")],
        [{"batch_norm": word} for word in ("keep", "update")],
    ],
)
def test_arguments_of_arguments_count_too(
    make, tmp_path: Path, first: dict[str, Any], second: dict[str, Any]
) -> None:
    saved: dict[str, Any] = {"checkpoint_dir": tmp_path, "resume": True}
    make(**first).fit(1, 1e-2, **saved)
    assert len(make(**first).fit(1, 1e-2, **saved)) == 1
    learn = make(**second)
    weights = snapshot(learn.model)
    with pytest.raises(CheckpointError, match="different fit"):
        learn.fit(1, 1e-2, **saved)
    assert not moved(weights, learn.model)


def test_other_callbacks_are_told(make, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved: dict[str, Any] = {"checkpoint_dir": tmp_path, "resume": True}
    crash(make(), 2, 2, 1e-2, callbacks=[MixUp()], **saved)
    caplog.clear()
    make().fit(2, 1e-2, **saved)
    told = [record for record in caplog.records if "MixUp" in record.getMessage()]
    assert len(told) == 1


def test_a_finished_fit_is_left_as_a_fit_leaves_it(make, tmp_path: Path) -> None:
    for _ in range(2):
        learn = make()
        learn.fit(1, 1e-2, checkpoint_dir=tmp_path, resume=True)
        assert not learn.model.training


def test_a_fit_does_not_resume_over_a_different_fit_before_it(make, tmp_path: Path) -> None:
    def run(seed: int) -> Any:
        torch.manual_seed(seed)
        learn = make(seed=None)
        learn.model[1][4].reset_parameters()
        learn.fit(1, 1e-2, checkpoint_dir=tmp_path, resume=True)
        return learn

    run(0).fit_one_cycle(2, 1e-2, checkpoint_dir=tmp_path, resume=True)
    run(5).fit_one_cycle(2, 1e-2, checkpoint_dir=tmp_path, resume=True)  # loads both
    for path in (tmp_path / "fit-000").iterdir():
        path.unlink()
    other = run(1)
    weights = snapshot(other.model)
    with pytest.raises(CheckpointError, match="different run"):
        other.fit_one_cycle(2, 1e-2, checkpoint_dir=tmp_path, resume=True)
    assert not moved(weights, other.model)


def test_a_callback_that_cannot_take_its_state_leaves_everything_unchanged(
    make, tmp_path: Path
) -> None:
    class Counts:
        def __init__(self, broken: bool = False) -> None:
            self.steps, self.broken = 0, broken

        def after_step(self, run: Any) -> None:
            self.steps += 1

        def state_dict(self) -> dict[str, int]:
            return {"steps": self.steps}

        def load_state_dict(self, state: dict[str, int]) -> None:
            self.steps = state["steps"]
            if self.broken and self.steps:
                raise ValueError("not mine")

    saved: dict[str, Any] = {"checkpoint_dir": tmp_path, "resume": True, "checkpoint_every": 2}
    crash(make(callbacks=[Counts()]), 4, 2, **saved)
    good, bad = Counts(), Counts(broken=True)
    learn = make(callbacks=[bad])
    weights, random, saves = snapshot(learn.model), torch.get_rng_state(), files(tmp_path)
    with pytest.raises(TrainingError, match="not mine"):
        learn.fit(2, **saved)
    assert bad.steps == 0
    assert not moved(weights, learn.model)
    assert torch.equal(random, torch.get_rng_state())
    assert files(tmp_path) == saves
    learn.callbacks = [good]
    learn.fit(2, **saved)
    assert good.steps == 12


@pytest.mark.parametrize("event", ["before_fit", "before_step"])
def test_a_resumed_fit_that_fails_at_once_keeps_its_checkpoints(
    make, tmp_path: Path, event: str
) -> None:
    saved: dict[str, Any] = {"checkpoint_dir": tmp_path, "resume": True, "checkpoint_every": 2}
    crash(make(), 4, 2, **saved)
    before = files(tmp_path)

    def fail(run: Any) -> None:
        raise RuntimeError("broken")

    with pytest.raises(TrainingError, match="broken"):
        make(callbacks=[SimpleNamespace(**{event: fail})]).fit(2, **saved)
    assert files(tmp_path) == before
