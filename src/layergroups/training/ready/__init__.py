"""Callbacks that are ready to use; how to write one's own is said in `training.callbacks`."""

from layergroups.training.ready.csv_log import CSVLog
from layergroups.training.ready.early_stopping import EarlyStopping
from layergroups.training.ready.live_plot import LivePlot
from layergroups.training.ready.mixing import CutMix, MixUp
from layergroups.training.ready.progressive_sizes import ProgressiveSizes
from layergroups.training.ready.reduce_lr import ReduceLROnPlateau
from layergroups.training.ready.save_best import SaveBest
from layergroups.training.ready.stop_on_nan import StopOnNaN
from layergroups.training.ready.trackers import Trackers

__all__ = [
    "CSVLog",
    "CutMix",
    "EarlyStopping",
    "LivePlot",
    "MixUp",
    "ProgressiveSizes",
    "ReduceLROnPlateau",
    "SaveBest",
    "StopOnNaN",
    "Trackers",
]
