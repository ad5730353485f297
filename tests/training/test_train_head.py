"""A head that trains on the stored outputs of a frozen body."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from tests.laws.models import TinyTransformer
from tests.training import distributed_script as script
from tests.training.tiny import (
    Counter,
    TinyBatches,
    TinyLoaders,
    moved,
    pretrained,
    snapshot,
    tiny_model,
)
from torch import nn

from layergroups.training import FineTuneDefaults, Learner
from layergroups.training.optim._schedules import FlatCos, OneCycle
from layergroups.training.recipes import _run_phases

QUICK = FineTuneDefaults(head_passes=4, head_steps=1, lowest=1)


def test_an_epoch_from_the_store_goes_over_every_view_of_every_photo() -> None:
    """Each of two passes takes the photos in other views; the rates fall over both."""
    seen: list[tuple[float, tuple[float, ...]]] = []

    class Watch:
        def after_step(self, run) -> None:
            if run.phase == "body":
                values = tuple(run.inputs[0].reshape(len(run.inputs[0]), -1).sum(1).tolist())
                seen.append((run.optimizer.param_groups[-1]["lr"], values))

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pretrained(tiny_model())
    learn = Learner(TinyLoaders(), model, split=["0.0", "0.7", "1"], progress=False, seed=0)
    learn.callbacks.append(Watch())
    learn.fine_tune(2, lr=1e-3, defaults=replace(QUICK, schedule=FlatCos(pct_start=0.0)))
    per_epoch = 2 * 6
    assert len(seen) == 2 * per_epoch
    for epoch in (seen[:per_epoch], seen[per_epoch:]):
        values = [value for _, batch in epoch for value in batch]
        assert len(set(values)) == len(values) == 2 * 48
    rates = [rate for rate, _ in seen]
    assert rates == sorted(rates, reverse=True)
    expected = [1e-3 * FlatCos(pct_start=0.0).multiplier(i / 24) for i in range(24)]
    assert rates == pytest.approx(expected)


def test_an_epoch_of_two_passes_that_loses_its_store_goes_on_with_the_photos(make, caplog) -> None:
    class Thaws:
        def before_step(self, run) -> None:
            if run.phase == "body" and run.step == 9:
                run.groups.unfreeze()

    rows = make(seed=0, callbacks=[Thaws()]).fine_tune(2, defaults=QUICK)
    assert "through the whole network" in caplog.text
    assert [row.note for row in rows[1:]] == ["", ""]
    assert [row.frozen[0] for row in rows] == [True, False, False]


def test_the_frozen_phase_moves_no_bit_of_the_body_and_validates_the_model(make) -> None:
    learn = make(metrics=["accuracy"])
    before = snapshot(learn.model)
    rows = learn.fine_tune(0, 1e-2, defaults=FineTuneDefaults(head_passes=20))
    changed = moved(before, learn.model)
    assert {"1.4.weight", "1.2.running_mean"} <= changed
    assert not {name for name in changed if name.startswith("0")}
    found = learn.validate()
    assert found["valid_loss"] == pytest.approx(rows[0].valid_loss, abs=1e-5)
    assert found["accuracy"] == rows[0].metrics["accuracy"] > 0.8


def counting() -> nn.Sequential:
    model = pretrained(tiny_model())
    model[0].insert(0, Counter())
    return model


def test_the_body_runs_once_for_each_view_and_once_for_validation(make, dls) -> None:
    learn = make(counting(), split=["0.1", "0.8", "1"])
    counter, probe = learn.model[0][0], 3 + 3 * 3  # to find the boundary, and what can be folded
    learn.fine_tune(0, defaults=QUICK)
    assert counter.items == 2 * 48 + 18 + probe
    counter.items, dls.augment = 0, None
    learn.fine_tune(0, freeze_epochs=3, defaults=QUICK)
    assert counter.items == 48 + 18 + probe


def test_without_the_store_it_trains_through_the_network(make) -> None:
    learn = make()
    rows = learn.fine_tune(1, freeze_epochs=2, feature_cache=False)
    assert [row.phase for row in rows] == ["head", "head", "all"]


def test_a_large_part_of_a_small_network_is_trained_on_cached_outputs(make) -> None:
    learn = make(split=["0.0", "0.7"])
    learn.fine_tune(0, defaults=QUICK)
    assert learn.plan.head_views == 2


def test_where_the_store_cannot_be_used_one_line_says_why(make, caplog, monkeypatch) -> None:
    monkeypatch.setattr(_run_phases, "_FEW", 0)
    learn = make(split=["0.0", "0.7"])
    caplog.clear()
    rows = learn.fine_tune(0, freeze_epochs=2)
    assert len(rows) == 2
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "the layers that train are 29% of the network, too much for many passes" in caplog.text


def test_features_that_take_too_much_memory_are_not_kept(make, caplog) -> None:
    rows = make().fine_tune(0, freeze_epochs=2, defaults=FineTuneDefaults(max_bytes=100))
    assert len(rows) == 2
    assert "of memory and" in caplog.text


def test_data_without_views_train_through_the_network(make, caplog) -> None:
    class Plain:
        def __init__(self) -> None:
            known = TinyLoaders()
            self.train, self.valid = known.train, known.valid
            self.vocab, self.size, self.input = known.vocab, known.size, known.input

    make(dls=Plain()).fine_tune(0)
    assert "views" in caplog.text


def test_surgery_while_the_head_trains_on_features_drops_them(make, caplog) -> None:
    class Replaces:
        def before_step(self, run) -> None:
            if run.step == 5 and run.phase == "head":
                run.model[0][7] = nn.Conv2d(8, 8, 1)
                run.groups.sync()

    learn = make(callbacks=[Replaces()])
    rows = learn.fine_tune(0, freeze_epochs=2, defaults=QUICK)
    assert "changed while its head trained" in caplog.text
    assert [row.phase for row in rows] == ["head", "head"]


def test_the_store_learns_what_training_through_the_body_learns(make, dls) -> None:
    """Without variation both see the same features: the losses after some passes are alike."""
    dls.augment = None
    dls.views = lambda epoch: TinyBatches(dls.train.x, dls.train.y)
    stored, through = make(), make()
    same = FineTuneDefaults(head_passes=30, head_steps=1, head_decay=1.0, head_schedule=OneCycle())
    rows = stored.fine_tune(0, 1e-2, defaults=same)
    through.freeze()
    through.fit_one_cycle(30, 1e-2)
    assert rows[0].valid_loss == pytest.approx(through.history[-1].valid_loss, abs=0.1)


def late(make, **options) -> Learner:
    return make(counting(), split=["0.1", "0.8", "1"], **options)


def test_a_network_of_any_build_trains_its_head_from_the_store(make) -> None:
    """A root with bare parameters and a classifier of its own, no Sequential of body and head."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = TinyTransformer(layers=2)
    learn = make(model, dls=TinyLoaders(n=240, batch_size=24, size=(32, 32)), split="layerwise")
    before = snapshot(learn.model)
    rows = learn.fine_tune(0, 1e-2, defaults=QUICK)
    assert rows[0].note == "cached features"
    assert moved(before, learn.model) == {"head.weight", "head.bias"}
    assert learn.validate()["valid_loss"] == pytest.approx(rows[0].valid_loss, abs=1e-5)


def test_a_group_thawed_while_the_head_trains_on_features_drops_them(make, caplog) -> None:
    class Thaws:
        def before_step(self, run) -> None:
            if run.step == 5:
                run.groups.freeze_to(-2)

    rows = make(callbacks=[Thaws()]).fine_tune(0, freeze_epochs=2, defaults=QUICK)
    assert "changed while its head trained" in caplog.text
    assert rows[-1].frozen == (True, False, False)


def test_a_head_on_stored_features_accumulates_as_larger_batches_would() -> None:
    models = []
    for size, accumulate in ((8, 3), (24, 1)):
        dls = TinyLoaders(n=240, batch_size=size)
        learn = script.learner(dls=dls, accumulate=accumulate)
        row = learn.fine_tune(0)[0]
        assert row.note == "cached features"
        models.append(learn.model[1])
    for one, other in zip(*(m.state_dict().values() for m in models), strict=True):
        torch.testing.assert_close(one, other)
