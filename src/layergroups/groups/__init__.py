"""Divides a model into layer groups, and keeps the division true when the model changes."""

from layergroups.groups.layer_groups import LayerGroup, LayerGroups
from layergroups.groups.partition import Partition
from layergroups.groups.rates import Rate, decay, spread_rates
from layergroups.groups.rules import Split, divide
from layergroups.groups.surgery import Change

__all__ = [
    "Change",
    "LayerGroup",
    "LayerGroups",
    "Partition",
    "Rate",
    "Split",
    "decay",
    "divide",
    "spread_rates",
]
