"""Predictions beside the truth, as data: what a task measures and a report draws."""

from layergroups.tasks.measures._calibration import BINS, Calibration, CalibrationBin
from layergroups.tasks.measures._class_report import ClassFigures, ClassReport
from layergroups.tasks.measures._confusion import Confusion, ConfusionMatrix
from layergroups.tasks.measures._residuals import OutputErrors, Residuals

__all__ = [
    "BINS",
    "Calibration",
    "CalibrationBin",
    "ClassFigures",
    "ClassReport",
    "Confusion",
    "ConfusionMatrix",
    "OutputErrors",
    "Residuals",
]
