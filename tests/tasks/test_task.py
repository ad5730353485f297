"""One class, several labels, or numbers: what a learner makes of each, from fit to load."""

from __future__ import annotations

import pickle
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.training.tiny import LabelLoaders, NumberLoaders, TinyLoaders, pretrained, tiny_model
from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy
from torch import nn
from torchmetrics.regression import MeanAbsoluteError

from layergroups.errors import DataError, LayerGroupsError, TrainingError
from layergroups.tasks import TASKS, checked_task, parse_labels, task_meant_by, task_named
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


def test_a_model_that_ends_in_a_sigmoid_is_trained_by_bce_loss(make, tmp_path: Path) -> None:
    """A second sigmoid would lift every probability above 0.5."""
    dls = LabelLoaders(n=96)
    model = model_for(dls)
    model[1].append(nn.Sigmoid())
    for loss in (nn.BCELoss(), ProbabilityLoss(), nn.functional.binary_cross_entropy):
        learn = make(deepcopy(model), dls=dls, loss_func=loss, metrics=["accuracy", "log_loss"])
        with torch.no_grad():
            outputs = learn.model.eval()(dls.valid.x)
        found, targets = learn.get_preds()
        assert torch.allclose(found, outputs, atol=1e-6)
        measured = learn.validate()
        right = (outputs > 0.5) == targets.bool()
        assert measured["accuracy"] == pytest.approx(float(right.float().mean()))
        assert measured["log_loss"] == pytest.approx(measured["valid_loss"], rel=1e-4)
        one = learn.predict(dls.valid.x[0])
        assert set(one.indices) == set((outputs[0] > 0.5).nonzero().flatten().tolist())
        assert learn.fit(1)[0].valid_loss == pytest.approx(learn.validate()["valid_loss"])


class ProbabilityLoss(nn.BCELoss):
    """Derived from torch's."""


def test_binary_cross_entropy_of_timm_trains_classes(make) -> None:
    learn = make(loss_func=TimmBinaryCrossEntropy(smoothing=0.1), metrics="accuracy")
    assert learn.task == "multiclass"
    learn.dls.train.y = nn.functional.one_hot(learn.dls.train.y, 3).float()
    learn.fit(3, 2e-2)
    found, targets = learn.get_preds()
    assert torch.allclose(found.sum(1), torch.ones(len(found)))
    assert float((found.argmax(1) == targets).float().mean()) > 0.5


def test_counts_are_predicted_in_their_own_unit(make) -> None:
    dls = NumberLoaders()
    rates = nn.PoissonNLLLoss(log_input=False)
    for loss, activation in ((nn.PoissonNLLLoss(), torch.exp), (rates, torch.clone)):
        learn = make(model_for(dls), dls=dls, loss_func=loss)
        with torch.no_grad():
            outputs = learn.model.eval()(dls.valid.x)
        assert torch.allclose(learn.get_preds()[0], activation(outputs), atol=1e-5)


class Maps(TinyLoaders):
    """A class for each pixel."""

    vocab = ("dark", "bright")

    def __post_init__(self) -> None:
        super().__post_init__()
        for batches in (self.train, self.valid):
            batches.y = (batches.x.mean(1) > 0).long()


def pixelwise() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.Conv2d(4, 2, 1))


def test_classes_beyond_the_outputs_are_found_in_maps_too(make) -> None:
    dls = Maps(vocab=("dark", "bright"))
    make(pixelwise(), dls=dls, split="auto").fit(1)
    dls.train.y[:, 3, 5] = 255
    with pytest.raises(TrainingError, match=r"2 outputs.*class 255.*ignore_index"):
        make(pixelwise(), dls=dls, split="auto").fit(1)
    for loss in (
        nn.CrossEntropyLoss(ignore_index=255),
        partial(nn.functional.cross_entropy, ignore_index=255),
    ):
        make(pixelwise(), dls=dls, split="auto", loss_func=loss).fit(1)
    dls.valid.y[0, 0, 0] = -1
    with pytest.raises(TrainingError, match=r"class -1"):
        make(pixelwise(), dls=dls, split="auto").validate()


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


def test_a_task_is_one_object_that_equals_its_name() -> None:
    for name, task in TASKS.items():
        assert task is task_named(name) is deepcopy(task) is pickle.loads(pickle.dumps(task))
        assert (str(task), task.name, f"{task}") == (name,) * 3
        assert task == name
        assert name == task
        assert task != "segmentation"
        assert {task: 1}[name] == 1
    assert [task.count(1) for task in TASKS.values()] == ["1 class", "1 label", "1 number"]
    assert TASKS["multiclass"].count(3) == "3 classes"


def test_old_names_are_read_from_files_and_refused_from_people() -> None:
    assert task_named("single") is TASKS["multiclass"]
    assert task_named("multi") is TASKS["multilabel"]
    with pytest.raises(TrainingError, match='"multi" is now task="multilabel"'):
        checked_task("multi")
    with pytest.raises(DataError, match='"single" is now task="multiclass"'):
        parse_labels(["a", "b"], ["1.jpg", "2.jpg"], task="single")
    with pytest.raises(LayerGroupsError, match="'pose' is not known"):
        task_named("pose")
