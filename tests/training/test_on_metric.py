"""Callbacks that act on a metric: what each does in a real fit, resumed and interrupted."""

import pytest
import torch
from tests.training.failing import crash
from tests.training.tiny import moved, snapshot

from layergroups.errors import TrainingError
from layergroups.training import (
    EarlyStopping,
    ReduceLROnPlateau,
    SaveBest,
    StopOnNaN,
)


class Says:
    """A metric that says in each epoch what it was told to."""

    def __init__(self, *values: float, higher: bool | None = True) -> None:
        self.values = list(values)
        self.__name__ = "says"
        if higher is not None:
            self.higher_is_better = higher

    def __call__(self, probabilities: torch.Tensor, targets: torch.Tensor) -> float:
        return self.values.pop(0)


class Spoil:
    """The loss is not finite from a step on."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_step(self, run) -> None:
        if run.step >= self.step:
            run.inputs[0] = float("nan")


# Early stopping


def test_a_fit_ends_when_nothing_gets_better(make, caplog) -> None:
    metric = Says(0.5, 0.6, 0.55, 0.6, 0.7)
    learn = make(metrics=[metric], callbacks=[EarlyStopping("says", patience=2)])
    rows = learn.fit(9)
    assert [row.metrics["says"] for row in rows] == [0.5, 0.6, 0.55, 0.6]
    assert (
        rows[-1].note == learn.history[-1].note == "no better for 2 epochs than says 0.6 in epoch 1"
    )
    assert "after 4 of 9 epochs" in caplog.text
    assert learn.fits_done == 1


@pytest.mark.parametrize(
    ("values", "options", "epochs"),
    [
        ([0.5, 0.4, 0.3, 0.2, 0.1], {"mode": "max"}, 3),
        ([0.5, 0.4, 0.3, 0.2, 0.1], {"mode": "min"}, 5),
        ([0.5, 0.51, 0.52, 0.6, 0.7], {"min_delta": 0.05}, 3),
        ([float("nan"), float("nan"), 0.1, 0.1, 0.1], {}, 2),
    ],
)
def test_what_counts_as_better(make, values, options, epochs) -> None:
    stop = EarlyStopping("says", patience=2, **options)
    assert len(make(metrics=[Says(*values)], callbacks=[stop]).fit(5)) == epochs


def test_each_fit_counts_anew(make) -> None:
    stop = EarlyStopping("says", patience=1)
    learn = make(metrics=[Says(0.5, 0.4, 0.3, 0.2)], callbacks=[stop])
    assert len(learn.fit(5)) == len(learn.fit(5)) == 2


def test_early_stopping_goes_on_where_it_was(make, tmp_path) -> None:
    saved = {"checkpoint_dir": tmp_path / "saved", "resume": True}
    learn = make(metrics=[Says(0.5, 0.4)], callbacks=[EarlyStopping("says", patience=3)])
    crash(learn, 13, 9, **saved)
    learn = make(metrics=[Says(0.3, 0.2)], callbacks=[EarlyStopping("says", patience=3)])
    assert len(learn.fit(9, **saved)) == 4


@pytest.mark.parametrize(
    ("monitor", "metrics", "says"),
    [
        ("val_loss", ["accuracy"], "'val_loss'.*train_loss, valid_loss, accuracy"),
        ("accuracy", [], r'metrics=\["accuracy"\]'),
        ("says", [Says(higher=None)], 'mode="max"'),
    ],
)
def test_what_cannot_be_watched_is_told_before_the_first_step(make, monitor, metrics, says) -> None:
    learn = make(metrics=metrics, callbacks=[EarlyStopping(monitor)])
    before = snapshot(learn.model)
    with pytest.raises(TrainingError, match=says):
        learn.fit(1)
    assert not moved(before, learn.model)


def test_without_validation_only_the_training_loss_can_be_watched(make, dls) -> None:
    dls.valid = None
    with pytest.raises(TrainingError, match="no validation"):
        make(dls=dls, callbacks=[SaveBest()]).fit(1)
    make(dls=dls, callbacks=[SaveBest("train_loss")]).fit(1)


# The best epoch


def test_the_best_epoch_is_saved_and_loads(make, caplog) -> None:
    kept: dict[int, dict[str, torch.Tensor]] = {}

    class Keeps:
        def after_epoch(self, run) -> None:
            kept[run.epoch] = snapshot(run.model)

    learn = make(metrics=[Says(0.1, 0.9, 0.3)], callbacks=[Keeps(), SaveBest("says", "mine")])
    learn.fit(3, 1e-2)
    assert not moved(kept[2], learn.model)
    assert "says 0.9 in epoch 1" in caplog.text
    assert 'learn.load("mine")' in caplog.text
    learn.load("mine")
    assert not moved(kept[1], learn.model)
    assert learn.epochs_done == 2


def test_the_best_weights_come_back_and_frozen_stays_frozen(make, caplog) -> None:
    def fit(best: SaveBest, *values: float):
        learn = make(metrics=[Says(*values)], callbacks=[best])
        learn.freeze()
        learn.fit(len(values), 1e-2, feature_cache=False)
        return learn

    learn = fit(SaveBest("says", restore=True), 0.9, 0.2, 0.3)
    assert not moved(snapshot(fit(SaveBest("says", "other"), 0.9).model), learn.model)
    assert learn.layer_groups.frozen == (True, True, False)
    assert learn.epochs_done == len(learn.history) == 3
    assert "the model has its weights" in caplog.text
    assert len(learn.opt.state) > 0


def test_a_resumed_fit_knows_its_best_epoch(make, tmp_path) -> None:
    def best() -> SaveBest:
        return SaveBest("says", restore=True)

    saved = {"checkpoint_dir": tmp_path / "saved", "resume": True}
    unbroken = make(metrics=[Says(0.1, 0.9, 0.3)], callbacks=[best()], path=tmp_path / "one")
    unbroken.fit(3, 1e-2)
    options = {"path": tmp_path / "two"}
    crash(make(metrics=[Says(0.1, 0.9)], callbacks=[best()], **options), 14, 3, 1e-2, **saved)
    resumed = make(metrics=[Says(0.3)], callbacks=[best()], **options)
    resumed.fit(3, 1e-2, **saved)
    assert not moved(snapshot(unbroken.model), resumed.model)
    assert [row.metrics for row in unbroken.history] == [row.metrics for row in resumed.history]


@pytest.mark.parametrize("begun", [False, True])
def test_the_phases_of_fine_tune_share_one_best_also_when_resumed(make, tmp_path, begun) -> None:
    """Killed in the second phase, or between both: the epoch of the first is still the best."""

    class Killed:
        def before_epoch(self, run) -> None:
            if run.earlier and (run.epoch if begun else True):
                raise KeyboardInterrupt

        def before_fit(self, run) -> None:
            if run.earlier and not begun:
                raise KeyboardInterrupt

    def learner(*values: float, callbacks: tuple = ()):
        best = SaveBest("says", restore=True)
        return make(
            metrics=[Says(*values)], callbacks=[*callbacks, best], path=tmp_path / "models", seed=1
        )

    saved = {"checkpoint_dir": tmp_path / "saved", "resume": True}
    head = learner(0.9)
    head.fine_tune(0)
    killed = learner(0.9, 0.2, callbacks=(Killed(),))
    with pytest.raises(KeyboardInterrupt):
        killed.fine_tune(2, **saved)
    resumed = learner(*([0.3] if begun else [0.2, 0.3]))
    resumed.fine_tune(2, **saved)
    assert [row.metrics["says"] for row in resumed.history] == [0.9, 0.2, 0.3]
    assert not moved(snapshot(head.model), resumed.model)


def test_a_best_epoch_before_surgery_is_told_and_left(make, caplog) -> None:
    class Surgery:
        def before_epoch(self, run) -> None:
            if run.epoch == 1:
                run.model[1][4] = torch.nn.Linear(8, 4)

    callbacks = [Surgery(), SaveBest("says", restore=True)]
    learn = make(metrics=[Says(0.9, 0.1)], callbacks=callbacks)
    learn.fit(2)
    assert "has changed since" in caplog.text
    assert learn.model[1][4].out_features == 4


# Lower rates


def test_rates_are_lowered_for_all_groups(make, caplog) -> None:
    plateau = ReduceLROnPlateau("says", factor=0.5, patience=1, min_lr=3e-4)
    learn = make(metrics=[Says(0.5, 0.4, 0.3, 0.2)], callbacks=[plateau])
    rows = learn.fit(4, [1e-3, 2e-3, 1e-2])
    assert [row.lrs for row in rows] == [
        pytest.approx(lrs)
        for lrs in [
            (1e-3, 2e-3, 1e-2),
            (1e-3, 2e-3, 1e-2),
            (5e-4, 1e-3, 5e-3),
            (3e-4, 5e-4, 2.5e-3),
        ]
    ]
    assert learn.layer_groups.rates == pytest.approx((3e-4, 5e-4, 2.5e-3))
    assert caplog.text.count("rates become") == 2


# Losses that are not finite


def test_the_last_good_weights_come_back(make, caplog) -> None:
    learn = make(callbacks=[Spoil(8), StopOnNaN()])
    rows = learn.fit(4, 1e-2)
    good = make()
    good.fit(1, 1e-2)
    assert not moved(snapshot(good.model), learn.model)
    assert len(rows) == 2
    assert rows[1].note == "the loss became nan at step 8"
    assert rows[1].valid_loss is None
    assert rows[1].train_loss == pytest.approx(rows[1].train_loss)
    assert "those from after epoch 0" in caplog.text
    learn.callbacks.clear()
    assert learn.fit(1, 1e-2)[0].valid_loss > 0


def test_in_the_first_epoch_the_first_weights_come_back(make, caplog) -> None:
    learn = make(callbacks=[StopOnNaN(), Spoil(3), SaveBest()])
    before = snapshot(learn.model)
    learn.fit_one_cycle(2)
    assert not moved(before, learn.model)
    assert "before the fit" in caplog.text
    assert "Nothing was saved as 'best'" in caplog.text


def test_without_it_the_loss_is_an_error(make) -> None:
    with pytest.raises(TrainingError, match="became nan at step 3"):
        make(callbacks=[Spoil(3)]).fit(1)


def test_good_weights_survive_a_crash(make, tmp_path) -> None:
    saved = {"checkpoint_dir": tmp_path / "saved", "resume": True, "checkpoint_every": 2}
    crash(make(callbacks=[Spoil(11), StopOnNaN()]), 9, 3, 1e-2, **saved)
    learn = make(callbacks=[Spoil(11), StopOnNaN()])
    learn.fit(3, 1e-2, **saved)
    good = make()
    good.fit(1, 1e-2)
    assert not moved(snapshot(good.model), learn.model)
