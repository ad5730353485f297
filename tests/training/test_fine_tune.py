"""Fine-tuning in two phases: what each trains, at which rates, and from which features."""

from dataclasses import replace

import pytest
import torch
from tests.training.tiny import (
    Counter,
    moved,
    pretrained,
    snapshot,
    tiny_model,
)
from torch import nn

from layergroups.errors import TrainingError
from layergroups.input_spec import InputSpec
from layergroups.training import FeatureCacheConfig, FineTuneDefaults, FineTunePlan, Learner
from layergroups.training.feature_cache import FeatureCache
from layergroups.training.recipes import FitSetup, fitted, phases_of

QUICK = FineTuneDefaults(head_passes=4, head_steps=1)


def test_a_plan_is_data() -> None:
    settings = FineTuneDefaults(base_lr=1e-2)
    head, whole = phases_of(FineTunePlan(epochs=3, freeze_epochs=2, figures=settings))
    assert (head.epochs, head.freeze_to, head.lr, head.from_store) == (2, -1, 1e-2, True)
    assert (whole.epochs, whole.freeze_to) == (3, 0)
    assert (whole.lr.start, whole.lr.stop) == (pytest.approx(5e-4), pytest.approx(5e-4))
    assert [p.name for p in phases_of(FineTunePlan(epochs=3, freeze_epochs=0))] == ["all"]
    assert [p.name for p in phases_of(FineTunePlan(epochs=0))] == ["head"]
    rates = slice(1e-6, 1e-4)
    assert phases_of(FineTunePlan(epochs=1), lr=rates)[1].lr == rates


@pytest.mark.parametrize("options", [{"epochs": -1}, {"epochs": 1, "freeze_epochs": 0.5}])
def test_a_plan_needs_whole_epochs(options) -> None:
    with pytest.raises(TrainingError, match="whole number"):
        FineTunePlan(**options)


def test_fine_tune_trains_the_head_then_all_groups(make) -> None:
    learn = make(metrics=["accuracy"])
    rows = learn.fine_tune(2, 1e-2, freeze_epochs=2, defaults=QUICK)
    assert [row.phase for row in rows] == ["head", "all", "all"]
    assert [row.epoch for row in rows] == [0, 2, 3]
    assert [row.frozen for row in rows] == [(True, True, False)] + [(False, False, False)] * 2
    assert rows[0].lrs == pytest.approx((1e-2,) * 3, rel=0.05)
    assert rows[1].lrs == pytest.approx((5e-4,) * 3, rel=0.05)
    assert rows[-1].valid_loss < rows[0].valid_loss + 0.2
    assert learn.layer_groups.frozen == (False,) * 3


def test_the_first_group_stays_frozen_if_asked_for(make) -> None:
    learn = make()
    rows = learn.fine_tune(1, defaults=replace(QUICK, lowest=1))
    assert [row.phase for row in rows] == ["head", "body"]
    assert learn.layer_groups.frozen == (True, False, False)


@pytest.mark.parametrize("lowest", [0, 1])
def test_the_phases_decide_what_trains_also_where_the_user_froze_parameters(make, lowest) -> None:
    learn = make()
    body, head = next(learn.layer_groups[1].parameters()), next(learn.layer_groups[2].parameters())
    body.requires_grad_(False)
    head.requires_grad_(False)
    before = [body.detach().clone(), head.detach().clone()]
    learn.fine_tune(1, 0.1, defaults=replace(QUICK, lowest=lowest))
    assert not torch.equal(body, before[0])
    assert not torch.equal(head, before[1])
    assert learn.layer_groups.frozen == (bool(lowest), False, False)


def test_fit_leaves_frozen_what_the_user_froze(make) -> None:
    learn = make()
    weight = next(learn.layer_groups[1].parameters()).requires_grad_(False)
    before = weight.detach().clone()
    learn.freeze_to(1)
    learn.fit(1, 0.1)
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("lr", "frozen"),
    [
        (1e-3, False),
        (slice(1e-5, 1e-3), False),
        ([1e-4, 1e-3, 1e-3], False),
        ([0.0, 1e-3, 1e-3], True),
        ({"0.0": 1e-4}, False),
        ({"0.7": 1e-4, "1": 1e-3}, True),
    ],
)
def test_a_group_that_is_given_a_rate_of_its_own_trains(make, lr, frozen: bool) -> None:
    learn = make()
    before = snapshot(learn.model)
    learn.fine_tune(1, lr=lr)
    assert ("0.0.weight" in moved(before, learn.model)) is not frozen


@pytest.mark.parametrize("why", ["two groups", "from noise", "other channels"])
def test_all_groups_train_where_the_first_cannot_stay_frozen(make, dls, why: str) -> None:
    learn = make(split=["1"]) if why == "two groups" else make()
    learn.pretrained = why != "from noise"
    if why == "other channels":
        five = (0.5,) * 5
        learn.dls.input = InputSpec(mean=five, std=five)
    assert fitted(learn, QUICK).lowest == 0


def counting() -> nn.Sequential:
    model = pretrained(tiny_model())
    model[0].insert(0, Counter())
    return model


def test_fine_tune_is_the_same_with_the_same_seed(make) -> None:
    one, two = make(), make()
    for learn in (one, two):
        learn.fine_tune(1, defaults=QUICK)
        torch.rand(3)
    assert not moved(snapshot(one.model), two.model)


# The second phase takes over what the first one kept

LATE = FineTuneDefaults(lowest=1, head_passes=2, head_steps=1)


def late(make, **options) -> Learner:
    return make(counting(), split=["0.1", "0.8", "1"], **options)


def test_the_early_group_may_stay_frozen_and_is_then_stored(make) -> None:
    learn, plain = late(make), late(make)
    rows = learn.fine_tune(4, 1e-2, defaults=LATE)
    assert [row.phase for row in rows] == ["head", "body", "body", "body", "body"]
    assert [sum(row.frozen) for row in rows] == [2, 1, 1, 1, 1]
    assert {row.note for row in rows[1:]} == {"cached features"}
    plain.fine_tune(4, 1e-2, defaults=LATE, feature_cache=False)
    assert {row.note for row in plain.history} == {""}


@pytest.mark.parametrize("epochs", [1, 4])
def test_one_pass_of_the_body_feeds_both_phases(make, epochs: int) -> None:
    learn = late(make)
    learn.fine_tune(epochs, 1e-2, defaults=LATE)
    found, folded = 2 * 3, 3 * 3  # a few items to find each boundary and what can be folded
    assert learn.model[0][0].items == 2 * 48 + 18 + found + folded
    assert learn.cache.entries.keys() == {(0,)}


def test_what_the_second_phase_takes_over_are_outputs_of_the_early_group(make, dls) -> None:
    learn = late(make)
    learn.fine_tune(2, 1e-2, defaults=LATE)
    (kept,) = learn.cache.entries.values()
    early = learn.model.eval()[0][:8]
    for view, epoch in enumerate(kept.views):
        values, targets = kept.train.read(torch.full((48,), view), torch.arange(48))
        assert torch.equal(targets, dls.train.y)
        whole = torch.cat([early(x) for x, _ in dls.views(epoch=epoch)])
        torch.testing.assert_close(values[0], whole)
    values, _ = kept.valid.read(torch.zeros(18, dtype=torch.long), torch.arange(18))
    torch.testing.assert_close(values[0], early(dls.valid.x))


def test_both_phases_learn_what_they_learn_through_the_network(make, dls) -> None:
    """Without variation, and with no photos held out: the same head, then the same late group."""
    dls.augment, dls.train.noise, dls.noise = None, 0.0, 0.0
    learn, plain = late(make), late(make)
    figures = FineTuneDefaults(lowest=1, head_passes=1, head_steps=1)
    learn.fine_tune(3, 1e-2, defaults=figures)
    before = snapshot(learn.model)
    learn.fit_one_cycle(2, 1e-3)
    plain.model.load_state_dict(before)
    plain.freeze_to(1)
    plain.opt, plain.epochs_done = None, learn.epochs_done - 2
    plain.fit_one_cycle(2, 1e-3, feature_cache=False)
    assert learn.history[-1].valid_loss == pytest.approx(plain.history[-1].valid_loss, rel=0.05)


def test_where_there_is_room_for_one_the_second_phase_fills_its_own(make) -> None:
    figures = replace(LATE, max_bytes=20_000)
    learn = late(make)
    rows = learn.fine_tune(4, 1e-2, defaults=figures)
    assert {row.note for row in rows} == {"cached features"}
    assert learn.model[0][0].items > 3 * 48


def test_where_there_is_room_for_none_the_second_phase_says_so(make, caplog) -> None:
    room = FeatureCacheConfig(memory=20_000, disk=0)
    rows = late(make, feature_cache=room).fine_tune(4, 1e-2, defaults=LATE)
    assert [row.phase for row in rows] == ["head"] + ["body"] * 4
    assert {row.note for row in rows[1:]} == {""}
    assert caplog.text.count("The frozen layers run in every epoch, because its outputs need") == 1


def test_more_views_come_in_the_epochs_of_the_second_phase(make) -> None:
    learn = late(make, feature_cache=FeatureCacheConfig(views=3))
    learn.fine_tune(4, 1e-2, defaults=LATE)
    (kept,) = learn.cache.entries.values()
    assert len(kept.views) == 3
    assert kept.views[2] == 1


def test_the_early_group_written_to_between_the_phases_is_run_again(make) -> None:
    class Writes:
        def before_fit(self, run) -> None:
            if run.phase == "body":
                with torch.no_grad():
                    run.model[0][1].weight.mul_(1.5)

    learn = late(make, callbacks=[Writes()])
    learn.fine_tune(4, 1e-2, defaults=LATE)
    (kept,) = learn.cache.entries.values()
    assert kept.views == [1, 2]


def test_the_dropout_of_the_head_is_off_in_the_second_phase(make) -> None:
    class Sees:
        def __init__(self) -> None:
            self.seen: dict[str, set[bool]] = {"head": set(), "all": set()}

        def after_step(self, run) -> None:
            dropouts = [m for m in run.model[-1].modules() if isinstance(m, nn.Dropout)]
            assert dropouts
            self.seen[run.phase] |= {m.training for m in dropouts}

    for kept, seen in ((False, {False}), (True, {True})):
        sees = Sees()
        make().fine_tune(2, defaults=replace(QUICK, head_dropout=kept), callbacks=[sees])
        assert sees.seen == {"head": {True}, "all": seen}


def test_a_checkpoint_of_a_phase_that_ends_elsewhere_is_a_different_one(make) -> None:
    state, setup = make(), FitSetup(cache=FeatureCache(), cache_config=FeatureCacheConfig())
    plans = [
        FineTunePlan(epochs=2, figures=replace(QUICK, usual_interpolation=p))
        for p in (0.2, 0.2, 0.9)
    ]
    one, same, other = (setup.signature(state, phases_of(plan)[1]) for plan in plans)
    assert one == same != other
