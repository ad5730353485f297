"""Numbers for each item: trained, measured and predicted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.tasks.trained import ALL, model_for
from tests.training.tiny import NumberLoaders
from torch import nn
from torchmetrics.regression import MeanAbsoluteError

from layergroups import ImageDataLoaders
from layergroups.errors import DataError
from layergroups.tasks import TASKS
from layergroups.training import NumbersPrediction


def test_numbers_come_by_name() -> None:
    found = TASKS["regression"].decode(torch.tensor([0.25, 1300.0]), ("width", "weight"))
    assert isinstance(found, NumbersPrediction)
    assert found.by_name == {"width": 0.25, "weight": 1300.0}
    assert str(found) == "width 0.25, weight 1300"
    assert TASKS["regression"].decode(torch.tensor([3.0]), ()).by_name == {"0": 3.0}


@pytest.mark.parametrize("wrong", [float("inf"), float("-inf"), float("nan")])
def test_numbers_with_one_that_is_not_finite_are_no_classes(wrong: float, tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.png" for i in range(6)]
    for file in files:
        Image.new("RGB", (8, 8)).save(file)
    with pytest.raises(DataError, match=r"no number for 1 item|there is none for 1 item"):
        ImageDataLoaders.from_lists(files, [wrong, 1.5, 2.5, 3.5, 4.5, 5.5], size=8)


def test_fine_tune_learns_numbers(make) -> None:
    dls = NumberLoaders(n=96)
    learn = make(model_for(dls), dls=dls, metrics=[MeanAbsoluteError()])
    before = learn.validate()
    learn.fine_tune(10, 2e-2, lr=4e-3, defaults=ALL)
    after = learn.validate()
    assert after["MeanAbsoluteError"] < 0.12 < 0.3 < before["MeanAbsoluteError"]
    found, targets = learn.get_preds()
    assert found.shape == targets.shape == (18, 2)
    assert (found - targets).abs().mean().item() == pytest.approx(after["MeanAbsoluteError"])


def test_counts_are_predicted_in_their_own_unit(make) -> None:
    dls = NumberLoaders()
    rates = nn.PoissonNLLLoss(log_input=False)
    for loss, activation in ((nn.PoissonNLLLoss(), torch.exp), (rates, torch.clone)):
        learn = make(model_for(dls), dls=dls, loss_func=loss)
        with torch.no_grad():
            outputs = learn.model.eval()(dls.valid.x)
        assert torch.allclose(learn.get_preds()[0], activation(outputs), atol=1e-5)


def test_targets_outside_the_range_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    targets = torch.tensor([[1.0], [40.0], [200.0]])
    TASKS["regression"].check_range((0, 201), targets)
    assert not caplog.records
    TASKS["regression"].check_range((2, 50), targets)
    assert [record.args[2:4] for record in caplog.records] == [(2, 3)]  # type: ignore[index] # a tuple
