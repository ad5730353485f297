"""Reports: what a run came to, as data, tables and pictures."""

from layergroups.reports._denormalize import TopLoss, say, show, show_figures, show_json
from layergroups.reports._grad_cam import HeatMap, grad_cam, heat_map
from layergroups.reports._interpretation import Interpretation, confusion_matrix
from layergroups.reports._model_summary import ModelSummary, model_summary
from layergroups.reports._prediction_tables import (
    groups_report,
    per_class_table,
    predictions_table,
    write_rows,
)
from layergroups.reports._show_results import results_picture
from layergroups.reports.figures._drawing import check_ending
from layergroups.reports.figures._lr_curves import RateCurve, draw_rates, rate_picture
from layergroups.reports.figures._network import network_picture
from layergroups.reports.figures._result_figures import confusion_matrix_picture
from layergroups.reports.figures._schedule import PhasePreview, SchedulePreview
from layergroups.reports.figures._training_curves import curves_png
from layergroups.reports.run._collect import record_run
from layergroups.reports.run._record import RunRecord
from layergroups.reports.run._run_folder import PICTURE, RunFiles, claim_folder, write_run
from layergroups.reports.run._run_report import RunReport, check_page_name, report_on
from layergroups.tasks.measures import (
    Calibration,
    ClassReport,
    Confusion,
    ConfusionMatrix,
    Residuals,
)

__all__ = [
    "PICTURE",
    "Calibration",
    "ClassReport",
    "Confusion",
    "ConfusionMatrix",
    "HeatMap",
    "Interpretation",
    "ModelSummary",
    "PhasePreview",
    "RateCurve",
    "Residuals",
    "RunFiles",
    "RunRecord",
    "RunReport",
    "SchedulePreview",
    "TopLoss",
    "check_ending",
    "check_page_name",
    "claim_folder",
    "confusion_matrix",
    "confusion_matrix_picture",
    "curves_png",
    "draw_rates",
    "grad_cam",
    "groups_report",
    "heat_map",
    "model_summary",
    "network_picture",
    "per_class_table",
    "predictions_table",
    "rate_picture",
    "record_run",
    "report_on",
    "results_picture",
    "say",
    "show",
    "show_figures",
    "show_json",
    "write_rows",
    "write_run",
]
