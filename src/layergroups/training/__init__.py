"""Training: the Learner, its loop, and what hangs on them."""

from layergroups.training.answers import LabelsPrediction, NumbersPrediction, Prediction
from layergroups.training.callbacks import EVENTS, Callback
from layergroups.training.factory import cnn_learner, load_learner, vision_learner
from layergroups.training.history import EpochRow, History
from layergroups.training.learner import Learner
from layergroups.training.loop import Run
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
from layergroups.training.recipes import FineTuneDefaults, Phase, plan_fine_tune
from layergroups.training.replicas import average_gradients, same_weights
from layergroups.training.schedules import Flat, FlatCos, OneCycle, Schedule
from layergroups.training.shelf import StoreOptions
from layergroups.training.thawing import Thaw

__all__ = [
    "EVENTS",
    "L1",
    "Bar",
    "BinaryCrossEntropy",
    "BinaryFocalLoss",
    "Callback",
    "CrossEntropy",
    "EpochRow",
    "FineTuneDefaults",
    "Flat",
    "FlatCos",
    "FocalLoss",
    "History",
    "Huber",
    "LabelsPrediction",
    "Learner",
    "MeanSquaredError",
    "NumbersPrediction",
    "OneCycle",
    "Phase",
    "Prediction",
    "Reporter",
    "Run",
    "Schedule",
    "StoreOptions",
    "Thaw",
    "average_gradients",
    "cnn_learner",
    "load_learner",
    "plan_fine_tune",
    "same_weights",
    "vision_learner",
]
