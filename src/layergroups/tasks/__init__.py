"""What a model is asked to predict: one object for each task, with its losses and metrics."""

from layergroups.tasks._losses import (
    L1,
    LOSSES,
    BinaryCrossEntropy,
    BinaryDiceLoss,
    BinaryFocalLoss,
    CrossEntropy,
    DiceLoss,
    FocalLoss,
    Huber,
    LossFunc,
    Meaning,
    MeanSquaredError,
    NamedLoss,
    SumLoss,
    as_loss,
    checked_loss,
    describe_loss,
    item_losses,
    loss_from,
    loss_name,
    meaning_of,
    saved_name,
    stand_in,
)
from layergroups.tasks._measures import (
    BINS,
    Calibration,
    CalibrationBin,
    ClassFigures,
    ClassReport,
    Confusion,
    ConfusionMatrix,
    MaskFigures,
    MaskReport,
    OutputErrors,
    Residuals,
)
from layergroups.tasks._metrics import Meter, as_list, check_metrics, higher_is_better, metric_names
from layergroups.tasks._multiclass import Multiclass, Prediction
from layergroups.tasks._multilabel import LabelsPrediction, Multilabel
from layergroups.tasks._regression import NumbersPrediction, Regression
from layergroups.tasks._segmentation import (
    IGNORED,
    LabelMasksPrediction,
    MaskPrediction,
    MultilabelSegmentation,
    Segmentation,
)
from layergroups.tasks._splitting import members_of, random_split, stratified_split
from layergroups.tasks._targets import (
    Targets,
    missing,
    parse_labels,
    plain,
    readable,
    without_label,
)
from layergroups.tasks._task import (
    TASKS,
    AnyPrediction,
    Column,
    Label,
    MaskFile,
    Measures,
    NamedMetric,
    Task,
    checked_task,
    checked_threshold,
    output_names,
    register,
    task_meant_by,
    task_named,
)

__all__ = [
    "BINS", "IGNORED", "L1", "LOSSES", "TASKS", "AnyPrediction", "BinaryCrossEntropy",
    "BinaryDiceLoss", "BinaryFocalLoss", "Calibration", "CalibrationBin", "ClassFigures",
    "ClassReport", "Column", "Confusion", "ConfusionMatrix", "CrossEntropy", "DiceLoss",
    "FocalLoss", "Huber", "Label", "LabelMasksPrediction", "LabelsPrediction", "LossFunc",
    "MaskFigures", "MaskFile", "MaskPrediction", "MaskReport", "MeanSquaredError", "Meaning",
    "Measures", "Meter", "Multiclass", "Multilabel", "MultilabelSegmentation", "NamedLoss",
    "NamedMetric", "NumbersPrediction", "OutputErrors", "Prediction", "Regression", "Residuals",
    "Segmentation", "SumLoss", "Targets", "Task", "as_list", "as_loss", "check_metrics",
    "checked_loss", "checked_task", "checked_threshold", "describe_loss", "higher_is_better",
    "item_losses", "loss_from", "loss_name", "meaning_of", "members_of", "metric_names", "missing",
    "output_names", "parse_labels", "plain", "random_split", "readable", "register", "saved_name",
    "stand_in", "stratified_split", "task_meant_by", "task_named", "without_label",
]  # fmt: skip

for _task in (Multiclass(), Multilabel(), Regression(), Segmentation(), MultilabelSegmentation()):
    register(_task)
