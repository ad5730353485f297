"""Absent classes, targets that are left out, and single items."""

import math

import pytest
import torch
from torch import nn

from layergroups.tasks import TASKS, Meter, higher_is_better

MULTICLASS = TASKS["multiclass"]
AVERAGED = [
    (task, name)
    for task in ("multiclass", "multilabel")
    for name in TASKS[task].metrics
    if higher_is_better(name, TASKS[task])
]


@pytest.mark.parametrize(("task", "name"), AVERAGED)
def test_a_perfect_model_has_the_best_value_if_a_class_is_absent(task: str, name: str) -> None:
    targets = torch.tensor([0, 1, 2] * 2)
    probabilities = nn.functional.one_hot(targets, 4).float() * 0.9 + 0.025
    if task == "multilabel":
        targets = nn.functional.one_hot(targets, 4).float()
    meter = Meter([name], 4, TASKS[task])
    meter.update(probabilities, targets)
    assert meter.compute()[name] == pytest.approx(1.0)


def test_a_class_without_items_counts_only_where_it_was_predicted() -> None:
    """As in scikit-learn: recall over the true classes, the others also over predicted ones."""
    targets = torch.tensor([0, 1, 2] * 2)
    probabilities = nn.functional.one_hot(targets, 4).float()
    probabilities[0] = torch.tensor([0.0, 0.0, 0.0, 1.0])
    meter = Meter(["recall", "balanced_accuracy", "precision", "f1", "jaccard"], 4, MULTICLASS)
    meter.update(probabilities, targets)
    found = meter.compute()
    assert found["recall"] == found["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 1) / 3)
    assert found["precision"] == pytest.approx((1 + 1 + 1 + 0) / 4)
    assert found["f1"] == pytest.approx((2 / 3 + 1 + 1 + 0) / 4)
    assert found["jaccard"] == pytest.approx((1 / 2 + 1 + 1 + 0) / 4)


@pytest.mark.parametrize("name", MULTICLASS.metrics)
@pytest.mark.parametrize("shape", [(), (2, 2)])
def test_targets_that_a_loss_leaves_out_do_not_count(name: str, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    predictions = torch.rand(8, 3, *shape, generator=generator).softmax(1)
    targets = torch.randint(3, (8, *shape), generator=generator)
    with_ignored = torch.cat([targets, torch.full_like(targets, -100)])
    with_ignored[-1] = 255
    values = []
    for given, true in ((predictions, targets), (predictions.repeat(2, *[1] * (1 + len(shape))),
                                                 with_ignored)):  # fmt: skip
        meter = Meter([name], 3, MULTICLASS)
        meter.update(given, true)
        values.append(meter.compute()[name])
    assert values[0] == pytest.approx(values[1])


@pytest.mark.parametrize("name", ["r2", "explained_variance", "pearson", "spearman"])
@pytest.mark.parametrize("outputs", [1, 2])
def test_what_compares_items_is_not_a_number_for_one(name: str, outputs: int) -> None:
    numbers, targets = torch.rand(2, 4, 2, generator=torch.Generator().manual_seed(0))
    meter = Meter([name], outputs, TASKS["regression"])
    meter.update(numbers[:1, :outputs], targets[:1, :outputs])
    assert math.isnan(meter.compute()[name])
    meter.update(numbers[1:, :outputs], targets[1:, :outputs])
    assert math.isfinite(meter.compute()[name])
