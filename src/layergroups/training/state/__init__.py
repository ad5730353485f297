"""Model, groups, data, optimizer and history of a learner."""

from layergroups.training.state._batch_norm import (
    BatchNorm,
    BatchNormPolicy,
    evaluating,
    norm_layers,
)
from layergroups.training.state._history import EpochRow, History, lr_profile, memory_used
from layergroups.training.state._learner_state import Ema, LearnerState
from layergroups.training.state._progress import Bar, Reporter, in_notebook, show

__all__ = [
    "Bar",
    "BatchNorm",
    "BatchNormPolicy",
    "Ema",
    "EpochRow",
    "History",
    "LearnerState",
    "Reporter",
    "evaluating",
    "in_notebook",
    "lr_profile",
    "memory_used",
    "norm_layers",
    "show",
]
