"""Reports: what a run came to, as data, tables and pictures."""

from layergroups.reports.answers import TopLoss
from layergroups.reports.calibration import Calibration
from layergroups.reports.class_report import ClassReport
from layergroups.reports.confusion import Confusion, ConfusionMatrix, confusion_matrix
from layergroups.reports.grad_cam import grad_cam
from layergroups.reports.heat_map import HeatMap
from layergroups.reports.interpretation import Interpretation
from layergroups.reports.network_picture import network_picture
from layergroups.reports.photo_rows import PhotoLabels, PhotoNumbers
from layergroups.reports.pictures import confusion_matrix_picture
from layergroups.reports.rate_curves import RateCurve, rate_picture
from layergroups.reports.recording import record_run
from layergroups.reports.residuals import Residuals
from layergroups.reports.run_folder import RunFiles, claim_folder, write_run
from layergroups.reports.run_record import RunRecord
from layergroups.reports.run_report import RunReport
from layergroups.reports.schedule_picture import PhasePreview, SchedulePreview
from layergroups.reports.summary import ModelSummary
from layergroups.reports.tables import (
    PhotoPrediction,
    groups_report,
    per_class_table,
    predictions_table,
)

__all__ = [
    "Calibration",
    "ClassReport",
    "Confusion",
    "ConfusionMatrix",
    "HeatMap",
    "Interpretation",
    "ModelSummary",
    "PhasePreview",
    "PhotoLabels",
    "PhotoNumbers",
    "PhotoPrediction",
    "RateCurve",
    "Residuals",
    "RunFiles",
    "RunRecord",
    "RunReport",
    "SchedulePreview",
    "TopLoss",
    "claim_folder",
    "confusion_matrix",
    "confusion_matrix_picture",
    "grad_cam",
    "groups_report",
    "network_picture",
    "per_class_table",
    "predictions_table",
    "rate_picture",
    "record_run",
    "write_run",
]
