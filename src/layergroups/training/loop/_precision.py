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
    """Computing in the precision that was asked for; nothing to enter where it is the full one."""
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
    """Move the weights, through the gradient scaler in fp16; Ctrl-C waits until all have moved.

    Args:
        accelerator: has the scaler, if there is one.
        optimizer: whose parameters have their gradients, summed over batches and processes.
        clip: the greatest norm of all gradients together, of all layer groups.
    """
    with uninterrupted():
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
