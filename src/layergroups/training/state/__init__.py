"""The state of a learner: model, groups, data, settings, optimizer and history."""

from layergroups.training.state._batch_norm_policy import (
    BatchNorm,
    BatchNormPolicy,
    evaluating,
    norm_layers,
)
from layergroups.training.state._event_names import EVENTS, Event, checked_callbacks
from layergroups.training.state._history import EpochRow, History, lr_profile, memory_used
from layergroups.training.state._learner_state import Ema, LearnerState, Setting
from layergroups.training.state._progress import Bar, Reporter, show

__all__ = [
    "EVENTS", "Bar", "BatchNorm", "BatchNormPolicy", "Ema", "EpochRow", "Event", "History",
    "LearnerState", "Reporter", "Setting", "checked_callbacks", "evaluating", "lr_profile",
    "memory_used", "norm_layers", "show",
]  # fmt: skip
