"""Training: the Learner, its loop, and what hangs on them."""

from layergroups.training.answers import LabelsPrediction, NumbersPrediction, Prediction
from layergroups.training.callbacks import EVENTS, Callback
from layergroups.training.factory import cnn_learner, load_learner, vision_learner
from layergroups.training.found_rates import FoundRates
from layergroups.training.history import EpochRow, History
from layergroups.training.learner import Learner
from layergroups.training.loss_functions import (
    L1,
    BinaryCrossEntropy,
    BinaryFocalLoss,
    CrossEntropy,
    FocalLoss,
    Huber,
    MeanSquaredError,
)
from layergroups.training.progress import Bar, Reporter
from layergroups.training.ready import (
    CSVLog,
    CutMix,
    EarlyStopping,
    LivePlot,
    MixUp,
    ProgressiveSizes,
    ReduceLROnPlateau,
    SaveBest,
    StopOnNaN,
    Trackers,
)
from layergroups.training.recipes import FineTuneDefaults, Phase, plan_fine_tune
from layergroups.training.replicas import average_gradients, same_weights
from layergroups.training.run import Run
from layergroups.training.schedules import Flat, FlatCos, OneCycle, Schedule
from layergroups.training.shelf import StoreOptions
from layergroups.training.suggestions import minimum, slide, steep, valley
from layergroups.training.thawing import Thaw

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
    "FineTuneDefaults",
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
    "Run",
    "SaveBest",
    "Schedule",
    "StopOnNaN",
    "StoreOptions",
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
