"""The device: an accelerator of the precision asked for, and model and batches on it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from layergroups._torch import each_module, own_buffers, own_parameters
from layergroups.errors import TrainingError

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(mixed_precision: str | None, **options: Any) -> Accelerator:
    """An Accelerator of this precision, also after one of another precision was made.

    Accelerate keeps its precision in one place for the whole process; two learners of different
    precision would else be an error, or worse, silently share one.

    Args:
        mixed_precision: "no", "bf16", "fp16", or None for what `accelerate launch` has set.
        options: others of an Accelerator.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    wanted = precision_name(mixed_precision)
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != wanted:
        AcceleratorState._reset_state()
    try:
        made = Accelerator(mixed_precision=wanted, cpu=_is_cpu_job(), **options)
    except (ValueError, ImportError) as cause:
        raise TrainingError(
            f'mixed_precision="{wanted}" does not work here: {cause}. Use "no", "bf16" or "fp16".'
        ) from cause
    made.gradient_accumulation_steps = 1  # the loop does this itself
    return made


def _is_cpu_job() -> bool:
    """Whether a launcher started several processes on a machine without accelerator.

    Accelerate takes them for strangers to each other otherwise.
    """
    launched = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    return launched and not torch.accelerator.is_available()


def precision_name(mixed_precision: str | None) -> str:
    """The precision as accelerate calls it; None means its environment variable, else "no"."""
    return mixed_precision or os.environ.get("ACCELERATE_MIXED_PRECISION", "no")


def launched_accumulation(accumulate: int | None) -> int:
    """Batches for each optimizer step; None means accelerate's environment variable, else 1."""
    wanted = accumulate
    if wanted is None:
        wanted = int(os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1"))
    if isinstance(wanted, bool) or not isinstance(wanted, int) or wanted < 1:
        raise TrainingError(f"accumulate={wanted!r} must be a whole number of batches, 1 or more.")
    return wanted


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
    """The model, on the device; parameters stay the same objects. Quick where nothing moves."""
    on_cpu = device.type == "cpu"
    for module in each_module(model):
        for own in (own_parameters(module), own_buffers(module)):
            for tensor in own.values():
                if tensor is None or (on_cpu and tensor.is_cpu):
                    continue  # quicker to ask than device
                if not _is_on(tensor, device):
                    return model.to(device)
    return model


def _is_on(tensor: torch.Tensor, device: torch.device) -> bool:
    own = tensor.device
    return own.type == device.type and (own.type == "cpu" or device.index in (None, own.index))
