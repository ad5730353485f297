"""Reports: what a run came to, as data, tables and pictures."""

from layergroups.reports.confusion import Confusion, ConfusionMatrix, confusion_matrix
from layergroups.reports.network_picture import network_picture
from layergroups.reports.pictures import confusion_matrix_picture
from layergroups.reports.rate_curves import RateCurve, rate_picture
from layergroups.reports.run_folder import RunFiles, claim_folder, write_run
from layergroups.reports.tables import (
    PhotoPrediction,
    groups_report,
    per_class_table,
    predictions_table,
)

__all__ = [
    "Confusion",
    "ConfusionMatrix",
    "PhotoPrediction",
    "RateCurve",
    "RunFiles",
    "claim_folder",
    "confusion_matrix",
    "confusion_matrix_picture",
    "groups_report",
    "network_picture",
    "per_class_table",
    "predictions_table",
    "rate_picture",
    "write_run",
]
