import pytest
import torch
import torchmetrics

from layergroups.errors import TrainingError
from layergroups.tasks import TASKS, Meter, as_list, check_metrics

MULTICLASS = TASKS["multiclass"]

PROBABILITIES = torch.tensor(
    [[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.1, 0.5, 0.4]]
)
TARGETS = torch.tensor([0, 1, 1, 2, 2])


def measure(*metrics: object, n_classes: int = 3) -> dict[str, float]:
    meter = Meter(metrics, n_classes, MULTICLASS)
    meter.update(PROBABILITIES[:2], TARGETS[:2])
    meter.update(PROBABILITIES[2:], TARGETS[2:])
    return meter.compute()


def test_metrics_by_name_over_several_batches() -> None:
    found = measure(
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
    assert measure(given)["MulticlassAccuracy"] == pytest.approx(0.6)
    assert given.update_count == 0


def test_a_function_sees_all_items_at_once() -> None:
    def sure(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        assert len(probabilities) == len(targets) == 5
        return (probabilities.max(dim=1).values > 0.55).float().mean()

    assert measure(sure) == {"sure": pytest.approx(0.6)}


def test_two_metrics_of_one_name_are_both_kept() -> None:
    one = torchmetrics.classification.MulticlassAccuracy(num_classes=3, top_k=2)
    two = torchmetrics.classification.MulticlassAccuracy(num_classes=3)
    assert len(measure(one, two)) == 2


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
        measure(broken)


def test_names_need_the_number_of_classes() -> None:
    with pytest.raises(TrainingError, match="vocab"):
        Meter(["accuracy"], 0, MULTICLASS)


def test_one_or_many() -> None:
    assert as_list("accuracy") == ["accuracy"]
    assert as_list(None) == []
    assert as_list(("a", "b")) == ["a", "b"]
    assert as_list(len) == [len]
