"""The memory layout of models and batches: channels_last, but where the CPU's kernels are wrong."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from layergroups.anatomy.looking import unwrap

_BLOCK = 16  # channels; oneDNN's block on AVX-512, 8 on AVX2


def in_fast_layout(model: nn.Module) -> nn.Module:
    """The model with the weights of its convolutions in channels_last, as its batches are.

    Convolutions need not reorder their inputs and weights then, in each step. Parameters stay the
    same objects with the same values. A model that `in_safe_layout` guards stays as it is.
    """
    inside = unwrap(model)
    weights = [w for m in inside.modules() if isinstance(m, nn.Conv2d) for w in _plain(m)]
    slow = [w for w in weights if not w.is_contiguous(memory_format=torch.channels_last)]
    if slow and not any(map(_goes_wrong, inside.modules())):
        for weight in slow:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return model


def _plain(convolution: nn.Conv2d) -> list[nn.Parameter]:
    """Its weight, if it is an ordinary parameter."""
    weight = convolution._parameters.get("weight")
    usual = weight is not None and not is_lazy(weight) and type(weight.data) is Tensor
    return [weight] if weight is not None and usual else []


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
