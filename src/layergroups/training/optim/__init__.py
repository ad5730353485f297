"""Optimizers and schedules."""

from layergroups.training.optim._optimizers import (
    OptFunc,
    build_optimizer,
    checked_clip,
    checked_decay,
    factory_of,
    rates_in_use,
    set_momentum,
    set_rates,
)
from layergroups.training.optim._schedules import Flat, FlatCos, OneCycle, Repeated, Schedule

__all__ = [
    "Flat", "FlatCos", "OneCycle", "OptFunc", "Repeated", "Schedule", "build_optimizer",
    "checked_clip", "checked_decay", "factory_of", "rates_in_use", "set_momentum", "set_rates",
]  # fmt: skip
