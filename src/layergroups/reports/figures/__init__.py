"""Pictures in matplotlib, for files and notebooks."""

from layergroups.reports.figures._lr_curves import RateCurve, draw_rates
from layergroups.reports.figures._network import BlockRow, GroupStack, network_picture, stacks_of
from layergroups.reports.figures._result_figures import (
    confusion_matrix_picture,
    draw_calibration,
    draw_confusion,
    draw_residuals,
)
from layergroups.reports.figures._schedule import PhasePreview, SchedulePreview
from layergroups.reports.figures._training_curves import curves_png

__all__ = [
    "BlockRow", "GroupStack", "PhasePreview", "RateCurve", "SchedulePreview",
    "confusion_matrix_picture", "curves_png", "draw_calibration", "draw_confusion", "draw_rates",
    "draw_residuals", "network_picture", "stacks_of",
]  # fmt: skip
