"""The moving average of the weights: what it is, what sees it, what it leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.laws import killed
from tests.laws.test_9_saved_by_name import assert_same_end, crash_in
from tests.training.tiny import TinyLoaders, moved, snapshot
from torch import nn

from layergroups.errors import CheckpointError, TrainingError
from layergroups.training import Learner
from layergroups.training.state._learner_state import USUAL_DECAY, checked_ema


class Live:
    """The weights after every step, and those that callbacks see at the end of each epoch."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []
        self.epochs: list[dict[str, torch.Tensor]] = []

    def after_step(self, run: Any) -> None:
        self.steps.append(snapshot(run.model))

    def after_epoch(self, run: Any) -> None:
        self.epochs.append(snapshot(run.model))


def by_hand(steps: list[dict[str, torch.Tensor]], name: str, decay: float) -> torch.Tensor:
    average = steps[0][name].clone()
    for t, weights in enumerate(steps[1:], 2):
        d = min(decay, (1 + t) / (10 + t))
        average = d * average + (1 - d) * weights[name]
    return average


def test_the_average_is_in_the_model_after_the_fit_and_validates(make) -> None:
    live = Live()
    learn = make(ema=0.6, callbacks=[live])
    learn.fit(2, 1e-2)
    for name in ("0.0.weight", "1.4.bias", "1.2.running_mean"):
        expected = by_hand(live.steps, name, 0.6)
        torch.testing.assert_close(learn.model.state_dict()[name], expected, msg=name)
        assert not torch.equal(live.steps[-1][name], learn.model.state_dict()[name])
    assert not moved(live.epochs[-1], learn.model)  # callbacks saw what was validated
    assert learn.validate()["valid_loss"] == learn.history[-1].valid_loss


def test_training_itself_goes_on_as_without_an_average(make) -> None:
    """The second epoch begins from the weights, not from their average."""
    plain, averaged = Live(), Live()
    make(callbacks=[plain]).fit(2, 1e-2)
    make(ema=True, callbacks=[averaged]).fit(2, 1e-2)
    for one, two in zip(plain.steps, averaged.steps, strict=True):
        assert all(torch.equal(t, two[n]) for n, t in one.items())


def test_what_is_saved_and_exported_is_the_average(make) -> None:
    learn = make(ema=0.9)
    learn.fit(1, 1e-2)
    learn.save("averaged")
    again = make().load("averaged")
    assert not moved(snapshot(learn.model), again.model)
    assert torch.equal(learn.get_preds()[0], again.get_preds()[0])


def test_what_is_frozen_stays_to_the_bit(make) -> None:
    learn = make(ema=0.9)
    learn.freeze_to(-2)
    before = snapshot(learn.model)
    learn.fit(2, 1e-2)
    assert {n for n in moved(before, learn.model) if n.startswith("0.0")} == set()
    rested = make(ema=0.9, lr=[0, 1e-3, 1e-3])
    before = snapshot(rested.model)
    rested.fit(1)
    assert {n for n in moved(before, rested.model) if n.startswith("0.0")} == set()


@pytest.mark.parametrize("at", [5, 6, 8])
def test_what_is_frozen_in_the_midst_stays_as_it_was_then(make, at: int) -> None:
    """Also where it is frozen by the last step of an epoch, after which the average is shown."""
    seen: dict[str, torch.Tensor] = {}

    class Freezes:
        def after_step(self, run: Any) -> None:
            if run.step == at:
                run.learner.freeze()
                seen.update(snapshot(run.model[0]))

    learn = make(ema=0.9, callbacks=[Freezes()])
    learn.fit(2, 1e-2)
    assert not moved(seen, learn.model[0])


def test_what_is_frozen_while_the_average_is_shown_stays_as_shown(make) -> None:
    seen: dict[str, torch.Tensor] = {}

    class Freezes:
        def after_epoch(self, run: Any) -> None:
            if run.epoch == 0:
                run.learner.freeze()
                seen.update(snapshot(run.model[0]))

    learn = make(ema=0.9, callbacks=[Freezes()])
    learn.fit(2, 1e-2)
    assert not moved(seen, learn.model[0])
    assert not torch.equal(learn.model[1][4].weight, snapshot(make().model)["1.4.weight"])


def test_weights_loaded_while_the_average_is_shown_are_kept(make) -> None:
    class GoesBack:
        def after_epoch(self, run: Any) -> None:
            if run.epoch == 0:
                with torch.no_grad():
                    run.model[1][4].weight.fill_(0.125)

        def before_step(self, run: Any) -> None:
            if run.epoch == 1 and run.batch == 1:
                assert bool((run.model[1][4].weight == 0.125).all())
                weights.append(run.model[0][0].weight.detach().clone())

    weights: list[torch.Tensor] = []
    make(ema=0.9, callbacks=[GoesBack()]).fit(2, 1e-2)
    live = Live()
    make(callbacks=[live]).fit(1, 1e-2)
    assert torch.equal(weights[0], live.steps[-1]["0.0.weight"])


def test_thawed_and_new_layers_begin_their_average_as_they_are(make) -> None:
    live = Live()

    class Changes:
        def before_step(self, run: Any) -> None:
            if run.step == 3:
                run.learner.unfreeze()
            if run.step == 8:
                with torch.random.fork_rng():
                    run.model[1][4] = nn.Linear(8, 3)

    learn = make(ema=0.9, callbacks=[Changes(), live])
    learn.freeze()
    learn.fit(2, 1e-2)
    torch.testing.assert_close(
        learn.model[1][4].weight.detach(), average_from(live, "1.4.weight", 8)
    )
    torch.testing.assert_close(
        learn.model[0][0].weight.detach(), average_from(live, "0.0.weight", 3)
    )


def average_from(live: Live, name: str, first: int) -> torch.Tensor:
    """Of the weights from a step on, with the steps of the whole fit."""
    average = live.steps[first][name].clone()
    for t in range(first + 2, len(live.steps) + 1):
        d = min(0.9, (1 + t) / (10 + t))
        average = d * average + (1 - d) * live.steps[t - 1][name]
    return average


def test_the_feature_store_serves_an_average_too(make) -> None:
    learn, plain = (make(ema=0.9, dls=TinyLoaders(noise=0.0)) for _ in range(2))
    for one, store in ((learn, True), (plain, False)):
        one.freeze()
        one.fit(4, 1e-2, feature_cache=store)
    assert [row.note for row in learn.history] == ["cached features"] * 4
    torch.testing.assert_close(snapshot(learn.model), snapshot(plain.model), rtol=1e-4, atol=1e-6)
    assert learn.history[-1].valid_loss == pytest.approx(learn.validate()["valid_loss"], rel=1e-4)


def test_the_head_of_fine_tune_is_chosen_as_before(make) -> None:
    plain, averaged = make(), make(ema=0.9)
    plain.fine_tune(0)
    averaged.fine_tune(0)
    assert not moved(snapshot(plain.model), averaged.model)
    averaged.fine_tune(1)
    found = averaged.validate()["valid_loss"]
    assert averaged.history[-1].valid_loss == pytest.approx(found, rel=1e-5)  # that from the store


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_however_a_fit_ends_the_average_is_in_the_model(make, error: Any) -> None:
    live = Live()

    class Ends:
        def after_step(self, run: Any) -> None:
            if run.step == 9:
                raise error

    learn = make(ema=0.9, callbacks=[live, Ends()])
    with pytest.raises((KeyboardInterrupt, TrainingError)):
        learn.fit(2, 1e-2)
    expected = by_hand(live.steps, "0.0.weight", 0.9)
    torch.testing.assert_close(learn.model[0][0].weight.detach(), expected)


def test_weights_in_half_precision_have_a_wide_average(make) -> None:
    live = Live()
    learn = make(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).bfloat16(), split=1, ema=0.99,
                 dls=Halves(), callbacks=[live])  # fmt: skip
    learn.fit(3, 1e-2)
    steps = [{n: t.float() for n, t in step.items()} for step in live.steps]
    expected = by_hand(steps, "1.weight", 0.99)
    assert torch.equal(learn.model[1].weight, expected.bfloat16())


class Halves(TinyLoaders):
    """Images in half precision."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.train = list(zip(self.train.x.bfloat16().split(8), self.train.y.split(8), strict=True))
        self.valid = self.train


# Saving


@pytest.mark.parametrize("step", [12, 19])
def test_a_crashed_fit_goes_on_with_its_average(step: int, tmp_path: Path) -> None:
    """Of 12 steps an epoch; checkpoints after each epoch, and after every fifth step."""

    def learner() -> Learner:
        made = killed.learner()
        made.ema = 0.9
        made.freeze_to(-2)
        return made

    def fit(learn: Learner, **saved: Any) -> None:
        learn.fit_one_cycle(2, 1e-2, **saved)

    saved = {"checkpoint_dir": tmp_path, "checkpoint_every": 5, "resume": True}
    unbroken, resumed = learner(), learner()
    fit(unbroken)
    crash_in(learner(), step, lambda learn: fit(learn, **saved))
    fit(resumed, **saved)
    assert_same_end(unbroken, resumed)
    done = learner()
    fit(done, **saved)
    assert_same_end(unbroken, done)


def test_a_fit_does_not_go_on_with_another_average(tmp_path: Path) -> None:
    saved = {"checkpoint_dir": tmp_path, "resume": True}
    learn = killed.learner()
    learn.ema = 0.9
    crash_in(learn, 13, lambda learn: learn.fit(2, 1e-2, **saved))
    with pytest.raises(CheckpointError, match=r"ema 0\.9, now None"):
        killed.learner().fit(2, 1e-2, **saved)


def test_surgery_in_a_crashed_fit(tmp_path: Path) -> None:
    saved = {"checkpoint_dir": tmp_path, "resume": True, "checkpoint_every": 3}
    made = []
    for _ in range(3):
        made.append(killed.learner((killed.Regrow(9),)))
        made[-1].ema = 0.9
    unbroken, broken, resumed = made
    unbroken.fit(2, 1e-2)
    crash_in(broken, 20, lambda learn: learn.fit(2, 1e-2, **saved))
    resumed.fit(2, 1e-2, **saved)
    assert_same_end(unbroken, resumed)


# The argument


def test_a_switch_or_a_decay() -> None:
    assert [checked_ema(e) for e in (None, False, True, 0.5)] == [None, None, USUAL_DECAY, 0.5]


@pytest.mark.parametrize("ema", [0, 1, 1.5, "a", -0.1])
def test_a_decay_that_cannot_be(make, ema: Any) -> None:
    with pytest.raises(TrainingError, match=r"ema=.*ema=0\.999"):
        make(ema=ema)
    learn = make()
    with pytest.raises(TrainingError, match=r"ema=.*ema=0\.999"):
        learn.ema = ema
