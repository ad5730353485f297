"""Clipping and the optimizer's step, in mixed precision too; accelerate does the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.optim import Optimizer

from layergroups._interrupts import uninterrupted

if TYPE_CHECKING:
    from accelerate import Accelerator


def optimizer_step(
    accelerator: Accelerator, optimizer: Optimizer, clip: float | None = None
) -> None:
    """Clip the gradients and step, in fp16 through the gradient scaler."""
    with uninterrupted():  # Ctrl-C in the middle of a step would leave some weights updated
        scaler = accelerator.scaler
        if clip is not None:
            if scaler is not None:
                scaler.unscale_(optimizer)
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
