"""Divides a model into layer groups, and keeps the division true when the model changes."""

from layergroups.groups._explain import BoundaryReason, Explanation, explanation_report
from layergroups.groups._freezing import (
    Freezing,
    StayInEval,
    as_if_resting,
    first_to_train,
    is_norm,
    release,
    turned_off,
)
from layergroups.groups._group_table import HEADINGS, group_cells
from layergroups.groups._layer_groups import LayerGroup, LayerGroups
from layergroups.groups._optimizer import place_steps
from layergroups.groups._partition import Partition, under
from layergroups.groups._rates import Rate, decay, spread_rates
from layergroups.groups._rules import Split, divide
from layergroups.groups._saved_groups import GroupDifference, taken_over
from layergroups.groups._surgery import Change, Tie, is_sharded

__all__ = [
    "HEADINGS",
    "BoundaryReason",
    "Change",
    "Explanation",
    "Freezing",
    "GroupDifference",
    "LayerGroup",
    "LayerGroups",
    "Partition",
    "Rate",
    "Split",
    "StayInEval",
    "Tie",
    "as_if_resting",
    "decay",
    "divide",
    "explanation_report",
    "first_to_train",
    "group_cells",
    "is_norm",
    "is_sharded",
    "place_steps",
    "release",
    "spread_rates",
    "taken_over",
    "turned_off",
    "under",
]
