"""Models and a metric for the tests of tasks."""

from __future__ import annotations

import torch
from tests.training.tiny import TinyLoaders, pretrained, tiny_model
from torch import nn

from layergroups.training import FineTuneDefaults

# the tiny body begins from noise
ALL = FineTuneDefaults(lowest=0, usual_interpolation=0.8, head_dropout=True)


def model_for(dls: TinyLoaders) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return pretrained(tiny_model(dls.c))


def right_labels(probabilities: torch.Tensor, targets: torch.Tensor) -> float:
    return float(((probabilities > 0.5) == targets.bool()).float().mean())
