"""Learners with data in memory, for tests of what is read from their predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from layergroups.input_spec import InputSpec
from layergroups.training import Learner


class Data:
    """The least that data may be."""

    input = InputSpec()

    def __init__(self, batches: Any, vocab: Sequence[str], task: str | None = None) -> None:
        self.train = self.valid = batches
        self.vocab = tuple(vocab)
        if task is not None:
            self.task = task

    def load(self, item: Any) -> Tensor:
        return torch.as_tensor(item)


def squares(seed: int, n: int = 24, side: int = 48) -> tuple[Tensor, Tensor, Tensor]:
    """Noise with a square in one quarter; its colour is the class.

    Returns:
        Images (n, 3, side, side), classes (n,), and the quarters (n,), in the order of reading.
    """
    generator = torch.Generator().manual_seed(seed)
    x = 0.3 * torch.randn(n, 3, side, side, generator=generator)
    y, quarters = torch.arange(n) % 3, torch.randint(0, 4, (n,), generator=generator)
    for image, label, quarter in zip(x, y.tolist(), quarters.tolist(), strict=True):
        top, left = (quarter // 2) * side // 2, (quarter % 2) * side // 2
        image[label, top + 4 : top + 20, left + 4 : left + 20] += 2.0
    return x, y, quarters


def says(
    outputs: Tensor,
    targets: Tensor,
    vocab: Sequence[str],
    task: str | None = None,
    loss: Any = None,
) -> Learner:
    """A learner whose model gives these outputs for these targets, three items a batch."""
    batches = list(zip(outputs.split(3), targets.split(3), strict=True))
    model = nn.Sequential(nn.Linear(outputs.shape[1], outputs.shape[1], bias=False))
    nn.init.eye_(model[0].weight)
    data: Any = Data(batches, vocab, task)
    return Learner(data, model, loss_func=loss, split=1, progress=False)


class Numbers(nn.MSELoss):
    """The loss of a regression; what the model gives is what it says."""

    @staticmethod
    def activation(outputs: Tensor) -> Tensor:
        return outputs
