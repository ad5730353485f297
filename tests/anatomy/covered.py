"""A check of what holds for every anatomy."""

from __future__ import annotations

from typing import Any

import torch
import torchvision
from torch import nn

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
