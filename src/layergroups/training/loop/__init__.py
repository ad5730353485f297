"""The training loop, its events, evaluation, and the context of a fit."""

from layergroups.training.loop._evaluation import evaluate, predict_all
from layergroups.training.loop._events import Callback, amend_row, end_after
from layergroups.training.loop._fit_context import FitContext
from layergroups.training.loop._loop import check_batch_count, check_trainable, fit, train_step
from layergroups.training.loop._loss_meter import NotFiniteError
from layergroups.training.loop._resuming import position_of, restore_position
from layergroups.training.loop._snapshot import Snapshot

__all__ = [
    "Callback", "FitContext", "NotFiniteError", "Snapshot", "amend_row", "check_batch_count",
    "check_trainable", "end_after", "evaluate", "fit", "position_of", "predict_all",
    "restore_position", "train_step",
]  # fmt: skip
