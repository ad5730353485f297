from __future__ import annotations

import logging
import math
import os
import signal
from typing import Any

import pytest
import torch
from tests.training import distributed_script as script
from tests.training.tiny import TinyBatches, TinyLoaders, moved, snapshot, tiny_model
from torch import nn

from layergroups.errors import TrainingError
from layergroups.training import Flat, FlatCos, Learner, OneCycle


def test_training_learns(make) -> None:
    learn = make(metrics=["accuracy"])
    rows = learn.fit_one_cycle(10, 1e-2)
    assert rows[-1].train_loss < rows[0].train_loss
    assert rows[-1].metrics["accuracy"] > 0.8
    assert learn.history == rows
    assert not learn.model.training


def test_every_step_uses_base_rate_times_multiplier_and_the_table_shows_it(make) -> None:
    used = []

    class Looks:
        def after_step(self, run) -> None:
            used.append({g["layer_group"]: g["lr"] for g in run.optimizer.param_groups})

    learn = make(callbacks=[Looks()])
    rows = learn.fit_one_cycle(2, slice(1e-4, 1e-2))
    cycle = OneCycle()
    assert learn.layer_groups.rates == pytest.approx((1e-4, 1e-3, 1e-2))
    for step, lrs in enumerate(used):
        for group, base in enumerate(learn.layer_groups.rates):
            assert lrs[group] == base * cycle.multiplier(step / 12)
    assert rows[0].lrs == tuple(max(lrs[g] for lrs in used[:6]) for g in range(3))
    assert rows[1].lrs == tuple(max(lrs[g] for lrs in used[6:]) for g in range(3))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_fit_has_gradients_in_every_mode(make, mode) -> None:
    plain, learn = make(), make()
    for each in (plain, learn):
        with mode() if each is learn else torch.enable_grad():
            each.lr_find(num_it=20, show_plot=False)
            each.fit(1)
    assert not moved(snapshot(plain.model), learn.model)


def test_more_outputs_than_the_data_have_classes_are_reported_once(make, caplog) -> None:
    learn = make()
    learn.model[-1] = nn.Sequential(learn.model[-1], nn.Linear(3, 5))
    learn.fit(2)
    assert sum("5 outputs, the data have 3" in record.message for record in caplog.records) == 1


class LateTop:
    """A schedule that is near 0 but for its last tenth."""

    def multiplier(self, t: float) -> float:
        return 1.0 if t > 0.9 else 0.01

    def momentum(self, t: float) -> None:
        return None


@pytest.mark.parametrize(
    ("schedule", "batch_size", "epochs", "part"),
    [
        (OneCycle(), 48, 1, "4.0 %"),
        (OneCycle(pct_start=1.0), 24, 1, None),
        (LateTop(), 8, 1, "1.0 %"),
        (OneCycle(), 48, 2, None),
        (OneCycle(), 24, 1, None),
        (Flat(), 48, 1, None),
        (FlatCos(), 48, 1, None),
    ],
)
def test_too_few_steps_to_reach_the_rate_are_reported_once(
    schedule, batch_size, epochs, part, caplog
) -> None:
    learn = Learner(TinyLoaders(batch_size=batch_size), tiny_model(), progress=False)
    rows = learn.fit_phase(epochs, schedule, lr=1e-2)
    lines = [record.message for record in caplog.records if "too few" in record.message]
    assert len(lines) == (part is not None)
    reached = max(max(row.lrs) for row in rows) / 1e-2
    assert (reached < 0.5) == (part is not None)
    assert all(f"{part} of their maximum" in line for line in lines)


def test_momentum_follows_one_cycle_and_comes_back(make) -> None:
    used = []

    class Looks:
        def after_step(self, run) -> None:
            used.append(run.optimizer.param_groups[0]["betas"][0])

    learn = make(callbacks=[Looks()])
    learn.fit_one_cycle(2)
    assert used[0] == 0.95
    assert used[3] == 0.85
    assert learn.opt.param_groups[0]["betas"] == (0.9, 0.999)


def test_the_same_seed_gives_the_same_weights_bit_for_bit(make) -> None:
    one, two = make(), make()
    one.fit(2)
    torch.rand(5)
    two.fit(2)
    assert not moved(snapshot(one.model), two.model)


@pytest.mark.parametrize("split", [["0.0", "0.7", "1"], 1, "layerwise", ["0.0", "0.3"]])
@pytest.mark.parametrize("opt_func", ["adamw", "sgd"])
def test_fact_3_no_result_depends_on_the_grouping(make, split, opt_func) -> None:
    one, two = make(opt_func=opt_func), make(opt_func=opt_func, split=split)
    assert len(one.layer_groups) == 3
    before = snapshot(one.model)
    for learn in (one, two):
        learn.fit_one_cycle(2, 1e-3)
    assert moved(before, one.model)
    assert not moved(snapshot(one.model), two.model)


def test_fact_6_groups_with_rate_0_or_frozen_do_not_move_by_one_bit(make) -> None:
    learn = make(batch_norm="update", weight_decay=0.5)
    learn.fit(1)
    for freeze in (True, False):
        if freeze:
            learn.freeze()
        else:
            learn.unfreeze()
        before, memory = snapshot(learn.model), memory_of(learn)
        learn.fit(1, 1e-2 if freeze else {"0.0": 0, "0.7": 0, "1": 1e-2})
        changed = moved(before, learn.model)
        assert {name for name in changed if name.startswith("0")} == set()
        assert {"1.2.running_mean", "1.4.weight", "1.4.bias"} <= changed
        assert all(torch.equal(a, b) for a, b in zip(memory, memory_of(learn), strict=True))


def memory_of(learn: Learner) -> list[torch.Tensor]:
    """Moments of the body's weights."""
    return [
        value.clone()
        for parameter in learn.model[0].parameters()
        for value in learn.opt.state[parameter].values()
    ]


def test_a_group_that_rests_trains_again_when_its_rate_rises(make) -> None:
    learn = make(batch_norm="update")
    learn.fit(1, [0, 1e-3, 1e-3])
    before = snapshot(learn.model)
    learn.fit(1, 1e-3)
    assert {"0.0.weight", "0.1.running_mean"} <= moved(before, learn.model)


def test_statistics_of_a_pretrained_body_are_kept_and_its_norms_train(make) -> None:
    learn = make()
    before = snapshot(learn.model)
    learn.fit(1)
    changed = moved(before, learn.model)
    assert not {name for name in changed if name.startswith("0") and "running" in name}
    assert {"0.1.weight", "0.4.bias", "1.2.running_var"} <= changed


def test_freezing_never_rebuilds_the_optimizer(make) -> None:
    learn = make()
    learn.fit(1)
    optimizer, names = learn.opt, [group["name"] for group in learn.opt.param_groups]
    learn.freeze()
    learn.fit(1)
    learn.unfreeze()
    learn.fit_one_cycle(1)
    assert learn.opt is optimizer
    assert [group["name"] for group in optimizer.param_groups] == names


def test_a_callback_may_thaw_and_freeze_between_steps(make) -> None:
    class Thaws:
        def before_step(self, run) -> None:
            if run.step == 3:
                run.learner.unfreeze()

    learn = make(callbacks=[Thaws()])
    learn.freeze()
    before = snapshot(learn.model)
    rows = learn.fit(1)
    changed = moved(before, learn.model)
    assert "0.0.weight" in changed
    assert "0.1.running_mean" not in changed  # its statistics are those of the pretraining
    assert rows[0].frozen == (False, False, False)


def test_a_parameter_without_gradient_is_told_once_with_the_fix(make, caplog) -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(768, 3), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x.flatten(1))

    learn = make(Half(), split={"used": "used", "idle": "idle"})
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        learn.fit(2)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert "idle.weight, idle.bias" in told[0]
    assert 'learn.layer_groups["idle"].freeze()' in told[0]


def test_nothing_to_train_is_an_error(make) -> None:
    learn = make()
    with pytest.raises(TrainingError, match="Nothing would train"):
        learn.fit(1, 0)


@pytest.mark.parametrize("epochs", [-1, 1.5, "3"])
def test_epochs_must_be_whole(make, epochs) -> None:
    with pytest.raises(TrainingError, match="whole number"):
        make().fit(epochs)


def test_no_epochs_do_nothing(make) -> None:
    learn = make()
    before = snapshot(learn.model)
    assert not learn.fit(0)
    assert not moved(before, learn.model)


def test_a_loss_that_is_not_finite_stops_before_the_weights_move(make) -> None:
    dls = TinyLoaders()
    learn = make(dls=dls)

    class Spoils:
        def before_step(self, run) -> None:
            if run.step == 3:
                self.before = snapshot(run.model)
                run.inputs = run.inputs * math.nan

    learn.callbacks.append(spoils := Spoils())
    with pytest.raises(TrainingError, match=r"nan at step 3 of 12 .*rates .*1e-5"):
        learn.fit(2, 1e-5)
    changed = moved(spoils.before, learn.model)
    assert not changed.intersection(name for name, _ in learn.model.named_parameters())
    assert not learn.model.training


def test_too_few_outputs_for_the_classes(make) -> None:
    with pytest.raises(TrainingError, match="2 outputs, but the data have class 2"):
        make(tiny_model(n_out=2)).fit(1)


def test_a_batch_of_one_item_is_explained(make) -> None:
    dls = TinyLoaders(n=9)
    with pytest.raises(TrainingError, match="one item"):
        make(dls=dls).fit(1)


def test_empty_batches_are_passed_over(make) -> None:
    class Holes(TinyBatches):
        def __iter__(self):
            for x, y in super().__iter__():
                yield x, y
                yield x[:0], y[:0]

    dls = TinyLoaders()
    dls.train = Holes(dls.train.x, dls.train.y)
    dls.valid = Holes(dls.valid.x, dls.valid.y)
    assert make(dls=dls).fit(1)[0].valid_loss is not None


def test_no_batches_at_all(make) -> None:
    dls = TinyLoaders()
    dls.train = []
    with pytest.raises(TrainingError, match="no training batches"):
        make(dls=dls).fit(1)
    dls.train = iter([])
    with pytest.raises(TrainingError, match="len"):
        make(dls=dls).fit(1)


def test_without_validation_photos_it_still_trains(make) -> None:
    dls = TinyLoaders()
    dls.valid = []
    row = make(dls=dls, metrics=["accuracy"]).fit(1)[0]
    assert row.valid_loss is None
    assert row.train_loss is not None


def test_ctrl_c_leaves_a_whole_model_and_a_complete_history(make) -> None:
    class Interrupts:
        def after_step(self, run) -> None:
            if run.step == 9:
                raise KeyboardInterrupt

    learn = make(callbacks=[Interrupts()])
    with pytest.raises(KeyboardInterrupt):
        learn.fit(3)
    assert [row.note for row in learn.history] == ["", "interrupted"]
    assert learn.history[1].valid_loss is None
    assert not learn.model.training
    assert all(parameter.grad is None for parameter in learn.model.parameters())
    learn.callbacks.clear()
    assert learn.fit(1)[0].epoch == 2


def test_ctrl_c_in_a_fit_waits_for_the_step_and_leaves_the_handler_as_it_was(make) -> None:
    learn, ended = make(), []
    learn.fit(1)
    step = learn.opt.step

    def interrupted_step() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        step()
        ended.append("step")

    learn.opt.step = interrupted_step
    with pytest.raises(KeyboardInterrupt):
        learn.fit(1)
    assert ended == ["step"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_handler_set_in_mid_fit_stays(make) -> None:
    def own(*_) -> None: ...

    class Sets:
        def after_step(self, run) -> None:
            signal.signal(signal.SIGINT, own)

    try:
        make(callbacks=[Sets()]).fit(1)
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_bf16_trains_and_learners_of_other_precision_live_side_by_side(make) -> None:
    half, full = make(mixed_precision="bf16"), make()
    seen = []
    half.model[1][4].register_forward_hook(lambda *call: seen.append(call[2].dtype))
    for _ in range(2):
        half.fit(1)
        full.fit(1)
    assert set(seen) == {torch.bfloat16}
    assert {p.dtype for p in half.model.parameters()} == {torch.float32}
    assert full.validate()["valid_loss"] != half.validate()["valid_loss"]
    assert half.get_preds()[0].dtype == torch.float32
    with pytest.raises(TrainingError, match="bf16"):
        make(mixed_precision="half").fit(1)


def test_rows_are_shown_on_stderr_only(make, capsys) -> None:
    make(progress=True, metrics=["accuracy"]).fit(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 3


def test_accumulated_steps_are_those_of_larger_batches() -> None:
    models = []
    for size, accumulate in ((8, 3), (24, 1)):
        dls = TinyLoaders(batch_size=size)
        learn = script.learner(dls=dls, accumulate=accumulate)
        learn.fit_one_cycle(2)
        models.append(learn.model)
    for one, other in zip(*(m.state_dict().values() for m in models), strict=True):
        torch.testing.assert_close(one, other)


def test_the_last_steps_of_an_epoch_take_the_mean_of_the_batches_that_are_left() -> None:
    steps, gradients = [], []

    class Looks:
        def before_step(self, run: Any) -> None:
            steps.append(run.step)

        def after_step(self, run: Any) -> None:
            gradients.append(run.model[1][2].bias.grad.clone())

    learn = script.learner(accumulate=4, callbacks=[Looks()], lr=1e-12)
    learn.fit(1)
    assert steps == [0, 0, 0, 0, 1, 1]
    dls = TinyLoaders()
    batches = list(dls.train)[4:]
    learn.norms.train(learn.model)
    losses = [nn.functional.cross_entropy(learn.model(x), y) for x, y in batches]
    (sum(losses) / 2).backward()
    torch.testing.assert_close(gradients[1], learn.model[1][2].bias.grad)


def test_freezing_within_a_window_drops_what_was_gathered() -> None:
    class Freezes:
        batches = 0

        def before_step(self, run: Any) -> None:
            self.batches += 1
            if self.batches == 2:
                run.learner.freeze()

    learn = script.learner(accumulate=3, callbacks=[Freezes()])
    before = snapshot(learn.model)
    learn.fit(1)
    assert moved(before, learn.model) == {"1.2.weight", "1.2.bias"}
