"""Metrics that a person asks for by name, and what each name means for each task.

A task is "single" (one class for each item), "multi" (several labels) or "regression" (numbers).
The same name means the same idea in each of them: `f1` is the mean of the F1 scores of all classes,
or of all labels, of which those with a probability above the threshold count as said.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from layergroups.errors import TrainingError
from layergroups.training.tasks import TASKS, checked_task

if TYPE_CHECKING:
    import torchmetrics


@dataclass(frozen=True)
class Named:
    """A class of torchmetrics behind a name.

    Attributes:
        kind: its name in torchmetrics, without the "Multiclass" or "Multilabel" before it; a word
            in small letters is one of `mean_metrics`.
        higher: whether more is better.
        options: besides the number of classes.
        minus: the name stands for one minus the value.
    """

    kind: str
    higher: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    minus: bool = False


_MICRO: Final = {"average": "micro"}
_MACRO: Final = {"average": "macro"}
_CLASSES: Final = {
    "accuracy": Named("Accuracy", options=_MICRO),
    "error_rate": Named("Accuracy", higher=False, options=_MICRO, minus=True),
    "balanced_accuracy": Named("Accuracy", options=_MACRO),
    "precision": Named("Precision", options=_MACRO),
    "recall": Named("Recall", options=_MACRO),
    "f1": Named("F1Score", options=_MACRO),
    "roc_auc": Named("AUROC", options=_MACRO),
    "average_precision": Named("AveragePrecision", options=_MACRO),
    "jaccard": Named("JaccardIndex", options=_MACRO),
    "cohen_kappa": Named("CohenKappa"),
    "matthews": Named("MatthewsCorrCoef"),
    "log_loss": Named("log_loss", higher=False),
    "brier": Named("brier", higher=False),
    "ece": Named("CalibrationError", higher=False),
}
_LABELS: Final = {
    "accuracy": _CLASSES["accuracy"],
    "exact_match": Named("ExactMatch"),
    "hamming_loss": Named("HammingDistance", higher=False, options=_MICRO),
    **{
        name: _CLASSES[name]
        for name in ("precision", "recall", "f1", "roc_auc", "average_precision", "jaccard")
    },
    "f1_micro": Named("F1Score", options=_MICRO),
    "matthews": _CLASSES["matthews"],
    "log_loss": _CLASSES["log_loss"],
    "brier": _CLASSES["brier"],
}
_NUMBERS: Final = {
    "mse": Named("MeanSquaredError", higher=False),
    "rmse": Named("MeanSquaredError", higher=False, options={"squared": False}),
    "mae": Named("MeanAbsoluteError", higher=False),
    "r2": Named("R2Score"),
    "explained_variance": Named("ExplainedVariance"),
    "pearson": Named("PearsonCorrCoef"),
    "spearman": Named("SpearmanCorrCoef"),
}
_NAMED: Final[dict[str, dict[str, Named]]] = {
    "single": _CLASSES,
    "multi": _LABELS,
    "regression": _NUMBERS,
}
_SHOWN: Final = {
    "single": "one class for each item",
    "multi": "several labels for each item",
    "regression": "numbers",
}
_OTHER_NAMES: Final = {"auroc": "roc_auc", "mcc": "matthews", "calibration_error": "ece"}
_WITHOUT_THRESHOLD: Final = ("AUROC", "AveragePrecision")  # of those for several labels
_TOP: Final = re.compile(r"top_(\d+)_accuracy")


def meaning(name: str, task: str) -> Named:
    """What a name means for a task.

    Raises:
        TrainingError: nothing; lists the names that do.
    """
    wanted = name.removesuffix("_multi") if task == "multi" else name
    wanted = _OTHER_NAMES.get(wanted, wanted)
    known = _NAMED[checked_task(task)]
    if wanted in known:
        return known[wanted]
    top = _TOP.fullmatch(wanted)
    if top and int(top[1]) and task == "single":
        return Named("Accuracy", options=_MICRO | {"top_k": int(top[1])})
    raise TrainingError(_unknown(name, task))


def make_named(name: str, n_classes: int, task: str, thresh: float = 0.5) -> torchmetrics.Metric:
    """A torchmetrics object; averages over classes count every class alike.

    Args:
        name: as a person gives it.
        n_classes: outputs of the model: classes, labels or numbers.
        task: "single", "multi" or "regression".
        thresh: for several labels, the probability above which one counts as said.

    Raises:
        TrainingError: the name means nothing for this task, or it is not known how many classes.
    """
    named = meaning(name, task)
    if n_classes < (2 if task == "single" else 1):
        raise TrainingError(
            f"Metric {name!r} needs to know the number of classes, but the data do not tell: give "
            "them an attribute vocab or c, or give a torchmetrics object instead of a name."
        )
    with warnings.catch_warnings():
        # Some keep all predictions, as functions do; a validation set fits into memory.
        warnings.filterwarnings("ignore", ".*large memory footprint")
        made = _built(named, n_classes, task, thresh)
    return 1 - made if named.minus else made


def _built(named: Named, n_classes: int, task: str, thresh: float) -> torchmetrics.Metric:
    if named.kind.islower():
        from layergroups.training.mean_metrics import mean_metric

        return mean_metric(named.kind, task)
    if task == "regression":
        from torchmetrics import regression

        several = {"num_outputs": n_classes} if named.kind.endswith("CorrCoef") else {}
        return getattr(regression, named.kind)(**named.options, **several)
    from torchmetrics import classification

    options = dict(named.options) | {"validate_args": False}
    if "top_k" in options:
        options["top_k"] = min(options["top_k"], n_classes)
    if task == "single":
        return getattr(classification, f"Multiclass{named.kind}")(num_classes=n_classes, **options)
    if named.kind == "ExactMatch":
        options.pop("average", None)
    if named.kind not in _WITHOUT_THRESHOLD:
        options["threshold"] = thresh
    return getattr(classification, f"Multilabel{named.kind}")(num_labels=n_classes, **options)


def _unknown(name: str, task: str) -> str:
    """Why a name means nothing for a task, and which do."""
    elsewhere = [other for other in TASKS if other != task and name in _NAMED[other]]
    why = f"No metric is called {name!r}."
    if elsewhere:
        why = f"Metric {name!r} is for {_SHOWN[elsewhere[0]]}; these data have {_SHOWN[task]}."
    any_number = " and top_5_accuracy (any number)" if task == "single" else ""
    return (
        f"{why} By name there are: {', '.join(_NAMED[task])}{any_number}. Any torchmetrics object "
        "or function of (probabilities, targets) works too."
    )
