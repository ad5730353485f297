"""The confusion matrix counts right, and says what is mistaken for what."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from layergroups.errors import LayerGroupsError
from layergroups.reports import Confusion, ConfusionMatrix, confusion_matrix
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

    learn = Learner(Data(), model, split=["2"], progress=False)  # type: ignore[arg-type] # the least that data may be
    found = confusion_matrix(learn)
    assert found.classes == ("no", "yes")
    assert [sum(row) for row in found.matrix] == [1, 2]
    predicted = learn.get_preds()[0].argmax(1)
    assert found.correct == int((predicted == batches[0][1]).sum())


def test_a_matrix_prints_a_row_for_each_class() -> None:
    matrix = ConfusionMatrix(((3, 10), (0, 7)), ("cat", "mouse"))
    assert str(matrix) == "cat     3  10\nmouse   0   7"
    assert str(matrix.most_confused(1)[0]) == "cat predicted as mouse: 10"
