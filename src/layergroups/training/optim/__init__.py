"""Optimizers and schedules."""

from layergroups.training.optim._optimizers import (
    OptFunc,
    build_optimizer,
    check_opt_func,
    checked_clip,
    checked_decay,
    rates_in_use,
    set_momentum,
    set_rates,
)
from layergroups.training.optim._schedules import Flat, FlatCos, OneCycle, Schedule

__all__ = [
    "Flat",
    "FlatCos",
    "OneCycle",
    "OptFunc",
    "Schedule",
    "build_optimizer",
    "check_opt_func",
    "checked_clip",
    "checked_decay",
    "rates_in_use",
    "set_momentum",
    "set_rates",
]
