"""The memory layout of training batches: channels_last, but where the CPU's kernels are wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_BLOCK = 16  # channels; oneDNN's block on AVX-512, 8 on AVX2


def in_safe_layout(inputs: object, model: nn.Module) -> object:
    """A batch for a training step, as it is or copied out of channels_last.

    Photos come in channels_last, in which convolutions run faster on a CPU. There oneDNN (3.13, as
    in torch 2.15, and others) writes past its workspace in the backward pass of a 1×1 convolution
    with a stride and few input channels: wrong gradients, or a crash. A model that holds such a
    layer gets its batches in the ordinary layout.

    Source: uxlfoundation/oneDNN, issue 6035.
    """
    if not isinstance(inputs, Tensor) or inputs.device.type != "cpu" or inputs.ndim != 4:
        return inputs
    if inputs.is_contiguous() or not any(_goes_wrong(m) for m in model.modules()):
        return inputs
    return inputs.contiguous(memory_format=torch.contiguous_format)


def _goes_wrong(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < _BLOCK
    )
