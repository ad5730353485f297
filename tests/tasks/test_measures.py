"""Predictions compared with the truth: confusion matrix, classes, calibration, residuals."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from layergroups.errors import LayerGroupsError
from layergroups.reports import confusion_matrix
from layergroups.tasks import (
    TASKS,
    Calibration,
    ClassReport,
    Confusion,
    ConfusionMatrix,
    Residuals,
)
from layergroups.training import Learner

ACTUAL = torch.tensor([0, 0, 0, 1, 1, 2])
PREDICTED = torch.tensor([0, 1, 1, 1, 0, 0])


@pytest.fixture
def confusion() -> ConfusionMatrix:
    scores = nn.functional.one_hot(PREDICTED, 4).float()
    return ConfusionMatrix.from_predictions(scores, ACTUAL, ["cat", "dog", "cow", "emu"])


def test_rows_are_actual_and_columns_predicted(confusion: ConfusionMatrix) -> None:
    assert confusion.matrix == ((1, 2, 0, 0), (1, 1, 0, 0), (1, 0, 0, 0), (0, 0, 0, 0))


def test_figures(confusion: ConfusionMatrix) -> None:
    assert (confusion.correct, confusion.total) == (2, 6)
    assert confusion.accuracy == pytest.approx(1 / 3)
    rows = confusion.class_report().classes
    assert [row.recall for row in rows] == [pytest.approx(1 / 3), 0.5, 0.0, None]
    assert [row.precision for row in rows] == [
        pytest.approx(1 / 3),
        pytest.approx(1 / 3),
        None,
        None,
    ]
    assert [(row.support, row.right) for row in rows] == [(3, 1), (2, 1), (1, 0), (0, 0)]


def test_most_confused_first(confusion: ConfusionMatrix) -> None:
    assert confusion.most_confused(1) == (Confusion("cat", "dog", 2),)
    assert len(confusion.most_confused(9)) == 3


def test_it_turns_into_json(confusion: ConfusionMatrix) -> None:
    again = json.loads(json.dumps(confusion.to_dict()))
    assert again["matrix"][0] == [1, 2, 0, 0]
    assert again["classes"] == ["cat", "dog", "cow", "emu"]


def test_without_targets_it_says_what_is_needed() -> None:
    with pytest.raises(LayerGroupsError, match=r"\(inputs, targets\)"):
        ConfusionMatrix.from_predictions(torch.ones(2, 2), None, ["a", "b"])


def test_counts_and_classes_must_agree() -> None:
    with pytest.raises(LayerGroupsError, match="2 rows of 2 counts"):
        ConfusionMatrix(((1,),), ("a", "b"))


def test_of_a_learner() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    batches = [(torch.randn(3, 2), torch.tensor([0, 1, 1]))]

    class Data:
        train = valid = batches
        vocab = ("no", "yes")

    learn = Learner(Data(), model, split=["2"], progress=False)
    found = confusion_matrix(learn)
    assert found.classes == ("no", "yes")
    assert [sum(row) for row in found.matrix] == [1, 2]
    predicted = learn.get_preds()[0].argmax(1)
    assert found.correct == int((predicted == batches[0][1]).sum())


def test_a_matrix_prints_a_row_for_each_class() -> None:
    matrix = ConfusionMatrix(((3, 10), (0, 7)), ("cat", "mouse"))
    assert str(matrix) == "cat     3  10\nmouse   0   7"
    assert str(matrix.most_confused(1)[0]) == "cat predicted as mouse: 10"


def test_classes_without_items_have_no_figures() -> None:
    report = ClassReport.from_classes(torch.tensor([0, 0]), torch.tensor([0, 0]), ("a", "b"))
    nothing = report["b"]
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.support) == (None,) * 3 + (0,)
    assert report.macro.f1 == 1.0


def test_the_calibration_error_is_the_mean_distance() -> None:
    confidence = torch.tensor([0.95, 0.9, 0.65, 0.7, 0.0])
    right = torch.tensor([True, False, True, True, False])
    found = Calibration.from_predictions(confidence, right, 5)
    assert [b.count for b in found.bins] == [1, 0, 0, 2, 2]
    assert found.bins[4].confidence == pytest.approx(0.925)
    assert found.bins[4].accuracy == 0.5
    gaps = [0.0, 1 - 0.675, 0.425]
    assert found.error == pytest.approx((gaps[0] + 2 * gaps[1] + 2 * gaps[2]) / 5)
    assert found.max_error == pytest.approx(0.425)
    assert found.bins[1].confidence is None


def test_it_agrees_with_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(500, 4, generator=generator).mul(2).softmax(1)
    targets = torch.randint(0, 4, (500,), generator=generator)
    wanted = multiclass_calibration_error(probabilities, targets, 4, n_bins=15)
    right = probabilities.argmax(1) == targets
    found = Calibration.from_predictions(probabilities.max(1).values, right)
    assert found.error == pytest.approx(float(wanted), abs=1e-6)


@pytest.mark.parametrize("bins", [1, 10])
def test_a_model_that_is_always_certain_and_right_is_calibrated(bins: int) -> None:
    found = Calibration.from_predictions(torch.ones(4), torch.ones(4, dtype=torch.bool), bins)
    assert (found.error, found.count) == (0.0, 4)
    assert Calibration.from_predictions(torch.ones(0), torch.ones(0)).error is None


def test_residuals_are_predicted_minus_actual() -> None:
    predicted, actual = torch.tensor([[1.0], [4.0]]), torch.tensor([[2.0], [2.0]])
    found = Residuals.from_predictions(predicted, actual)
    row = found.outputs[0]
    assert found.values == ((-1.0,), (2.0,))
    assert (row.mean, row.mean_absolute, row.largest) == (0.5, 1.5, 2.0)
    assert row.r2 is None  # the actual numbers are all equal


def test_targets_that_are_not_classes_are_left_out() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.6, 0.4]])
    targets = torch.tensor([0, 1, -100, 255])
    task = TASKS["multiclass"]
    assert task.measures(probabilities, targets, ["a", "b"]).matrix == ((1, 0), (0, 1))
    graded = task.graded(probabilities, targets)
    assert graded is not None
    assert Calibration.from_predictions(*graded).count == 2
