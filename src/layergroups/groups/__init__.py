"""Divides a model into layer groups, and keeps the division true when the model changes."""

from layergroups.groups.change import Change, Tie
from layergroups.groups.difference import GroupDifference
from layergroups.groups.explain import Explanation, Why
from layergroups.groups.freezing import Freezing
from layergroups.groups.layer_group import LayerGroup
from layergroups.groups.layer_groups import LayerGroups
from layergroups.groups.partition import Partition
from layergroups.groups.rates import Rate, decay, spread_rates
from layergroups.groups.rules import Split, divide

__all__ = [
    "Change",
    "Explanation",
    "Freezing",
    "GroupDifference",
    "LayerGroup",
    "LayerGroups",
    "Partition",
    "Rate",
    "Split",
    "Tie",
    "Why",
    "decay",
    "divide",
    "spread_rates",
]
