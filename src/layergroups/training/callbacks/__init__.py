"""Callbacks: early stopping, logs, weight averages, mixing, checkpoints."""

from layergroups.training.callbacks._checkpointer import (
    CheckpointConfig,
    Checkpointer,
    check_folders,
    checkpoint_config,
    fit_signature,
)
from layergroups.training.callbacks._ema import EMA
from layergroups.training.callbacks._gradual_unfreezing import GradualUnfreezing, Thaw
from layergroups.training.callbacks._loggers import CSVLog, LivePlot, Trackers
from layergroups.training.callbacks._mixing import CutMix, MixUp
from layergroups.training.callbacks._on_metric import (
    EarlyStopping,
    ReduceLROnPlateau,
    SaveBest,
    StopOnNaN,
)
from layergroups.training.callbacks._progressive_sizes import ProgressiveSizes

__all__ = [
    "EMA", "CSVLog", "CheckpointConfig", "Checkpointer", "CutMix", "EarlyStopping",
    "GradualUnfreezing", "LivePlot", "MixUp", "ProgressiveSizes", "ReduceLROnPlateau", "SaveBest",
    "StopOnNaN", "Thaw", "Trackers", "check_folders", "checkpoint_config", "fit_signature",
]  # fmt: skip
