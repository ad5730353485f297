"""The mean loss of an epoch, read without waiting."""

import math

import pytest
import torch

from layergroups.training.loop._loss_meter import LossMeter, NotFiniteError


def test_the_meter_weighs_by_items() -> None:
    meter = LossMeter()
    meter.add(0, torch.tensor(1.0), items=3)
    meter.add(1, torch.tensor(5.0), items=1)
    assert meter.mean() == 2.0
    assert meter.latest == 5.0
    assert LossMeter().mean() is None
    assert math.isnan(LossMeter().latest)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_noticed_with_its_step(value: float) -> None:
    meter = LossMeter()
    meter.add(0, torch.tensor(1.0), items=1)
    with pytest.raises(NotFiniteError) as caught:
        meter.add(1, torch.tensor(value), items=1)
    assert caught.value.step == 1
