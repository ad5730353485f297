"""Reports: the results of a run as data, tables, pictures and a page."""

from layergroups.reports._grad_cam import HeatMap, grad_cam, heat_map
from layergroups.reports._images import LengthRow, TopLoss
from layergroups.reports._interpretation import Interpretation, confusion_matrix
from layergroups.reports._model_summary import ModelSummary, model_summary
from layergroups.reports._prediction_tables import per_class_table, write_rows
from layergroups.reports._protocols import EpochRow
from layergroups.reports._run_report import RunReport, check_page_name, report_on
from layergroups.reports._show_results import results_picture
from layergroups.reports._word_scores import word_scores
from layergroups.reports.figures import (
    PhasePreview,
    RateCurve,
    SchedulePreview,
    confusion_matrix_picture,
    curves_png,
    draw_rates,
    network_picture,
)
from layergroups.reports.run import (
    CONFIG,
    PICTURE,
    RECORD,
    RunFiles,
    RunRecord,
    choices_in_words,
    claim_folder,
    differences,
    record_run,
    write_run,
)
from layergroups.tasks import Calibration, ClassReport, Confusion, ConfusionMatrix, Residuals

__all__ = [
    "CONFIG", "PICTURE", "RECORD", "Calibration", "ClassReport", "Confusion", "ConfusionMatrix",
    "EpochRow", "HeatMap", "Interpretation", "LengthRow", "ModelSummary", "PhasePreview",
    "RateCurve", "Residuals", "RunFiles", "RunRecord", "RunReport", "SchedulePreview", "TopLoss",
    "check_page_name", "choices_in_words", "claim_folder", "confusion_matrix",
    "confusion_matrix_picture", "curves_png", "differences", "draw_rates", "grad_cam",
    "heat_map", "model_summary", "network_picture", "per_class_table",
    "record_run", "report_on", "results_picture", "word_scores", "write_rows",
    "write_run",
]  # fmt: skip
