import math

import pytest
import torch
from torch import nn

from layergroups.errors import TrainingError
from layergroups.tasks import TASKS, checked_loss, item_losses
from layergroups.training.loop._loss_meter import LossMeter, NotFiniteError

MULTICLASS = TASKS["multiclass"]
OUTPUTS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([0, 1, 2, 0, 1, 2])


def own_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs, targets)


class WithActivation:
    activation = staticmethod(torch.tanh)

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return outputs.sum()


def test_probabilities_are_what_the_loss_means() -> None:
    assert torch.equal(MULTICLASS.predictions(OUTPUTS, nn.CrossEntropyLoss()), OUTPUTS.softmax(1))
    assert torch.equal(MULTICLASS.predictions(OUTPUTS, own_loss), OUTPUTS.softmax(1))
    assert torch.equal(MULTICLASS.predictions(OUTPUTS, nn.BCEWithLogitsLoss()), OUTPUTS.sigmoid())
    assert torch.equal(MULTICLASS.predictions(OUTPUTS, WithActivation()), OUTPUTS.tanh())


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), own_loss], ids=["torch", "own"])
def test_item_losses_average_to_the_loss(loss) -> None:
    losses = item_losses(loss, OUTPUTS, TARGETS)
    assert losses.shape == (6,)
    assert torch.allclose(losses.mean(), loss(OUTPUTS, TARGETS))


def test_item_losses_leave_the_loss_as_it_was() -> None:
    loss = nn.CrossEntropyLoss()
    item_losses(loss, OUTPUTS, TARGETS)
    assert loss.reduction == "mean"


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (nn.CrossEntropyLoss(), TARGETS[:4]),
        (nn.CrossEntropyLoss(reduction="none"), TARGETS),
        (nn.MSELoss(), TARGETS.reshape(2, 3).float()),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_loss_that_does_not_fit_shows_the_shapes(loss, targets) -> None:
    with pytest.raises(TrainingError, match=r"\(6, 3\)"):
        checked_loss(loss, OUTPUTS, targets)


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
