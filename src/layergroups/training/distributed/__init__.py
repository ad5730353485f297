"""Processes that train one model together."""

from layergroups.training.distributed._processes import SINGLE_PROCESS, Processes, current_processes
from layergroups.training.distributed._replicas import (
    Replicas,
    average_gradients,
    divide_gradients,
    same_weights,
)
from layergroups.training.distributed._sharding import shard, wants_sharding, whole

__all__ = [
    "SINGLE_PROCESS", "Processes", "Replicas", "average_gradients", "current_processes",
    "divide_gradients", "same_weights", "shard", "wants_sharding", "whole",
]  # fmt: skip
