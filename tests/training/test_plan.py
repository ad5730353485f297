"""What `fine_tune` decides, as data: in the history, in run.json, and repeated."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.training.test_held_out import FIGURES, learner
from tests.training.tiny import moved, snapshot
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from layergroups.errors import TrainingError
from layergroups.reports import RunRecord, record_run
from layergroups.training import EarlyStopping, FineTunePlan, Learner, OneCycle
from layergroups.training.recipes._fine_tune import new_plan

ROOT = Path(__file__).parents[2]


def digest(learn: Any) -> str:
    """A checksum of all weights and buffers."""
    state = learn.model.state_dict()
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in state.values())).hexdigest()


def test_the_plan_says_what_was_decided() -> None:
    learn = learner()
    assert learn.plan is None
    rows = learn.fine_tune(3, 1e-2, defaults=FIGURES)
    plan = learn.plan
    assert [row.plan is not None for row in rows] == [True, False, False, True]
    assert (plan.epochs, plan.freeze_epochs, plan.figures.base_lr) == (3, 1, 1e-2)
    assert plan.rates == learn.layer_groups.rates
    assert (plan.batch_size, plan.steps) == (16, 2 * 5 + 6)
    # Batches of 32, two views: 3 passes of 5 steps without the held-out items, and one of 6.
    assert (plan.head_steps, plan.head_views) == (15 + 6, 2)
    assert (plan.held_out, plan.all_items, set(plan.errors)) == (
        18, True, {"0", "0.25", "0.5", "0.75", "1"},
    )  # fmt: skip
    assert plan.interpolation in (0.0, 0.25, 0.5, 0.75, 1.0)
    assert set(plan.reasons) >= {"epochs", "batch_size", "interpolation"}
    assert plan.head == "BatchNorm1d, Linear"
    for shown in ("batch size", "held-out items", "why", plan.reasons["interpolation"]):
        assert shown in " ".join(str(plan).split())


def test_a_plan_with_earlier_names_of_fields_loads() -> None:
    learn = learner()
    learn.fine_tune(1, defaults=FIGURES)
    values = json.loads(json.dumps(learn.plan.to_dict()))
    values["part"] = values.pop("interpolation")
    values["figures"]["usual_part"] = values["figures"].pop("usual_interpolation")
    for new in ("losses", "search"):
        del values[new]
    assert FineTunePlan.from_dict(values) == replace(learn.plan, losses={})


def test_a_plan_is_data() -> None:
    learn = learner()
    learn.fine_tune(1, defaults=replace(FIGURES, schedule=OneCycle(div=10)))
    again = FineTunePlan.from_dict(json.loads(json.dumps(learn.plan.to_dict())))
    assert again == learn.plan
    assert again.figures.schedule == OneCycle(div=10)
    assert replace(again, epochs=2) != again


@pytest.mark.parametrize("harm", [False, True])
def test_a_plan_is_repeated_to_the_bit(harm: bool) -> None:
    one, two = learner(n=150), learner(n=150)
    figures = replace(FIGURES, head_steps=200 if harm else 12)
    rows = one.fine_tune(2, 1e-2, lr=30.0 if harm else None, defaults=figures)
    again = two.fine_tune(plan=one.plan)
    assert (one.plan.interpolation == 0.0) is harm
    assert not moved(snapshot(one.model), two.model)
    assert [row.metrics for row in again] == [row.metrics for row in rows]
    assert two.plan.reasons["interpolation"] == "by the plan"
    changed = replace(one.plan, interpolation=0.5, batch_size=32)
    three = learner(n=150)
    three.fine_tune(plan=changed)
    assert (three.plan.interpolation, three.plan.batch_size) == (0.5, 32)
    assert moved(snapshot(one.model), three.model)


def test_a_plan_of_one_phase_is_repeated() -> None:
    for options in ({"epochs": 0}, {"epochs": 2, "freeze_epochs": 0}):
        one, two = learner(), learner()
        one.fine_tune(defaults=FIGURES, **options)
        two.fine_tune(plan=one.plan)
        assert not moved(snapshot(one.model), two.model)


@pytest.mark.slow  # starts a process
def test_a_plan_from_run_json_works_in_another_process(tmp_path: Path) -> None:
    learn = learner()
    learn.fine_tune(2, defaults=FIGURES)
    record_run(learn, pictures=False).save(tmp_path / "run.json")
    assert FineTunePlan.from_dict(RunRecord.load(tmp_path).plan) == learn.plan
    script = (
        "from tests.training.test_plan import *; learn = learner();"
        f"learn.fine_tune(plan=RunRecord.load({str(tmp_path)!r}).plan); print(digest(learn))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [digest(learn)]


def test_a_plan_goes_alone_and_must_fit() -> None:
    learn = learner()
    learn.fine_tune(1, defaults=FIGURES)
    plan = learn.plan
    for options in ({"epochs": 2}, {"lr": 1e-3}, {"base_lr": 1e-3}, {"freeze_epochs": 2}):
        with pytest.raises(TrainingError, match="alone"):
            learn.fine_tune(plan=plan, **options)
    with pytest.raises(TrainingError, match="3 layer groups"):
        learner(split=["1"]).fine_tune(plan=plan)
    for wrong in (3, {}, {"epochs": 1, "figures": {}}):
        with pytest.raises(TrainingError, match="plan"):
            learn.fine_tune(plan=wrong)
    learner(split=["1"]).fine_tune(plan=replace(plan, rates=()))


def test_other_settings_of_the_learner_are_reported(caplog: Any) -> None:
    learn = learner()
    learn.fine_tune(1, defaults=FIGURES)
    caplog.clear()
    learner(weight_decay=0.5).fine_tune(plan=learn.plan)
    assert "weight_decay 0.01; here it is 0.5" in caplog.text


def test_a_plan_survives_an_interruption(tmp_path: Path) -> None:
    class Breaks:
        def before_epoch(self, run: Any) -> None:
            if run.phase == "all" and run.epoch == 1:
                raise RuntimeError("broken")

    whole, broken, again = learner(), learner(), learner()
    whole.fine_tune(2, defaults=FIGURES, checkpoint_dir=tmp_path / "whole")
    saved: dict[str, Any] = {"defaults": FIGURES, "checkpoint_dir": tmp_path / "broken"}
    with pytest.raises(TrainingError, match="broken"):
        broken.fine_tune(2, callbacks=[Breaks()], **saved)
    again.fine_tune(2, resume=True, **saved)
    assert again.plan == whole.plan
    assert again.plan.head_steps == 15 + 6
    done = learner()
    done.fine_tune(2, resume=True, **saved)
    assert done.plan == whole.plan


def test_a_phase_that_a_callback_stops_has_its_plan() -> None:
    learn = learner()
    stops = EarlyStopping(monitor="accuracy", patience=1, min_delta=2.0)
    learn.callbacks.append(stops)
    learn.fine_tune(6, defaults=FIGURES)
    assert learn.plan.errors
    assert not learn.plan.all_items


def test_the_page_shows_the_decisions() -> None:
    learn = learner()
    learn.fine_tune(1, defaults=FIGURES)
    page = learn.report(images=False)._repr_html_()
    assert "Decisions of fine_tune" in page
    assert "steps of the head" in page


def test_the_length_is_chosen_by_the_number_of_items(caplog: Any) -> None:
    learn = learner()
    learn.fine_tune(defaults=FIGURES)
    assert learn.plan.epochs == len(learn.history) - 1 > 3
    assert "96 training items" in learn.plan.reasons["epochs"]
    assert "96 training items" in caplog.text


def test_a_length_cannot_be_chosen_for_batches_without_one() -> None:
    class Endless(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(())

    loaders = SimpleNamespace(train=DataLoader(Endless()), valid=None)
    learn = Learner(loaders, nn.Linear(2, 2), loss_func=nn.MSELoss(), progress=False)
    with pytest.raises(TrainingError, match=r"no len\(\)"):
        learn.fine_tune()


@pytest.mark.parametrize(("deep", "ratio"), [(False, 0.05), (True, 0.15)])
def test_a_head_of_several_layers_gets_a_larger_rate(deep: bool, ratio: float) -> None:
    learn = learner()
    if deep:
        learn.model[-1] = nn.Sequential(learn.model[-1], nn.ReLU(), nn.Linear(3, 3))
    plan = new_plan(learn, 1, base_lr=None, freeze_epochs=1, lr=None, defaults=None)
    assert plan.figures.unfrozen_ratio == ratio
    assert ("unfrozen_ratio" in plan.reasons) == deep


def test_without_pretrained_weights_the_end_is_nearer_to_the_last_ones() -> None:
    learn = learner()
    parts = []
    for learn.pretrained in (True, False):
        plan = new_plan(learn, 1, base_lr=None, freeze_epochs=1, lr=None, defaults=None)
        parts.append(plan.figures.usual_interpolation)
    assert parts[0] < parts[1]


def test_a_schedule_of_ones_own_is_kept_in_the_plan() -> None:
    class Linear:
        def multiplier(self, t: float) -> float:
            return 1 - t

        def momentum(self, t: float) -> float | None:
            return None

    learn, schedule = learner(), Linear()
    learn.fine_tune(2, defaults=replace(FIGURES, schedule=schedule))
    assert learn.plan.figures.schedule is schedule
    assert set(learn.plan.losses) == set(learn.plan.errors) != set()
