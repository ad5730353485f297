"""One class, several labels, or numbers: what a learner makes of each, from fit to load."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import LabelLoaders, NumberLoaders, TinyLoaders, pretrained, tiny_model
from torch import nn
from torchmetrics.regression import MeanAbsoluteError

from layergroups.errors import TrainingError
from layergroups.tasks import TASKS, task_meant_by
from layergroups.training import FineTuneDefaults, LabelsPrediction, NumbersPrediction, Prediction

ALL = FineTuneDefaults(lowest=0)  # the tiny body begins from noise


def model_for(dls: TinyLoaders) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return pretrained(tiny_model(dls.c))


def test_the_task_tells_the_loss(make) -> None:
    assert type(make().loss_func) is nn.CrossEntropyLoss
    labels, numbers = LabelLoaders(), NumberLoaders()
    assert type(make(dls=labels).loss_func) is nn.BCEWithLogitsLoss
    assert type(make(model_for(numbers), dls=numbers).loss_func) is nn.MSELoss


def test_data_without_a_task_are_taken_as_the_loss_means_them(make) -> None:
    assert task_meant_by(None) == task_meant_by(lambda out, targets: out.sum()) == "multiclass"
    assert task_meant_by(nn.BCEWithLogitsLoss()) == task_meant_by(nn.BCELoss()) == "multilabel"
    assert task_meant_by(partial(nn.functional.huber_loss, delta=2.0)) == "regression"
    assert task_meant_by(nn.PoissonNLLLoss()) == "regression"
    assert make(dls=TinyLoaders(), loss_func=nn.MSELoss()).task is TASKS["regression"]
    assert make(dls=LabelLoaders(), loss_func=nn.MSELoss()).task is TASKS["multilabel"]


def test_labels_above_the_threshold_are_named_likeliest_first() -> None:
    found = TASKS["multilabel"].decode(torch.tensor([0.6, 0.2, 0.9]), ("a", "b", "c"), 0.5)
    assert isinstance(found, LabelsPrediction)
    assert (found.labels, found.indices) == (("c", "a"), (2, 0))
    assert found.by_name == pytest.approx({"a": 0.6, "b": 0.2, "c": 0.9})
    assert str(found) == "c, a (c 0.900, a 0.600, b 0.200)"
    nothing = TASKS["multilabel"].decode(torch.tensor([0.1]), ("a",), 0.5)
    assert nothing.labels == ()
    assert str(nothing) == "no label (a 0.100)"


def test_numbers_come_by_name() -> None:
    found = TASKS["regression"].decode(torch.tensor([0.25, 1300.0]), ("width", "weight"))
    assert isinstance(found, NumbersPrediction)
    assert found.by_name == {"width": 0.25, "weight": 1300.0}
    assert str(found) == "width 0.25, weight 1300"
    assert TASKS["regression"].decode(torch.tensor([3.0]), ()).by_name == {"0": 3.0}


def test_fine_tune_learns_several_labels(make) -> None:
    dls = LabelLoaders(n=96)
    learn = make(model_for(dls), dls=dls, metrics=[right_labels])
    before = learn.validate()
    history = learn.fine_tune(8, 2e-2, defaults=ALL)
    after = learn.validate()
    assert after["valid_loss"] < 0.6 * before["valid_loss"]
    assert after["right_labels"] > 0.85 > 0.7 > before["right_labels"]
    assert history[-1].metrics["right_labels"] == after["right_labels"]


def test_metrics_by_name_count_labels_above_the_threshold(make) -> None:
    learn = make(model_for(LabelLoaders()), dls=LabelLoaders(), thresh=0.3, metrics="accuracy")
    probabilities, targets = learn.get_preds()
    for thresh in (0.3, 0.5, 0.6):
        learn.thresh = thresh
        by_hand = float(((probabilities > thresh).float() == targets).float().mean())
        assert learn.validate()["accuracy"] == pytest.approx(by_hand)
    assert learn.fit(1)[0].metrics["accuracy"] == learn.validate()["accuracy"]


def test_metrics_are_checked_when_they_are_assigned(make) -> None:
    learn = make()
    learn.metrics = "accuracy"
    assert learn.metrics == ["accuracy"]
    learn.metrics = partial(right_labels)
    assert len(learn.metrics) == 1
    with pytest.raises(TrainingError, match="rmse"):
        learn.metrics = ["rmse"]
    assert len(learn.metrics) == 1


def right_labels(probabilities: torch.Tensor, targets: torch.Tensor) -> float:
    return float(((probabilities > 0.5) == targets.bool()).float().mean())


def test_fine_tune_learns_numbers(make) -> None:
    dls = NumberLoaders(n=96)
    learn = make(model_for(dls), dls=dls, metrics=[MeanAbsoluteError()])
    before = learn.validate()
    learn.fine_tune(10, 2e-2, defaults=ALL)
    after = learn.validate()
    assert after["MeanAbsoluteError"] < 0.12 < 0.3 < before["MeanAbsoluteError"]
    found, targets = learn.get_preds()
    assert found.shape == targets.shape == (18, 2)
    assert (found - targets).abs().mean().item() == pytest.approx(after["MeanAbsoluteError"])


@pytest.mark.parametrize("kind", [LabelLoaders, NumberLoaders])
def test_the_best_head_is_chosen_by_photos_held_out_for_any_task(make, kind) -> None:
    dls = kind(n=200)  # of few photos none are held out
    head, _ = make(model_for(dls), dls=dls).fine_tune(1, 1e-2)
    assert head.note.startswith("best of")


def test_predictions_of_one_item_are_those_of_all(make) -> None:
    for dls in (TinyLoaders(), LabelLoaders(), NumberLoaders()):
        learn = make(model_for(dls), dls=dls, thresh=0.3)
        learn.fit(1)
        found, _, losses = learn.get_preds(with_loss=True)
        assert losses.shape == (18,)
        assert losses.mean().item() == pytest.approx(learn.validate()["valid_loss"], rel=1e-5)
        one = learn.predict(dls.valid.x[0])
        values = one.numbers if isinstance(one, NumbersPrediction) else one.probabilities
        assert torch.allclose(values, found[0], atol=1e-6)
        if isinstance(one, LabelsPrediction):
            assert set(one.indices) == set((found[0] > 0.3).nonzero().flatten().tolist())
        assert isinstance(one, Prediction) == (type(dls) is TinyLoaders)


def test_what_is_saved_goes_on_as_it_was(make) -> None:
    for dls in (LabelLoaders(), NumberLoaders()):
        first = make(model_for(dls), dls=dls)
        first.fit(1)
        first.save("state")
        expected = first.fit(1)
        second = make(model_for(dls), dls=dls).load("state")
        assert second.fit(1)[0].valid_loss == expected[0].valid_loss


def test_a_frozen_body_is_stored_for_any_task(make) -> None:
    for dls in (LabelLoaders(), NumberLoaders()):
        learn = make(model_for(dls), dls=dls)
        learn.freeze()
        rows = learn.fit(4)
        assert rows[-1].note == "frozen outputs stored"


MISMATCHES: list[tuple[type[TinyLoaders], Any, str]] = [
    (
        LabelLoaders,
        nn.CrossEntropyLoss(),
        r"CrossEntropyLoss .*'multilabel'.*BCEWithLogitsLoss\(\)",
    ),
    (LabelLoaders, nn.functional.cross_entropy, "cross_entropy .*'multilabel'"),
    (NumberLoaders, nn.CrossEntropyLoss(), r"'regression'.*float32 \(N, K\).*MSELoss\(\)"),
    (NumberLoaders, partial(nn.functional.cross_entropy, label_smoothing=0.1), "'regression'"),
]


@pytest.mark.parametrize(("loaders", "loss", "says"), MISMATCHES)
def test_a_loss_for_another_task_is_refused_before_anything_moves(
    make, loaders, loss, says
) -> None:
    dls = loaders()
    learn = make(model_for(dls), dls=dls, loss_func=loss)
    with pytest.raises(TrainingError, match=says):
        learn.fit(1)
    with pytest.raises(TrainingError, match=says):
        learn.validate()


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), nn.MSELoss()])
def test_a_loss_of_labels_or_numbers_is_refused_for_classes(make, loss) -> None:
    dls = TinyLoaders()
    dls.task = "multiclass"  # type: ignore[attr-defined] # data of the library say it
    with pytest.raises(TrainingError, match=r"'multiclass'.*int64 \(N,\).*CrossEntropyLoss\(\)"):
        make(dls=dls, loss_func=loss).fit(1)


def test_targets_that_do_not_fit_the_outputs_are_explained(make) -> None:
    dls = NumberLoaders()
    for batches in (dls.train, dls.valid):
        batches.y = batches.y[:, 0]
    learn = make(model_for(dls), dls=dls)
    with pytest.raises(TrainingError, match=r"\(8, 2\).*targets \(8,\).*targets\[:, None\]"):
        learn.fit(1)
    labels = LabelLoaders()
    labels.train.y = labels.train.y * 255
    with pytest.raises(TrainingError, match=r"from 0 to 255.*task='regression'"):
        make(dls=labels).fit(1)


def test_a_task_and_a_threshold_are_checked(make) -> None:
    with pytest.raises(TrainingError, match=r"'mutli'.*\"multilabel\""):
        make(dls=LabelLoaders(task="mutli"))
    for wrong in (0, 1.5, "high", True):
        with pytest.raises(TrainingError, match=r"thresh=.*between 0 and 1.*thresh=0\.5"):
            make(thresh=wrong)


def test_data_of_another_task_are_refused(make) -> None:
    dls = LabelLoaders()
    learn = make(model_for(dls), dls=dls)
    with pytest.raises(TrainingError, match=r"task 'regression'.*made for 'multilabel'"):
        learn.dls = NumberLoaders()


def test_a_run_that_is_cut_off_goes_on_bit_for_bit(make, tmp_path: Path) -> None:
    dls = LabelLoaders()
    whole = make(model_for(dls), dls=dls).fine_tune(2, 1e-2)

    class Crash:
        def after_epoch(self, run: Any) -> None:
            if run.phase == "late" and run.epoch == 0:
                raise RuntimeError("power cut")

    folder = tmp_path / "runs"
    broken = make(model_for(dls), dls=dls, callbacks=[Crash()])
    with pytest.raises(TrainingError, match="power cut"):
        broken.fine_tune(2, 1e-2, checkpoint_dir=folder)
    again = make(model_for(dls), dls=dls)
    rows = again.fine_tune(2, 1e-2, checkpoint_dir=folder, resume=True)
    assert [row.valid_loss for row in rows] == [row.valid_loss for row in whole]
