"""Short numbers and texts that differ as soon as a model differs."""

from __future__ import annotations

import re
import zlib

import torch
from torch import Tensor, nn

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")  # of a function; differs in each process


def stable_text(value: object) -> str:
    """The `repr` of a value, the same in every process."""
    return _ADDRESS.sub("", repr(value))


def structure_lines(model: nn.Module) -> list[str]:
    """Kinds of layers, names and shapes of parameters and buffers."""
    layers = [f"{path or 'model'} {type(m).__name__}" for path, m in model.named_modules()]
    tensors = (*model.named_parameters(), *model.named_buffers())
    return layers + [f"{name} {tuple(t.shape)} {t.dtype}" for name, t in tensors]


def structure_of(model: nn.Module) -> str:
    """Eight hexadecimal digits that differ as soon as the model is built differently."""
    shapes = [f"{name} {tuple(p.shape)} {p.dtype}" for name, p in model.named_parameters()]
    layers = stable_text(model).replace("ConcatLinear(", "SideBySide(")  # its name in format 2
    return f"{zlib.crc32((layers + chr(10).join(shapes)).encode()):08x}"


def checksum(tensor: Tensor, start: int = 0) -> int:
    """A number that differs where any bit does, after the checksum of what came before."""
    plain = tensor.detach().cpu().contiguous().reshape(-1)
    return zlib.crc32(plain.view(torch.uint8).numpy().data, start) if len(plain) else start
