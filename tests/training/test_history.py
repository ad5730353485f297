from __future__ import annotations

import csv
import io
import json

import pytest
import torch
from rich.console import Console
from tests.training.tiny import TinyLoaders, tiny_model

from layergroups.training import EpochRow, Flat, History, Learner, OneCycle
from layergroups.training.state._history import lr_profile, memory_used


def row(epoch: int, **fields) -> EpochRow:
    values = {
        "epoch": epoch,
        "phase": "one cycle",
        "train_loss": 0.5,
        "valid_loss": 0.25,
        "metrics": {"accuracy": 0.75},
        "seconds": 61.4,
        "lrs": (1e-5, 1e-3),
        "frozen": (True, False),
    }
    return EpochRow(**(values | fields))


HISTORY = History((row(0), row(1, valid_loss=None, metrics={}, note="interrupted")))


def test_a_history_prints_as_a_table() -> None:
    lines = str(HISTORY).splitlines()
    assert lines[0].split() == [
        "epoch", "phase", "train_loss", "valid_loss", "accuracy", "rates", "frozen", "time",
    ]  # fmt: skip
    assert "0.7500" in lines[1]
    assert "1e-5..1e-3" in lines[1]
    assert "1 of 2" in lines[1]
    assert "1 min 01 s" in lines[1]
    assert "0.7500" not in lines[2]


def test_rich_shows_it_too() -> None:
    console = Console(file=io.StringIO(), width=120)
    console.print(HISTORY)
    assert "valid_loss" in console.file.getvalue()


def test_json_and_back(tmp_path) -> None:
    text = HISTORY.to_json(tmp_path / "h.json")
    assert json.loads((tmp_path / "h.json").read_text()) == json.loads(text)
    assert History.from_dict(json.loads(text)) == HISTORY


def test_csv_has_a_column_for_each_metric(tmp_path) -> None:
    text = HISTORY.to_csv(tmp_path / "h.csv")
    assert (tmp_path / "h.csv").read_text() == text
    first, second = csv.DictReader(io.StringIO(text))
    assert first["accuracy"] == "0.75"
    assert first["lrs"] == "1e-05 0.001"
    assert first["frozen"] == "1 0"
    assert second["accuracy"] == ""


def test_it_is_a_sequence_that_adds_up() -> None:
    assert len(HISTORY) == 2
    assert HISTORY[0].epoch == 0
    assert HISTORY[1:] == History((HISTORY[1],))
    assert History() + HISTORY == HISTORY
    assert not History()
    assert str(History()).split()[0] == "epoch"


def test_rows_cannot_be_changed() -> None:
    assert row(1) == row(1) != row(2)
    assert EpochRow.__dataclass_params__.frozen


def learner(**options) -> Learner:
    made = {"split": ["0.0", "0.7", "1"], "progress": False, "lr": [1e-4, 1e-3, 1e-2], **options}
    return Learner(TinyLoaders(n=64), tiny_model(), **made)


def test_memory_is_told_in_bytes() -> None:
    (name,), (most,) = zip(*memory_used(torch.device("cpu")).items(), strict=True)
    assert name == "memory"
    assert 10 << 20 < most < 1 << 40


def test_each_row_tells_its_memory_and_how_the_rates_went() -> None:
    learn = learner()
    rows = learn.fit_one_cycle(2, div=10, pct_start=0.5)
    assert all(row.resources["memory"] > 0 and "passes" not in row.resources for row in rows)
    # 8 steps each: up from a tenth in the first epoch, down to nearly nothing in the second
    assert rows[0].lr_profile[0] < 0.15
    assert rows[0].lr_profile[-1] == 1.0
    assert list(rows[0].lr_profile) == sorted(rows[0].lr_profile)
    assert rows[1].lr_profile[0] == 1.0
    assert rows[1].lr_profile[-1] < 0.1
    assert [len(row.lr_profile) for row in rows] == [8, 8]


def test_the_course_times_the_highest_rates_is_what_the_optimizer_had() -> None:
    seen = []

    class Rates:
        def after_step(self, run) -> None:
            seen.append([group["lr"] for group in run.optimizer.param_groups])

    learn = learner(callbacks=[Rates()])
    (row,) = learn.fit_one_cycle(1, div=4)
    first = [rates[0] for rates in seen]
    assert [part * row.lrs[0] for part in row.lr_profile] == pytest.approx(first, rel=1e-4)


def test_a_long_epoch_has_sixteen_points_and_meets_its_ends() -> None:
    parts = lr_profile(OneCycle(div=5, pct_start=0.25), 0, 1000, 1000)
    assert len(parts) == 16
    assert parts[0] == pytest.approx(0.2, abs=1e-4)
    assert parts[-1] < 1e-4
    assert max(parts) > 0.98
    assert lr_profile(Flat(), 10, 13, 100) == (1.0, 1.0, 1.0)
    assert lr_profile(Flat(), 3, 3, 100) == ()


def test_rows_of_a_store_tell_what_it_saved() -> None:
    learn = learner()
    learn.freeze()
    rows = learn.fit(5)
    stored = [row.resources for row in rows if row.note]
    assert [(c["passes"], c["body_passes"]) for c in stored] == [(1, 1), (1, 1)] + [(1, 0)] * 3
    assert stored[0]["store_seconds"] > 0
    assert stored[3]["store_seconds"] == 0
    learn.unfreeze()
    assert "passes" not in learn.fit(1)[0].resources


def test_the_head_phase_counts_every_view_as_a_pass() -> None:
    learn = learner(split=["0", "1"], lr=1e-3)
    row = learn.fine_tune(0)[0]
    assert row.resources["body_passes"] == 2
    assert row.resources["passes"] == pytest.approx(round(row.resources["passes"]))
    assert row.resources["passes"] >= 2 * 5


def test_rows_of_older_checkpoints_are_read() -> None:
    old = {"epoch": 0, "phase": "fit", "train_loss": 0.5, "valid_loss": 0.4, "seconds": 1.0,
           "metrics": {}, "lrs": [0.1], "frozen": [False], "note": ""}  # fmt: skip
    row = History.from_dict([old])[0]
    assert (row.lr_profile, row.resources) == ((), {})
    assert History.from_dict([row.to_dict()])[0] == row
