"""Mixed precision: autocast, backward, clipping and the optimizer's step, through accelerate."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.optim import Optimizer

from layergroups._interrupts import uninterrupted

if TYPE_CHECKING:
    from accelerate import Accelerator


def autocast(accelerator: Accelerator) -> AbstractContextManager[Any]:
    """The autocast context of the accelerator; a null context for full precision."""
    if accelerator.native_amp:
        mixed: AbstractContextManager[Any] = accelerator.autocast()
        return mixed
    return nullcontext()


def backward(accelerator: Accelerator, loss: torch.Tensor) -> None:
    """Gradients of the loss, scaled in fp16."""
    if accelerator.scaler is None:
        loss.backward()
    else:
        accelerator.backward(loss)


def optimizer_step(
    accelerator: Accelerator, optimizer: Optimizer, clip: float | None = None
) -> None:
    """Clip the gradients and step, in fp16 through the gradient scaler."""
    with uninterrupted():  # Ctrl-C in the middle of a step would leave some weights updated
        scaler = accelerator.scaler
        if clip is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(_with_gradients(optimizer), clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()


def _with_gradients(optimizer: Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
