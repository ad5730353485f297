"""What each name of a metric means: against figures worked out by hand, over several batches."""

import math

import pytest
import torch
import torchmetrics
from tests.training.tiny import TinyLoaders, tiny_model
from torch import nn

from layergroups.errors import TrainingError
from layergroups.tasks import (
    TASKS,
    Calibration,
    Meter,
    as_list,
    check_metrics,
    higher_is_better,
    metric_names,
)
from layergroups.training import Learner

MULTICLASS = TASKS["multiclass"]

CLASSES = torch.tensor(
    [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.5, 0.4]]
)
CLASS = torch.tensor([0, 1, 1, 2, 2])
LABELS = torch.tensor([[0.9, 0.2, 0.6], [0.4, 0.7, 0.1], [0.8, 0.6, 0.3], [0.2, 0.1, 0.7]])
LABEL = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
NUMBERS = torch.tensor([[1.0, 10.0], [2.0, 14.0], [4.0, 12.0], [3.0, 20.0]])
NUMBER = torch.tensor([[1.5, 11.0], [2.0, 12.0], [3.0, 14.0], [5.0, 19.0]])
# Each class as a map of one pixel, beside one that is ignored.
MAPS = CLASSES[..., None, None].repeat(1, 1, 1, 2)
MASKS = torch.stack([CLASS, torch.full_like(CLASS, -100)], dim=1)[:, None]
LABEL_MAPS = LABELS[..., None, None].repeat(1, 1, 1, 2)
LABEL_MASKS = torch.stack([LABEL, torch.full_like(LABEL, -100)], dim=-1)[:, :, None]
RIGHT = nn.functional.one_hot(CLASS).float()
ITEMS = {
    "multiclass": (CLASSES, CLASS),
    "multilabel": (LABELS, LABEL),
    "regression": (NUMBERS, NUMBER),
    "segmentation": (MAPS, MASKS),
    "multilabel_segmentation": (LABEL_MAPS, LABEL_MASKS),
}


def measure(task: str, *metrics: object) -> dict[str, float]:
    said, true = ITEMS[task]
    meter = Meter(metrics, said.shape[1], TASKS[task])
    for part in (slice(0, 2), slice(2, 3), slice(3, None)):
        meter.update(said[part], true[part])
    return meter.compute()


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def ranks(values: torch.Tensor) -> torch.Tensor:
    return values.argsort().argsort().double()


EXPECTED = {
    "multiclass": {
        "average_precision": (1.0 + (1 + 2 / 3) / 2 + 1.0) / 3,
        "auroc": (1.0 + 5 / 6 + 1.0) / 3,
        "jaccard": (1 / 2 + 1 / 3 + 1 / 2) / 3,
        "cohen_kappa": (3 / 5 - 8 / 25) / (1 - 8 / 25),
        "matthews": (3 * 5 - 8) / math.sqrt((25 - 9) * (25 - 9)),
        "log_loss": -sum(map(math.log, (0.7, 0.8, 0.3, 0.6, 0.4))) / 5,
        "brier": (0.14 + 0.06 + 0.78 + 0.24 + 0.62) / 5,
        "ece": (0.3 + 0.2 + 0.5 + 0.4 + 0.5) / 5,
    },
    "multilabel": {
        "accuracy": 9 / 12,
        "accuracy_multi": 9 / 12,
        "hamming_loss": 3 / 12,
        "exact_match": 1 / 4,
        "precision": (1 + 1 + 1 / 2) / 3,
        "recall": (2 / 3 + 1 + 1 / 2) / 3,
        "f1": (4 / 5 + 1 + 1 / 2) / 3,
        "f1_multi": (4 / 5 + 1 + 1 / 2) / 3,
        "f1_micro": 2 * 5 / (2 * 5 + 1 + 2),
        "jaccard": (2 / 3 + 1 + 1 / 3) / 3,
        "roc_auc": (1 + 1 + 3 / 4) / 3,
        "average_precision": (1 + 1 + (1 + 2 / 3) / 2) / 3,
        "brier": float((LABELS - LABEL).square().mean()),
        "log_loss": float(nn.functional.binary_cross_entropy(LABELS, LABEL)),
    },
    "regression": {
        "mse": (0.25 + 0 + 1 + 4 + 1 + 4 + 4 + 1) / 8,
        "rmse": math.sqrt((0.25 + 0 + 1 + 4 + 1 + 4 + 4 + 1) / 8),
        "mae": (0.5 + 0 + 1 + 2 + 1 + 2 + 2 + 1) / 8,
        "r2": sum(
            1 - float((NUMBERS[:, i] - NUMBER[:, i]).square().sum())
            / float((NUMBER[:, i] - NUMBER[:, i].mean()).square().sum())
            for i in (0, 1)
        ) / 2,
        "explained_variance": sum(
            1 - float((NUMBERS[:, i] - NUMBER[:, i]).var()) / float(NUMBER[:, i].var())
            for i in (0, 1)
        ) / 2,
        "pearson": sum(correlation(NUMBERS[:, i], NUMBER[:, i]) for i in (0, 1)) / 2,
        "spearman": sum(
            correlation(ranks(NUMBERS[:, i]), ranks(NUMBER[:, i])) for i in (0, 1)
        ) / 2,
    },
    "segmentation": {
        "iou": (1 / 2 + 1 / 3 + 1 / 2) / 3,
        "dice": (2 / 3 + 1 / 2 + 2 / 3) / 3,
        "accuracy": 3 / 5,
        "recall": (1 + 1 / 2 + 1 / 2) / 3,
        "precision": (1 / 2 + 1 / 2 + 1) / 3,
    },
    "multilabel_segmentation": {
        "iou": (2 / 3 + 1 + 1 / 3) / 3,
        "dice": (4 / 5 + 1 + 1 / 2) / 3,
        "accuracy": 9 / 12,
        "recall": (2 / 3 + 1 + 1 / 2) / 3,
        "precision": (1 + 1 + 1 / 2) / 3,
    },
}  # fmt: skip


@pytest.mark.parametrize(("task", "name"), [(task, n) for task in TASKS for n in EXPECTED[task]])
def test_a_name_means_what_it_says(task: str, name: str) -> None:
    assert measure(task, name)[name] == pytest.approx(EXPECTED[task][name], abs=1e-5)


@pytest.mark.parametrize(("task", "name"), [(t, n) for t in TASKS for n in TASKS[t].metrics])
def test_right_answers_are_the_best_value_and_the_direction_is_known(task: str, name: str) -> None:
    """So that early stopping cannot look the wrong way."""
    said, true = ITEMS[task]
    maps = RIGHT[..., None, None].repeat(1, 1, 1, 2)
    right = {"multiclass": RIGHT, "segmentation": maps}.get(task, true)
    values = []
    for given in (said, right):
        meter = Meter([name], said.shape[1], TASKS[task])
        meter.update(given, true)
        values.append(meter.compute()[name])
    assert higher_is_better(name, TASKS[task]) is (values[1] > values[0])
    assert values[1] == pytest.approx(1.0 if values[1] > values[0] else 0.0, abs=1e-5)


def test_one_number_for_each_item() -> None:
    names = tuple(TASKS["regression"].metrics)
    meter = Meter(names, 1, TASKS["regression"])
    meter.update(NUMBERS[:, :1], NUMBER[:, :1])
    found = meter.compute()
    assert found["mse"] == pytest.approx(5.25 / 4)
    assert found["pearson"] == pytest.approx(correlation(NUMBERS[:, 0], NUMBER[:, 0]))


def test_objects_of_torchmetrics_get_targets_of_the_kind_they_want() -> None:
    given = torchmetrics.classification.MultilabelF1Score(num_labels=3)  # refuses float targets
    assert measure("multilabel", given)["MultilabelF1Score"] == pytest.approx(
        EXPECTED["multilabel"]["f1"]
    )
    given = torchmetrics.MeanSquaredError()
    assert measure("regression", given)["MeanSquaredError"] == pytest.approx(15.25 / 8)


def test_functions_get_the_targets_as_they_are() -> None:
    def kind(probabilities: torch.Tensor, targets: torch.Tensor) -> float:
        assert targets.dtype == torch.float32
        return float(targets.sum())

    assert measure("multilabel", kind) == {"kind": 7.0}


@pytest.mark.parametrize(
    ("task", "name", "says"),
    [
        ("multiclass", "mse", "is for numbers; these data have one class for each item.*accuracy"),
        ("multiclass", "top_0_accuracy", "No metric is called"),
        ("multilabel", "ece", "is for one class for each item.*several labels.*hamming_loss"),
        ("multilabel", "top_2_accuracy", "exact_match"),
        ("regression", "accuracy", "is for one class.*these data have numbers.*mse, rmse, mae"),
        ("regression", "rmsee", "No metric is called 'rmsee'.*rmse"),
    ],
)
def test_a_name_that_does_not_fit_the_task_lists_those_that_do(task, name, says) -> None:
    with pytest.raises(TrainingError, match=says):
        check_metrics([name], TASKS[task])


def test_a_learner_takes_the_task_from_its_data() -> None:
    dls = TinyLoaders()
    dls.task = "multilabel"
    with pytest.raises(TrainingError, match="these data have several labels"):
        Learner(dls, tiny_model(), metrics=["balanced_accuracy"])
    for batches in (dls.train, dls.valid):
        batches.y = nn.functional.one_hot(batches.y).float()
    loss = nn.BCEWithLogitsLoss()
    learn = Learner(dls, tiny_model(), metrics=["accuracy", "f1"], loss_func=loss, progress=False)
    row = learn.fit(1)[0]
    assert learn.validate()["f1"] == row.metrics["f1"]
    probabilities, targets = learn.get_preds()
    right = ((probabilities > 0.5) == (targets > 0.5)).float().mean()
    assert row.metrics["accuracy"] == pytest.approx(float(right))


def test_which_way_is_up() -> None:
    assert higher_is_better(torchmetrics.MeanSquaredError(), TASKS["multiclass"]) is False
    assert (
        higher_is_better(
            torchmetrics.classification.MulticlassAUROC(num_classes=3), TASKS["multiclass"]
        )
        is True
    )
    assert higher_is_better(len, TASKS["multiclass"]) is None
    assert higher_is_better("top_5_accuracy", TASKS["multiclass"]) is True
    assert metric_names(["f1", len, "f1"]) == ["f1", "len", "f1_"]


# torchmetrics objects and functions


PROBABILITIES = torch.tensor(
    [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.5, 0.4]]
)
TARGETS = torch.tensor([0, 1, 1, 2, 2])


def measure_classes(*metrics: object, n_classes: int = 3) -> dict[str, float]:
    meter = Meter(metrics, n_classes, MULTICLASS)
    meter.update(PROBABILITIES[:2], TARGETS[:2])
    meter.update(PROBABILITIES[2:], TARGETS[2:])
    return meter.compute()


def test_metrics_by_name_over_several_batches() -> None:
    found = measure_classes(
        "accuracy", "error_rate", "balanced_accuracy", "f1", "precision", "recall", "roc_auc",
        "top_2_accuracy", "top_5_accuracy",
    )  # fmt: skip
    assert found["accuracy"] == pytest.approx(0.6)
    assert found["error_rate"] == pytest.approx(0.4)
    assert found["balanced_accuracy"] == found["recall"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert found["precision"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert found["f1"] == pytest.approx((2 / 3 + 0.5 + 2 / 3) / 3)
    assert found["top_2_accuracy"] == pytest.approx(1.0)
    assert found["top_5_accuracy"] == pytest.approx(1.0)
    assert 0.5 < found["roc_auc"] <= 1
    assert next(iter(found)) == "accuracy"


def test_a_torchmetrics_object_is_used_and_left_as_it_was() -> None:
    given = torchmetrics.classification.MulticlassAccuracy(num_classes=3, average="micro")
    assert measure_classes(given)["MulticlassAccuracy"] == pytest.approx(0.6)
    assert given.update_count == 0


def test_a_function_sees_all_items_at_once() -> None:
    def sure(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert len(probabilities) == len(targets) == 5
        return (probabilities.max(dim=1).values > 0.55).float().mean()

    assert measure_classes(sure) == {"sure": pytest.approx(0.6)}


def test_two_metrics_of_one_name_are_both_kept() -> None:
    one = torchmetrics.classification.MulticlassAccuracy(num_classes=3, top_k=2)
    two = torchmetrics.classification.MulticlassAccuracy(num_classes=3)
    assert len(measure_classes(one, two)) == 2


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("acuracy", "balanced_accuracy"),
        (torchmetrics.classification.MulticlassAccuracy, r"MulticlassAccuracy\("),
        (3, "not a metric"),
    ],
)
def test_what_is_no_metric_is_refused_early(metric: object, says: str) -> None:
    with pytest.raises(TrainingError, match=says):
        check_metrics([metric], MULTICLASS)


def test_a_failing_metric_is_named() -> None:
    def broken(probabilities: torch.Tensor, targets: torch.Tensor) -> float:
        raise ZeroDivisionError("nothing to divide")

    with pytest.raises(TrainingError, match="broken failed: nothing to divide"):
        measure_classes(broken)


def test_names_need_the_number_of_classes() -> None:
    with pytest.raises(TrainingError, match="vocab"):
        Meter(["accuracy"], 0, MULTICLASS)


def test_one_or_many() -> None:
    assert as_list("accuracy") == ["accuracy"]
    assert as_list(None) == []
    assert as_list(("a", "b")) == ["a", "b"]
    assert as_list(len) == [len]


def test_the_calibration_error_is_that_of_the_report() -> None:
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(200, 4, generator=generator).softmax(1)
    targets = torch.randint(4, (200,), generator=generator)
    meter = Meter(["ece"], 4, MULTICLASS)
    for part in (slice(0, 50), slice(50, None)):
        meter.update(probabilities[part], targets[part])
    graded = MULTICLASS.graded(probabilities, targets)
    assert graded is not None
    error = meter.compute()["ece"]
    assert error == pytest.approx(Calibration.from_predictions(*graded).error)
    theirs = torchmetrics.classification.MulticlassCalibrationError(num_classes=4)
    assert error == pytest.approx(float(theirs(probabilities, targets)), abs=1e-6)


def test_a_meter_takes_the_name_of_a_task_but_no_other() -> None:
    meter = Meter(["mse"], 2, "regression")
    meter.update(NUMBERS, NUMBER)
    assert meter.compute()["mse"] == pytest.approx(15.25 / 8)
    with pytest.raises(TrainingError, match="multiclass"):
        Meter([], 3, "zz")
