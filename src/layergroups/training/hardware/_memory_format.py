"""The memory layout of models and batches: channels_last, unless CPU kernels are wrong there."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from layergroups._torch import each_module, own_parameters
from layergroups.anatomy import unwrap

_BLOCK = 16  # channels; oneDNN's block on AVX-512, 8 on AVX2


def in_fast_layout(model: nn.Module) -> nn.Module:
    """The model with the weights of its convolutions in channels_last, as its batches are.

    So convolutions need not reorder them in each step. Parameters stay the same objects.
    """
    inside = unwrap(model)
    weights = [w for m in inside.modules() if isinstance(m, nn.Conv2d) for w in _plain(m)]
    slow = [w for w in weights if not w.is_contiguous(memory_format=torch.channels_last)]
    if slow and not any(map(_goes_wrong, inside.modules())):
        for weight in slow:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    return model


def _plain(convolution: nn.Conv2d) -> list[nn.Parameter]:
    weight = own_parameters(convolution).get("weight")
    usual = weight is not None and not is_lazy(weight) and type(weight.data) is Tensor
    return [weight] if weight is not None and usual else []


def in_safe_layout(inputs: object, model: nn.Module) -> object:
    """A batch for a training step, copied out of channels_last if a convolution goes wrong there.

    oneDNN (3.13, as in torch 2.15, and others) writes past its workspace in the backward pass of a
    1×1 convolution with a stride and few input channels: wrong gradients, or a crash. A model with
    such a layer gets contiguous batches, also of cached outputs. See uxlfoundation/oneDNN#6035.
    """
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not any(map(_is_in_fast_layout, tensors)) or not any(map(_goes_wrong, each_module(model))):
        return inputs
    safe = [t.contiguous() if _is_in_fast_layout(t) else t for t in tensors]
    return type(inputs)(safe) if isinstance(inputs, tuple) else safe[0]


def _is_in_fast_layout(tensor: object) -> TypeGuard[Tensor]:
    return (
        isinstance(tensor, Tensor)
        and tensor.ndim == 4
        and tensor.is_cpu
        and not tensor.is_contiguous()
    )


def _goes_wrong(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels // module.groups < _BLOCK
    )
