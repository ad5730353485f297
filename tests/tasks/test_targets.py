from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from layergroups.errors import DataError
from layergroups.tasks import parse_labels


def meant(labels: Any, **options: Any) -> Any:
    return parse_labels(labels, [f"{i}.jpg" for i in range(len(labels))], **options)


@pytest.mark.parametrize(
    ("labels", "task", "vocab"),
    [
        (["dog", "cat", "dog"], "multiclass", ("cat", "dog")),
        ([10, 9, 10], "multiclass", ("9", "10")),
        (["10", " 9", "10"], "multiclass", ("9", "10")),
        ([True, False], "multiclass", ("False", "True")),
        (["0.5", "2", "1e-3"], "regression", ("value",)),
        ([0.5, 2, 1.5], "regression", ("value",)),
        (np.array([0.5, 2.0], np.float32), "regression", ("value",)),
        (np.array([3, 7]), "multiclass", ("3", "7")),
        (torch.tensor([[0.5, 1.0], [2.0, 3.0]]), "regression", ("value 0", "value 1")),
        ([[12, 40], [7, 9]], "regression", ("value 0", "value 1")),
        ([["a", "c"], [], ["b"]], "multilabel", ("a", "b", "c")),
        ([{"a"}, ("b", "a")], "multilabel", ("a", "b")),
        ([[0, 1, 1], [1, 0, 0]], "multilabel", ("0", "1", "2")),
        ([[4], [4, 11], []], "multilabel", ("4", "11")),
        ([[1], [0]], "regression", ("value",)),
    ],
)
def test_what_labels_mean_is_seen(labels: Any, task: str, vocab: tuple[str, ...]) -> None:
    found = meant(labels)
    assert (found.task, found.vocab) == (task, vocab)


def test_labels_are_kept_as_positions_or_numbers() -> None:
    assert meant(["dog", "cat", "dog"]).labels == (1, 0, 1)
    assert meant([["c", "a", "a"], [], ["b"]]).labels == ((0, 2), (), (1,))
    assert meant([[0, 1, 1], [1, 0, 0]]).labels == ((1, 2), (0,))
    assert meant([0.5, 2.0]).labels == ((0.5,), (2.0,))


def test_the_task_may_be_said() -> None:
    assert meant([21, 40], task="regression").labels == ((21.0,), (40.0,))
    assert meant([1.5, 2.5, 1.5], task="multiclass").vocab == ("1.5", "2.5")
    assert meant(["a", "", "b"], task="multilabel").labels == ((0,), (), (1,))
    assert meant([[0, 1], [1, 0]], task="regression").labels == ((0.0, 1.0), (1.0, 0.0))


def test_the_vocabulary_may_be_said() -> None:
    assert meant(["b", "a"], vocab=["b", "a", "c"]).labels == (0, 1)
    assert meant([[0, 1], [1, 0]], vocab=["x", "y"]).vocab == ("x", "y")
    assert meant([0.5, 0.7], vocab=["length"]).vocab == ("length",)


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a", None, "b"], {}, r"no class for 1 item \('1.jpg'\)"),
        ([0.5, float("nan")], {}, r"no number for 1 item \('1.jpg'\).*on_error='skip'"),
        (["a", "a"], {}, "at least two classes"),
        (["a", "b"], {"task": "classes"}, '"multilabel", "regression", "segmentation"'),
        (["a", "b"], {"vocab": ["a"]}, r"lacks 'b' \('b' is the label of 1.jpg\)"),
        (["a", "b"], {"vocab": "ab"}, "expected a list of names"),
        (["a", "b"], {"vocab": ["a", "b", "a"]}, "a name twice"),
        (["a", "0.5"], {"task": "regression"}, "'0.jpg'.*the first has 'a'"),
        ([[1.0, 2.0], [1.0]], {"task": "regression"}, "different counts"),
        ([[1.5, 2.0], [1.5, 3.0]], {"vocab": ["x"]}, "1 names, but each .* has 2"),
        ([["a"], ["b"]], {"task": "multiclass"}, "task='multilabel'"),
        ([[], []], {"task": "multilabel"}, "nothing to learn"),
        ([["a"], ["b"]], {"vocab": ["a"]}, "lacks 'b'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(
    labels: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        meant(labels, **options)


def test_many_whole_numbers_are_remarked_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "layergroups"):
        assert meant(list(range(40))).task == "multiclass"
    assert "give task='regression'" in caplog.text


@pytest.mark.parametrize(("labels", "told"), [(["1,5", "20,25"], True), (["1,5", "a"], False)])
def test_numbers_with_a_decimal_comma_are_told(
    labels: list[str], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    assert meant(labels).task.name == "multiclass"
    assert ("decimal" in caplog.text) is told
