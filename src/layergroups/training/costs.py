"""What an epoch took beside time: memory, and passes of the frozen layers; nothing per step."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import torch

from layergroups.training.schedules import Schedule

if TYPE_CHECKING:
    from layergroups.training.run import Run

_POINTS: Final = 16  # of the course of the rates in an epoch


def peak_memory() -> int | None:
    """The most memory that this process has held at any time, bytes; None where nobody tells."""
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def peak_device_memory(device: torch.device) -> int | None:
    """The most memory that tensors have held on a CUDA device at any time, bytes; else None."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None


def course(schedule: Schedule, first: int, last: int, steps: int) -> tuple[float, ...]:
    """How the rates of all groups went from one step to another, as parts of their highest.

    Args:
        schedule: of the rates.
        first: step with which the epoch began.
        last: the step after its last.
        steps: of the whole fit.

    Returns:
        At most 16 numbers in 0..1, at evenly spaced steps; none where there were no steps.
    """
    count = last - first
    if count < 1:
        return ()
    chosen = min(count, _POINTS)
    places = [first + round(i * (count - 1) / max(1, chosen - 1)) for i in range(chosen)]
    values = [schedule.multiplier(place / steps) for place in places]
    top = max(schedule.multiplier(step / steps) for step in _around(values, places))
    return tuple(round(min(1.0, value / top), 5) for value in values) if top > 0 else ()


def _around(values: list[float], places: list[int]) -> range:
    """The steps among which the highest one is."""
    top = values.index(max(values))
    return range(places[max(0, top - 1)], places[min(len(places) - 1, top + 1)] + 1)


def cost_of(run: Run) -> dict[str, float]:
    """What the epoch took, by the names that `EpochRow.cost` lists."""
    memory = {
        "memory": peak_memory(),
        "device_memory": peak_device_memory(run.accelerator.device),
    }
    known = {name: float(value) for name, value in memory.items() if value is not None}
    if run.source is run.train:
        return known
    per_pass = run.per_pass or max(1, len(run.train))
    return known | {
        "passes": round(run.batch / per_pass, 3),
        "body_passes": float(run.body_passes),
        "store_seconds": run.store_seconds,
    }
