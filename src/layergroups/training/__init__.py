"""Training: the Learner, its loop, and what hangs on them."""

from layergroups.tasks._losses import (
    L1,
    BinaryCrossEntropy,
    BinaryFocalLoss,
    CrossEntropy,
    FocalLoss,
    Huber,
    MeanSquaredError,
)
from layergroups.tasks._tasks import LabelsPrediction, NumbersPrediction, Prediction
from layergroups.training._factory import cnn_learner, load_learner, vision_learner
from layergroups.training._learner import Learner
from layergroups.training.callbacks._gradual_unfreezing import Thaw
from layergroups.training.callbacks._loggers import CSVLog, LivePlot, Trackers
from layergroups.training.callbacks._mixing import CutMix, MixUp
from layergroups.training.callbacks._on_metric import (
    EarlyStopping,
    ReduceLROnPlateau,
    SaveBest,
    StopOnNaN,
)
from layergroups.training.callbacks._progressive_sizes import ProgressiveSizes
from layergroups.training.distributed._replicas import average_gradients, same_weights
from layergroups.training.feature_cache._feature_buffer import FeatureCacheConfig
from layergroups.training.loop._events import EVENTS, Callback
from layergroups.training.loop._fit_context import FitContext
from layergroups.training.loop._history import EpochRow, History
from layergroups.training.loop._progress import Bar, Reporter
from layergroups.training.lr_finder._found_rates import FoundRates, minimum, slide, steep, valley
from layergroups.training.optim._schedules import Flat, FlatCos, OneCycle, Schedule
from layergroups.training.recipes._fine_tune import FineTuneDefaults, Phase, plan_fine_tune

__all__ = [
    "EVENTS",
    "L1",
    "Bar",
    "BinaryCrossEntropy",
    "BinaryFocalLoss",
    "CSVLog",
    "Callback",
    "CrossEntropy",
    "CutMix",
    "EarlyStopping",
    "EpochRow",
    "FeatureCacheConfig",
    "FineTuneDefaults",
    "FitContext",
    "Flat",
    "FlatCos",
    "FocalLoss",
    "FoundRates",
    "History",
    "Huber",
    "LabelsPrediction",
    "Learner",
    "LivePlot",
    "MeanSquaredError",
    "MixUp",
    "NumbersPrediction",
    "OneCycle",
    "Phase",
    "Prediction",
    "ProgressiveSizes",
    "ReduceLROnPlateau",
    "Reporter",
    "SaveBest",
    "Schedule",
    "StopOnNaN",
    "Thaw",
    "Trackers",
    "average_gradients",
    "cnn_learner",
    "load_learner",
    "minimum",
    "plan_fine_tune",
    "same_weights",
    "slide",
    "steep",
    "valley",
    "vision_learner",
]
