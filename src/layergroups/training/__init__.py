"""Training: the Learner, its loop, callbacks and recipes."""

from layergroups.tasks import (
    L1,
    BinaryCrossEntropy,
    BinaryDiceLoss,
    BinaryFocalLoss,
    CrossEntropy,
    DiceLoss,
    FocalLoss,
    Huber,
    LabelsPrediction,
    MeanSquaredError,
    NumbersPrediction,
    Prediction,
    SumLoss,
)
from layergroups.training._factory import (
    cnn_learner,
    load_learner,
    segmentation_learner,
    unet_learner,
    vision_learner,
)
from layergroups.training._learner import Learner
from layergroups.training._text_factory import text_learner
from layergroups.training.callbacks import (
    CSVLog,
    CutMix,
    EarlyStopping,
    GradualUnfreezing,
    LivePlot,
    MixUp,
    ProgressiveSizes,
    ReduceLROnPlateau,
    SaveBest,
    StopOnNaN,
    Thaw,
    Trackers,
)
from layergroups.training.distributed import average_gradients, same_weights
from layergroups.training.feature_cache import FeatureCacheConfig
from layergroups.training.loop import Callback, FitContext
from layergroups.training.lr_finder import FoundRates, minimum, slide, steep, valley
from layergroups.training.optim import Flat, FlatCos, OneCycle, Schedule
from layergroups.training.recipes import (
    FineTuneDefaults,
    FineTunePlan,
    FitOptions,
    Phase,
    SearchResult,
    Trial,
)
from layergroups.training.state import EVENTS, Bar, EpochRow, History, Reporter

__all__ = [
    "EVENTS", "L1", "Bar", "BinaryCrossEntropy", "BinaryDiceLoss", "BinaryFocalLoss", "CSVLog",
    "Callback", "CrossEntropy", "CutMix", "DiceLoss", "EarlyStopping", "EpochRow",
    "FeatureCacheConfig", "FineTuneDefaults", "FineTunePlan", "FitContext", "FitOptions", "Flat",
    "FlatCos", "FocalLoss", "FoundRates", "GradualUnfreezing", "History", "Huber",
    "LabelsPrediction", "Learner", "LivePlot", "MeanSquaredError", "MixUp", "NumbersPrediction",
    "OneCycle", "Phase", "Prediction", "ProgressiveSizes", "ReduceLROnPlateau", "Reporter",
    "SaveBest", "Schedule", "SearchResult", "StopOnNaN", "SumLoss", "Thaw", "Trackers", "Trial",
    "average_gradients", "cnn_learner", "load_learner", "minimum", "same_weights",
    "segmentation_learner", "slide", "steep", "text_learner", "unet_learner", "valley",
    "vision_learner",
]  # fmt: skip
