"""The mean loss of an epoch, and what is shown of it while it runs."""

import math

import pytest
import torch
from tests.training.tiny import TinyLoaders
from torch import Tensor

from layergroups.training import Learner
from layergroups.training.loop._loss_meter import READ_EVERY, LossMeter, NotFiniteError


class OnDevice(Tensor):
    """A loss that claims to be on an accelerator, where reading it waits."""

    is_cpu = False


def on_device(value: float) -> Tensor:
    return torch.tensor(value).as_subclass(OnDevice)


def test_the_shown_loss_is_never_more_than_a_few_steps_old() -> None:
    meter = LossMeter()
    for step in range(200):
        meter.add(step, on_device(float(step)), items=2)
        assert not math.isnan(meter.latest)
        assert step - meter.latest < READ_EVERY
    meter.read()
    assert meter.latest == 199
    assert meter.mean() == pytest.approx(99.5)


def test_reading_is_rare_on_a_device(monkeypatch) -> None:
    reads = []
    meter, read = LossMeter(), LossMeter.read
    monkeypatch.setattr(LossMeter, "read", lambda self: (reads.append(1), read(self)))
    for step in range(100):
        meter.add(step, on_device(1.0), items=1)
    assert len(reads) <= 2 + 100 // READ_EVERY


def test_a_loss_on_a_device_that_is_not_finite_is_noticed_with_its_step() -> None:
    meter = LossMeter()
    for step in range(15):
        meter.add(step, on_device(math.nan if step == 13 else 1.0), items=1)
    with pytest.raises(NotFiniteError) as caught:
        meter.read()
    assert caught.value.step == 13


def test_loggers_see_the_loss_of_their_step(make) -> None:
    class Logs:
        def __init__(self) -> None:
            self.pairs: list[tuple[float, float]] = []

        def after_step(self, run) -> None:
            if run.step % 3 == 0:
                run.losses.read()
                self.pairs.append((run.losses.latest, float(run.loss.detach())))

    logs = Logs()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(outputs, targets).as_subclass(OnDevice)

    Learner(TinyLoaders(), make().model, loss_func=loss, callbacks=[logs], progress=False).fit(3)
    assert len(logs.pairs) == 6
    assert all(shown == true for shown, true in logs.pairs)


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
