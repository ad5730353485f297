"""A check of what holds for every anatomy, and models that several tests use."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from layergroups.anatomy import Anatomy, read_anatomy, unwrap


def check_laws(model: nn.Module, example: Any = None) -> Anatomy:
    """Exact cover of the used parameters, and the order of their first use."""
    anatomy = read_anatomy(model, example)
    used = [name for block in anatomy.blocks for name in block.parameters]
    names = {name for name, _ in unwrap(model).named_parameters()}
    assert len(used) == len(set(used))
    assert set(used) | set(anatomy.unused) == names
    assert not set(used) & set(anatomy.unused)
    return anatomy


def anatomy_of(name: str) -> Anatomy:
    with torch.device("meta"):
        return read_anatomy(torchvision.models.get_model(name, weights=None))


class Answers(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.kind, self.age = nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.second(self.first(x).relu()).relu().mean((2, 3))
        kind, age = self.kind(x), self.age(x)
        if self.form == "logits":
            return {"features": x, "logits": kind}
        return {"kind": kind, "age": age} if self.form == "dict" else (kind, age)


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
