"""The learning-rate finder."""

from layergroups.training.lr_finder._finder import Plan, find_rates
from layergroups.training.lr_finder._found_rates import (
    FoundRates,
    minimum,
    named,
    slide,
    steep,
    valley,
)

__all__ = ["FoundRates", "Plan", "find_rates", "minimum", "named", "slide", "steep", "valley"]
