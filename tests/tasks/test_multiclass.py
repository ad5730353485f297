"""One class for each item or pixel."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from tests.training.tiny import TinyLoaders
from timm.loss import BinaryCrossEntropy as TimmBinaryCrossEntropy
from torch import nn

from layergroups.errors import TrainingError


@pytest.mark.parametrize("loss", [nn.BCEWithLogitsLoss(), nn.MSELoss()])
def test_a_loss_of_labels_or_numbers_is_refused_for_classes(make, loss) -> None:
    dls = TinyLoaders()
    dls.task = "multiclass"
    with pytest.raises(TrainingError, match=r"'multiclass'.*int64 \(N,\).*CrossEntropyLoss\(\)"):
        make(dls=dls, loss_func=loss).fit(1)


def test_binary_cross_entropy_of_timm_trains_classes(make) -> None:
    learn = make(loss_func=TimmBinaryCrossEntropy(smoothing=0.1), metrics="accuracy")
    assert learn.task == "multiclass"
    learn.dls.train.y = nn.functional.one_hot(learn.dls.train.y, 3).float()
    learn.fit(3, 2e-2)
    found, targets = learn.get_preds()
    assert torch.allclose(found.sum(1), torch.ones(len(found)))
    assert float((found.argmax(1) == targets).float().mean()) > 0.5


class Maps(TinyLoaders):
    """A class for each pixel."""

    vocab = ("dark", "bright")

    def __post_init__(self) -> None:
        super().__post_init__()
        for batches in (self.train, self.valid):
            batches.y = (batches.x.mean(1) > 0).long()


def pixelwise() -> nn.Sequential:
    return nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), nn.Conv2d(4, 2, 1))


def test_classes_beyond_the_outputs_are_found_in_maps_too(make) -> None:
    dls = Maps(vocab=("dark", "bright"))
    make(pixelwise(), dls=dls, split="auto").fit(1)
    dls.train.y[:, 3, 5] = 255
    with pytest.raises(TrainingError, match=r"2 outputs.*class 255.*ignore_index"):
        make(pixelwise(), dls=dls, split="auto").fit(1)
    for loss in (
        nn.CrossEntropyLoss(ignore_index=255),
        partial(nn.functional.cross_entropy, ignore_index=255),
    ):
        make(pixelwise(), dls=dls, split="auto", loss_func=loss).fit(1)
    dls.valid.y[0, 0, 0] = -1
    with pytest.raises(TrainingError, match=r"class -1"):
        make(pixelwise(), dls=dls, split="auto").validate()
