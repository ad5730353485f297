"""Device, memory and compiling."""

from layergroups.training.hardware._allocator import keep_freed_memory
from layergroups.training.hardware._compiling import Compile, Compiled, checked_compile
from layergroups.training.hardware._device import (
    checked_precision,
    launched_accumulation,
    make_accelerator,
    place,
    precision_name,
    to_device,
)
from layergroups.training.hardware._memory_format import in_fast_layout, in_safe_layout

__all__ = [
    "Compile", "Compiled", "checked_compile", "checked_precision", "in_fast_layout",
    "in_safe_layout", "keep_freed_memory", "launched_accumulation", "make_accelerator", "place",
    "precision_name", "to_device",
]  # fmt: skip
