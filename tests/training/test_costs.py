"""What an epoch took beside time, as its row tells."""

from __future__ import annotations

import pytest
import torch
from tests.training.tiny import TinyLoaders, tiny_model

from layergroups.training import Flat, History, Learner, OneCycle
from layergroups.training.state._history import lr_profile, peak_device_memory, peak_memory


def learner(**options) -> Learner:
    made = {"split": ["0.0", "0.7", "1"], "progress": False, "lr": [1e-4, 1e-3, 1e-2], **options}
    return Learner(TinyLoaders(n=64), tiny_model(), **made)


def test_memory_is_told_in_bytes() -> None:
    assert 10 << 20 < peak_memory() < 1 << 40
    assert peak_device_memory(torch.device("cpu")) is None


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
