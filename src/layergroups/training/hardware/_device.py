"""Device and precision: an accelerator, and moving model and batches to its device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layergroups._checks import whole_number
from layergroups._torch import each_module, own_buffers, own_parameters
from layergroups.errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(mixed_precision: str | None, **options: Any) -> Accelerator:
    """An Accelerator with this precision, even if an earlier one had a different precision."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    wanted = precision_name(mixed_precision)
    # Accelerate has one precision for the whole process. Without the reset, a second learner with a
    # different precision would fail, or silently use the first one's.
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != wanted:
        AcceleratorState._reset_state()
    # Several processes on a machine without accelerator: Accelerate only joins them with cpu=True.
    launched = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = launched and not torch.accelerator.is_available()
    try:
        made = Accelerator(mixed_precision=wanted, cpu=cpu, **options)
    except (ValueError, ImportError) as cause:
        raise TrainingError(
            f'mixed_precision="{wanted}" does not work here: {cause}. Use "no", "bf16" or "fp16".'
        ) from cause
    made.gradient_accumulation_steps = 1  # the loop accumulates
    return made


def checked_precision(mixed_precision: str | None) -> str | None:
    """A precision that fits support; None for the setting of `accelerate launch`."""
    if mixed_precision is None or mixed_precision in ("no", "bf16", "fp16"):
        return mixed_precision
    raise TrainingError(
        f'mixed_precision={mixed_precision!r} is unknown. Use "no", "bf16" or "fp16"; None for '
        "the setting of `accelerate launch`."
    )


def precision_name(mixed_precision: str | None) -> str:
    """The precision; None means accelerate's environment variable, else "no"."""
    return mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def launched_accumulation(accumulate: int | None) -> int:
    """Batches for each optimizer step; None means accelerate's environment variable, else 1."""
    if accumulate is None:
        accumulate = int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    return whole_number("accumulate", accumulate, 1, 4)


def to_device(batch: object, device: torch.device) -> object:
    """A batch of tensors, in any nesting of lists, tuples and dicts, on the device."""
    if device.type == "cpu" and type(batch) in (tuple, list):
        pair: Any = batch
        if all(isinstance(part, torch.Tensor) and part.is_cpu for part in pair):
            return batch
    from accelerate.utils import send_to_device

    moved: object = send_to_device(batch, device, non_blocking=device.type == "cuda")
    return moved


def place(model: nn.Module, device: torch.device) -> nn.Module:
    """Move the model to the device; parameters stay the same objects. Fast if nothing moves."""
    on_cpu = device.type == "cpu"
    for module in each_module(model):
        for own in (own_parameters(module), own_buffers(module)):
            for tensor in own.values():
                if tensor is None or (on_cpu and tensor.is_cpu):
                    continue  # faster than comparing devices
                if not _is_on(tensor, device):
                    return model.to(device)
    return model


def _is_on(tensor: torch.Tensor, device: torch.device) -> bool:
    own = tensor.device
    return own.type == device.type and (own.type == "cpu" or device.index in (None, own.index))
