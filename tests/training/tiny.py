"""Tiny data and models that train in milliseconds, and behave as the real ones do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layergroups.input_spec import InputSpec
from layergroups.training import Learner


@dataclass
class TinyBatches:
    """Images in memory; order and noise depend on seed and epoch only, as in ImageDataLoaders."""

    x: Tensor
    y: Tensor
    batch_size: int = 8
    shuffle: bool = False
    noise: float = 0.0
    epoch: int = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    @property
    def n_items(self) -> int:
        return len(self.x)

    @property
    def augmented(self) -> bool:
        return bool(self.noise)

    def __len__(self) -> int:
        return math.ceil(len(self.x) / self.batch_size)

    def positions(self, epoch: int) -> list[list[int]]:
        return [chosen.tolist() for chosen in self._order(epoch).split(self.batch_size)]

    def _order(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(1000 + epoch)
        order = torch.randperm(len(self.x), generator=generator)
        return order if self.shuffle else torch.arange(len(self.x))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(7000 + self.epoch)
        x = self.x + self.noise * torch.randn(self.x.shape, generator=generator)
        for chosen in self._order(self.epoch).split(self.batch_size):
            yield x[chosen], self.y[chosen]


@dataclass
class TinyLoaders:
    """Three classes of 16 x 16 images that differ in colour."""

    n: int = 48
    batch_size: int = 8
    vocab: tuple[str, ...] = ("red", "green", "blue")
    size: tuple[int, int] = (16, 16)
    input: InputSpec = field(default_factory=InputSpec)
    seed: int = 7
    noise: float = 0.1

    def __post_init__(self) -> None:
        self.c = len(self.vocab)
        self.train = self._batches(self.n, 1, shuffle=True, noise=self.noise)
        self.valid = self._batches(18, 2)

    def _batches(self, n: int, seed: int, **options: Any) -> TinyBatches:
        generator = torch.Generator().manual_seed(seed)
        y = torch.arange(n) % self.c
        x = torch.randn(n, 3, *self.size, generator=generator) * 0.5
        x[torch.arange(n), y % 3] += 1.0
        return TinyBatches(x, y, self.batch_size, **options)

    def views(self, *, epoch: int) -> TinyBatches:
        x, y = self.train.x, self.train.y
        return TinyBatches(x, y, self.batch_size, noise=self.noise, epoch=epoch)

    def load(self, item: Any) -> Tensor:
        return torch.as_tensor(item)


class Counter(nn.Module):
    """Counts the items that run through it, without hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.items = 0

    def forward(self, x: Tensor) -> Tensor:
        self.items += len(x)
        return x


@dataclass
class LabelLoaders(TinyLoaders):
    """The same images, on which each of three colours may be or not."""

    task: str = "multilabel"

    def _batches(self, n: int, seed: int, **options: Any) -> TinyBatches:
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(0, 2, (n, self.c), generator=generator).float()
        x = torch.randn(n, 3, *self.size, generator=generator) * 0.5
        x += y[:, :, None, None]
        return TinyBatches(x, y, self.batch_size, **options)


@dataclass
class MaskLoaders(TinyLoaders):
    """A colour for each half of an image, and its mask, which is not known everywhere."""

    task: str = "segmentation"

    def _batches(self, n: int, seed: int, **options: Any) -> TinyBatches:
        generator = torch.Generator().manual_seed(seed)
        y = torch.randint(0, self.c, (n, 2, 1), generator=generator)
        y = y.repeat_interleave(self.size[0] // 2, 1).expand(n, *self.size).clone()
        x = torch.randn(n, 3, *self.size, generator=generator) * 0.5
        x += torch.nn.functional.one_hot(y, 3).movedim(-1, 1)
        y[::2, :4] = -100  # unknown: another number of pixels in each process
        return TinyBatches(x, y, self.batch_size, **options)


@dataclass
class NumberLoaders(TinyLoaders):
    """Images whose brightness and redness are to be told, in units of their own."""

    vocab: tuple[str, ...] = ("brightness", "redness")
    task: str = "regression"

    def _batches(self, n: int, seed: int, **options: Any) -> TinyBatches:
        generator = torch.Generator().manual_seed(seed)
        y = torch.rand(n, self.c, generator=generator)
        x = torch.randn(n, 3, *self.size, generator=generator) * 0.5
        x += 2 * y[:, :1, None, None]
        x[:, 0] += 2 * y[:, 1, None, None]
        return TinyBatches(x, y, self.batch_size, **options)


def tiny_model(n_out: int = 3) -> nn.Sequential:
    """A body of three convolutions with batch norm and dropout, and a head."""
    body = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Conv2d(8, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
    )
    head = nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.BatchNorm1d(8),
        nn.Dropout(0.2),
        nn.Linear(8, n_out),
    )
    return nn.Sequential(body, head)


def pretrained(model: nn.Sequential) -> nn.Sequential:
    """Give the body's batch norms statistics as if it had been trained."""
    for module in model[0].modules():
        if isinstance(module, nn.BatchNorm2d):
            generator = torch.Generator().manual_seed(3)
            module.running_mean.copy_(torch.rand(8, generator=generator))
            module.running_var.copy_(torch.rand(8, generator=generator) + 0.5)
    return model


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers, copied."""
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def moved(before: dict[str, Tensor], module: nn.Module) -> set[str]:
    """Names of the weights and buffers that differ by any bit."""
    after = module.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def learner_of(vocab: tuple[str, ...], seed: int = 1, **options: Any) -> Learner:
    """A learner on tiny data of these classes."""
    torch.manual_seed(seed)
    made = pretrained(tiny_model(len(vocab)))
    defaults: dict[str, Any] = {"progress": False, "seed": 0, "split": ["0.0", "0.7", "1"]}
    return Learner(TinyLoaders(vocab=vocab), made, **(defaults | options))
