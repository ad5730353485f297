"""One class, several labels, or numbers: what a learner makes of each, from fit to load."""

from __future__ import annotations

import pickle
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
import torch
from tests.tasks.trained import model_for, right_labels
from tests.training.tiny import LabelLoaders, NumberLoaders, TinyLoaders
from torch import nn

from layergroups.errors import DataError, LayerGroupsError, TrainingError
from layergroups.tasks import TASKS, checked_task, parse_labels, task_meant_by, task_named
from layergroups.training import LabelsPrediction, NumbersPrediction, Prediction


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


def test_metrics_are_checked_when_they_are_assigned(make) -> None:
    learn = make()
    learn.metrics = "accuracy"
    assert learn.metrics == ["accuracy"]
    learn.metrics = partial(right_labels)
    assert len(learn.metrics) == 1
    with pytest.raises(TrainingError, match="rmse"):
        learn.metrics = ["rmse"]
    assert len(learn.metrics) == 1


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
        assert rows[-1].note == "cached features"


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


def test_a_task_is_one_object_that_equals_its_name() -> None:
    for name, task in TASKS.items():
        assert task is task_named(name) is deepcopy(task) is pickle.loads(pickle.dumps(task))
        assert (str(task), task.name, f"{task}") == (name,) * 3
        assert task == name
        assert name == task
        assert task != "detection"
        assert {task: 1}[name] == 1
    assert [task.count(1) for task in TASKS.values()] == [
        "1 class",
        "1 label",
        "1 number",
        "1 class",
        "1 label",
    ]
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
