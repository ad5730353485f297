"""A file that is not the model's own and caches for it, as files with position encodings do."""

from __future__ import annotations

import torch
from torch import Tensor

TABLES: dict[int, tuple[Tensor, int]] = {}


def table(width: int) -> Tensor:
    if width not in TABLES:
        TABLES[width] = torch.linspace(1, 2, width), width
    return TABLES[width][0]
