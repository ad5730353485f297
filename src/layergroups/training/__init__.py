"""Training: the Learner, its loop, and what hangs on them."""

from layergroups.training.callbacks import EVENTS, Callback
from layergroups.training.evaluation import Prediction
from layergroups.training.factory import cnn_learner, load_learner, vision_learner
from layergroups.training.found_rates import FoundRates
from layergroups.training.history import EpochRow, History
from layergroups.training.learner import Learner
from layergroups.training.loop import Run
from layergroups.training.progress import Bar, Reporter
from layergroups.training.proposal import GroupProposal
from layergroups.training.recipes import FineTuneDefaults, Phase, plan_fine_tune
from layergroups.training.replicas import average_gradients, same_weights
from layergroups.training.schedules import Flat, FlatCos, OneCycle, Schedule
from layergroups.training.shelf import StoreOptions
from layergroups.training.suggestions import minimum, slide, steep, valley
from layergroups.training.thawing import Thaw

__all__ = [
    "EVENTS",
    "Bar",
    "Callback",
    "EpochRow",
    "FineTuneDefaults",
    "Flat",
    "FlatCos",
    "FoundRates",
    "GroupProposal",
    "History",
    "Learner",
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
    "minimum",
    "plan_fine_tune",
    "same_weights",
    "slide",
    "steep",
    "valley",
    "vision_learner",
]
