"""Layer groups of a model: rules, freezing, rates, optimizers, and updates after surgery."""

from layergroups.groups._explain import BoundaryReason, Explanation, explanation_report
from layergroups.groups._freezing import (
    first_to_train,
    frozen_by_groups,
    has_foreign_hooks,
    is_norm,
    remove_hooks,
)
from layergroups.groups._group_table import GroupRow
from layergroups.groups._layer_groups import (
    Freezing,
    LayerGroup,
    LayerGroups,
    as_if_inactive,
    mark_synced,
    rebind_parameters,
)
from layergroups.groups._optimizer import decays, own_param_groups, place_steps
from layergroups.groups._partition import Partition
from layergroups.groups._rates import LayerDecay, Rate, decay, spread_rates
from layergroups.groups._rules import RULE_NAMES, Split, divide
from layergroups.groups._saved_groups import GroupDifference, compare_groups, taken_over
from layergroups.groups._surgery import Change, Tie

__all__ = [
    "RULE_NAMES", "BoundaryReason", "Change", "Explanation", "Freezing", "GroupDifference",
    "GroupRow", "LayerDecay", "LayerGroup", "LayerGroups", "Partition", "Rate", "Split", "Tie",
    "as_if_inactive", "compare_groups", "decay", "decays", "divide", "explanation_report",
    "first_to_train", "frozen_by_groups", "has_foreign_hooks", "is_norm",
    "mark_synced", "own_param_groups", "place_steps", "rebind_parameters", "remove_hooks",
    "spread_rates", "taken_over",
]  # fmt: skip
