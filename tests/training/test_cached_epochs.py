"""Stored outputs of frozen layers: the same training, without running them; never out of date."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training.storing import PlainLoaders, assert_close, kept, learner
from tests.training.tiny import TinyLoaders, moved, snapshot
from torch import nn

from layergroups.errors import TrainingError
from layergroups.training import FeatureCacheConfig, FitContext, Learner, Thaw


class Largest(nn.Module):
    """Notes the most items that ran through it at once."""

    most = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.most = max(self.most, len(x))
        return x


@pytest.mark.parametrize("boundary", [-1, -2])
@pytest.mark.parametrize("opt_func", ["adamw", "sgd"])
def test_the_same_weights_as_through_the_body(boundary: int, opt_func: str) -> None:
    stored, whole = learner(opt_func=opt_func), learner(opt_func=opt_func)
    for learn in (stored, whole):
        learn.freeze_to(boundary)
    stored.fit_one_cycle(4, 1e-2)
    whole.fit_one_cycle(4, 1e-2, feature_cache=False)
    assert_close(whole, stored)
    assert {row.note for row in stored.history} == {"cached features"}
    assert {row.note for row in whole.history} == {""}


def test_large_batches_run_through_the_frozen_layers_in_parts() -> None:
    def made() -> Learner:
        learn = learner(TinyLoaders(n=90, batch_size=45, noise=0.0))
        learn.model[0][0] = Largest()
        learn.freeze()
        return learn

    stored, whole = made(), made()
    stored.fit_one_cycle(4, 1e-2)
    whole.fit_one_cycle(4, 1e-2, feature_cache=False)
    assert (stored.model[0][0].most, whole.model[0][0].most) == (32, 45)
    assert_close(whole, stored)


def test_the_frozen_layers_run_once_for_each_item() -> None:
    learn = learner()
    learn.freeze()
    learn.fit(5, 1e-2)
    counter = learn.model[0][0]
    assert counter.items <= 48 + 18 + 3  # training, validation, and a few to find the boundary
    learn.fit(3, 1e-2)
    assert counter.items <= 48 + 18 + 3


def test_augmented_items_have_several_views_and_the_first_epochs_are_as_ever() -> None:
    def noisy(store: bool) -> Learner:
        learn = learner(PlainLoaders(noise=0.5))
        learn.freeze()
        learn.fit(5, 1e-2, feature_cache=store)
        return learn

    stored, whole = noisy(True), noisy(False)
    assert kept(stored).views == [0, 1]
    assert stored.model[0][0].items <= 2 * 48 + 18 + 3
    losses = [[row.train_loss for row in learn.history] for learn in (stored, whole)]
    # views are drawn in the order of the photos, so noise meets other photos than in an epoch
    assert losses[0] != losses[1]
    assert len(set(losses[0])) == 5


# Never out of date


def same_as_without(change: Any, epochs: int = 4) -> Learner:
    """Do the same with a store and without, with a callback that changes something."""
    learners = [learner(callbacks=[change()]) for _ in range(2)]
    for learn, store in zip(learners, (True, False), strict=True):
        learn.freeze()
        learn.fit(epochs, 1e-2, feature_cache=store)
    assert_close(learners[1], learners[0])
    return learners[0]


class AtStep:
    def __init__(self, step: int = 9) -> None:
        self.step = step

    def before_step(self, run: FitContext) -> None:
        if run.step == self.step:
            self.change(run)

    def change(self, run: FitContext) -> None:
        raise NotImplementedError


def test_surgery_in_the_body_in_mid_epoch() -> None:
    class Surgery(AtStep):
        def change(self, run: FitContext) -> None:
            with torch.random.fork_rng():
                torch.manual_seed(5)
                run.model[0].append(nn.Conv2d(8, 8, 1))

    assert "" in {row.note for row in same_as_without(Surgery).history}


def test_a_group_thawed_in_mid_epoch() -> None:
    class Thaws(AtStep):
        def change(self, run: FitContext) -> None:
            run.groups.freeze_to(-2)

    learn = same_as_without(Thaws)
    assert learn.layer_groups.frozen == (True, False, False)


def test_weights_written_in_place_in_mid_epoch() -> None:
    class Writes(AtStep):
        def change(self, run: FitContext) -> None:
            with torch.no_grad():
                run.model[0][1].weight.mul_(1.5)

    same_as_without(Writes)


def test_buffers_written_in_place() -> None:
    class Writes(AtStep):
        def change(self, run: FitContext) -> None:
            run.model[0][2].running_mean += 1

    same_as_without(Writes)


def test_weights_written_past_autograd_are_seen_at_the_next_epoch() -> None:
    class Writes:
        def after_epoch(self, run: FitContext) -> None:
            run.model[0][1].weight.data.mul_(1.1)

    same_as_without(Writes)


def test_gradual_unfreezing_moves_the_boundary() -> None:
    learn = same_as_without(lambda: Thaw(every=2), epochs=6)
    notes = [row.note for row in learn.history]
    assert notes[:4] == ["cached features"] * 4
    assert notes[4:] == ["", ""]


# Where


@pytest.mark.parametrize("half", [False, True])
def test_what_does_not_fit_into_memory_lies_in_a_file(half: bool, tmp_path: Any) -> None:
    options = FeatureCacheConfig(memory=100, folder=tmp_path / "own", half=half)
    stored, whole = learner(feature_cache=options), learner()
    for learn, store in ((stored, True), (whole, False)):
        learn.freeze_to(-2)
        learn.fit(3, 1e-2, feature_cache=store)
    assert kept(stored).train is not None
    assert kept(stored).train.mapped
    if not half:
        assert_close(whole, stored)
    assert stored.history[-1].train_loss == pytest.approx(whole.history[-1].train_loss, rel=0.1)
    assert (tmp_path / "own").is_dir()
    assert not list((tmp_path / "own").iterdir())  # the file vanishes with its user


def test_what_fits_nowhere_runs_as_ever_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    learn = learner(feature_cache=FeatureCacheConfig(memory=100, disk=100))
    learn.freeze()
    learn.fit(3, 1e-2)
    assert caplog.text.count("The frozen layers run in every epoch, because its outputs need") == 1
    assert {row.note for row in learn.history} == {""}


def test_a_crashed_fit_goes_on_bit_for_bit_from_a_store_that_is_filled_again(tmp_path: Any) -> None:
    class Crash:
        def after_step(self, run: FitContext) -> None:
            if run.step == 22:
                raise RuntimeError

    def make(callbacks: Any = ()) -> Learner:
        learn = learner(PlainLoaders(noise=0.3), callbacks=callbacks)
        learn.freeze()
        return learn

    saved = {"checkpoint_dir": tmp_path, "checkpoint_every": 4, "resume": True}
    unbroken, resumed = make(), make()
    unbroken.fit(5, 1e-2)
    unbroken.fit(2, 1e-3)
    with pytest.raises(TrainingError, match="Crash"):
        make([Crash()]).fit(5, 1e-2, **saved)
    resumed.fit(5, 1e-2, **saved)
    resumed.fit(2, 1e-3, **saved)
    assert not moved(snapshot(unbroken.model), resumed.model)


def test_what_was_dropped_in_mid_epoch_stays_dropped_after_a_crash(tmp_path: Any) -> None:
    class Thaws:
        def __init__(self, crash: bool = False) -> None:
            self.crash = crash

        def before_step(self, run: FitContext) -> None:
            if run.step == 9:
                run.groups.freeze_to(-2)

        def after_step(self, run: FitContext) -> None:
            if self.crash and run.step == 11:
                raise RuntimeError

    def make(crash: bool = False) -> Learner:
        learn = learner(PlainLoaders(noise=0.3), callbacks=[Thaws(crash)])
        learn.freeze()
        return learn

    saved = {"checkpoint_dir": tmp_path, "checkpoint_every": 1, "resume": True}
    unbroken, resumed = make(), make()
    unbroken.fit(5, 1e-2)
    with pytest.raises(TrainingError, match="Thaws"):
        make(crash=True).fit(5, 1e-2, **saved)
    resumed.fit(5, 1e-2, **saved)
    assert not moved(snapshot(unbroken.model), resumed.model)
    assert [row.note for row in unbroken.history] == [row.note for row in resumed.history]
