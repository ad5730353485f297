"""Metrics by name, as torchmetrics objects, or as plain functions.

Metrics that a person asks for by name, and what each name means for each task.

A task is "multiclass" (one class for each item), "multilabel" (several labels) or "regression"
(numbers). The same name means the same idea in each of them: `f1` is the mean of the F1 scores of
all classes,
or of all labels, of which those with a probability above the threshold count as said.

Means over items that torchmetrics has no class for. Imported when a metric asks for it.
"""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import torch
import torchmetrics
from torch import Tensor
from torch.nn import functional

from layergroups.errors import TrainingError
from layergroups.tasks._tasks import TASKS, checked_task
from layergroups.training.distributed import SINGLE_PROCESS, Processes


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
    "multiclass": _CLASSES,
    "multilabel": _LABELS,
    "regression": _NUMBERS,
}


_SHOWN: Final = {
    "multiclass": "one class for each item",
    "multilabel": "several labels for each item",
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
    wanted = name.removesuffix("_multi") if task == "multilabel" else name
    wanted = _OTHER_NAMES.get(wanted, wanted)
    known = _NAMED[checked_task(task)]
    if wanted in known:
        return known[wanted]
    top = _TOP.fullmatch(wanted)
    if top and int(top[1]) and task == "multiclass":
        return Named("Accuracy", options=_MICRO | {"top_k": int(top[1])})
    raise TrainingError(_unknown(name, task))


def make_named(name: str, n_classes: int, task: str, thresh: float = 0.5) -> torchmetrics.Metric:
    """A torchmetrics object; averages over classes count every class alike.

    Args:
        name: as a person gives it.
        n_classes: outputs of the model: classes, labels or numbers.
        task: "multiclass", "multilabel" or "regression".
        thresh: for several labels, the probability above which one counts as said.

    Raises:
        TrainingError: the name means nothing for this task, or it is not known how many classes.
    """
    named = meaning(name, task)
    if n_classes < (2 if task == "multiclass" else 1):
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
        return mean_metric(named.kind, task)
    if task == "regression":
        from torchmetrics import regression

        several = {"num_outputs": n_classes} if named.kind.endswith("CorrCoef") else {}
        return getattr(regression, named.kind)(**named.options, **several)
    from torchmetrics import classification

    options = dict(named.options) | {"validate_args": False}
    if "top_k" in options:
        options["top_k"] = min(options["top_k"], n_classes)
    if task == "multiclass":
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
    any_number = " and top_5_accuracy (any number)" if task == "multiclass" else ""
    return (
        f"{why} By name there are: {', '.join(_NAMED[task])}{any_number}. Any torchmetrics object "
        "or function of (probabilities, targets) works too."
    )


MetricFunction = Callable[[Tensor, Tensor], Any]


class Meter:
    """Several metrics over the same predictions; `name -> value` at the end.

    Each update gets probabilities, float (N, C), and classes, int64 (N,); for the task "multilabel"
    probabilities of labels, each by itself, and float32 (N, C) of 0 and 1; for "regression" numbers
    and numbers (N, K). A torchmetrics object is copied, so that the one that was given stays as it
    is. A plain function is called once, with the probabilities and targets of all items, on the
    CPU.
    """

    def __init__(
        self,
        metrics: Iterable[object],
        n_classes: int,
        task: str = "multiclass",
        thresh: float = 0.5,
    ) -> None:
        """Make the metrics.

        Args:
            metrics: names, torchmetrics objects, functions of (probabilities, targets).
            n_classes: outputs of the model.
            task: "multiclass", "multilabel" or "regression", which decides what names mean.
            thresh: for several labels, the probability above which one counts as said, in metrics
                by name; objects and functions have their own.

        Raises:
            TrainingError: a name unknown for the task, or something that cannot be a metric.
        """
        self._task = checked_task(task)
        self._by_name: set[str] = set()
        self._objects: dict[str, torchmetrics.Metric] = {}
        self._functions: dict[str, MetricFunction] = {}
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._places: list[Tensor] = []
        given = list(metrics)
        check_metrics(given, task)
        for name, metric in zip(metric_names(given), given, strict=True):
            made = _made(metric, n_classes, task, thresh)
            if isinstance(metric, str):
                self._by_name.add(name)
            into: dict[str, Any] = self._objects if _is_torchmetric(made) else self._functions
            into[name] = made

    def to(self, device: torch.device) -> Meter:
        """Compute on this device."""
        for metric in self._objects.values():
            metric.to(device)
        return self

    def update(self, probabilities: Tensor, targets: Tensor, places: Tensor | None = None) -> None:
        """Take in a batch; nothing is read from the device.

        Args:
            probabilities: float (N, C).
            targets: (N, ...).
            places: where these items stand among those of all processes, int64 (N,).
        """
        probabilities, targets = probabilities.contiguous(), targets.contiguous()  # some use views
        for metric in self._objects.values():
            metric.update(*_as_expected(metric, self._task, probabilities, targets))
        if self._functions:
            self._kept.append((probabilities, targets))
            if places is not None:
                self._places.append(places)

    def reset(self) -> None:
        """Forget all that was taken in."""
        for metric in self._objects.values():
            metric.reset()
        self._kept.clear()
        self._places.clear()

    def compute(self, processes: Processes = SINGLE_PROCESS) -> dict[str, float]:
        """The values over all that was taken in, by all processes if they are given.

        torchmetrics objects add up their own states; functions get the predictions of all.

        Raises:
            TrainingError: a metric failed; the message names it, the cause is chained.
        """
        values: dict[str, float] = {}
        for name, metric in self._objects.items():
            _set_sync(metric, processes.several)
            several = name in self._by_name  # one for each output: their mean
            values[name] = _value(name, partial(_mean, metric) if several else metric.compute)
        if self._functions and self._kept:
            probabilities, targets = (torch.cat(column) for column in zip(*self._kept, strict=True))
            if processes.several:
                places = torch.cat(self._places)
                probabilities = processes.in_order(probabilities, places)
                targets = processes.in_order(targets, places)
            probabilities, targets = probabilities.cpu(), targets.cpu()
            for name, function in self._functions.items():
                values[name] = _value(name, partial(function, probabilities, targets))
        return values


def metric_name(metric: object) -> str:
    """The column heading of a metric."""
    if isinstance(metric, str):
        return metric
    return str(getattr(metric, "__name__", type(metric).__name__))


def metric_names(metrics: Iterable[object]) -> list[str]:
    """The column headings of several metrics, each another one."""
    names: list[str] = []
    for metric in metrics:
        name = metric_name(metric)
        while name in names:
            name += "_"
        names.append(name)
    return names


def higher_is_better(metric: object, task: str = "multiclass") -> bool | None:
    """Whether more of a metric is better; None for a function that does not say.

    torchmetrics objects say it by their attribute `higher_is_better`, as a function may.
    """
    if isinstance(metric, str):
        return meaning(metric, task).higher
    said = getattr(metric, "higher_is_better", None)
    return said if isinstance(said, bool) else None


def check_metrics(metrics: Iterable[object], task: str = "multiclass") -> None:
    """Find out early what is not a metric, without importing torchmetrics.

    Raises:
        TrainingError: a name unknown for the task, a class, or something that cannot be called.
    """
    for metric in metrics:
        if isinstance(metric, str):
            meaning(metric, task)
        elif isinstance(metric, type):
            name = metric.__name__
            raise TrainingError(f"{name} is a class; give an object, such as {name}(...).")
        elif not callable(metric):
            raise TrainingError(
                f'{metric!r} is not a metric. Give a name, such as "accuracy", a torchmetrics '
                "object, or a function of (probabilities, targets)."
            )


def as_list(metrics: object) -> list[Any]:
    """One metric or several, as a list."""
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        return [] if metrics is None else [metrics]
    return list(metrics)


def _made(metric: object, n_classes: int, task: str, thresh: float) -> object:
    """A fresh torchmetrics object, or the function."""
    if isinstance(metric, str):
        return make_named(metric, n_classes, task, thresh)
    if _is_torchmetric(metric):
        fresh: Any = copy.deepcopy(metric)
        fresh.reset()
        return fresh
    return metric


def _is_torchmetric(metric: object) -> bool:
    """Without importing torchmetrics when nobody has: then it cannot be one of its objects."""
    return any(base.__module__.startswith("torchmetrics.") for base in type(metric).__mro__)


def _set_sync(metric: torchmetrics.Metric, on: bool) -> None:
    """Whether a metric, and those that it is made of, gather from other processes."""
    for one in metric.modules():
        if _is_torchmetric(one):
            one.sync_on_compute = one._to_sync = on


def _as_expected(
    metric: object, task: str, probabilities: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor]:
    """Predictions and targets in the form that torchmetrics wants for a task.

    Metrics of labels want whole numbers, those of a single number vectors (N,).
    """
    if task == "multilabel" and not type(metric).__module__.startswith("torchmetrics.regression"):
        return probabilities, (targets > 0.5).long()
    if task == "regression" and targets.ndim == 2 and targets.shape[1] == 1:
        return probabilities.reshape(len(targets)), targets[:, 0]
    return probabilities, targets


def _mean(metric: torchmetrics.Metric) -> Tensor:
    return torch.as_tensor(metric.compute()).float().mean()


def _value(name: str, compute: Callable[[], Any]) -> float:
    try:
        return float(compute())
    except Exception as cause:
        raise TrainingError(
            f"Metric {name} failed: {cause}. It is given probabilities (N, C) and the true classes "
            "(N,), or labels or numbers (N, C), and must give one number."
        ) from cause


Values = Callable[[Tensor, Tensor], Tensor]


class MeanOf(torchmetrics.Metric):  # type: ignore[misc] # torchmetrics is not typed
    """The mean over all items of what a function gives for each of them.

    Args:
        values: from probabilities (N, C) and targets to values (N,).
    """

    full_state_update = False

    def __init__(self, values: Values) -> None:
        super().__init__()
        self.values = values
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("items", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Take in a batch."""
        self.total += self.values(probabilities, targets).double().sum()
        self.items += len(targets)

    def compute(self) -> Tensor:
        """The mean; NaN if there was nothing."""
        mean: Tensor = self.total / self.items
        return mean


def log_loss(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Minus the logarithm of the true class's probability (N,)."""
    chosen = probabilities.gather(1, targets.long()[:, None])[:, 0]
    return -_bounded(chosen).log()


def brier(probabilities: Tensor, targets: Tensor) -> Tensor:
    """The squared distance of the probabilities from the truth (N,), 0 to 2 (Brier 1950)."""
    truth = functional.one_hot(targets.long(), probabilities.shape[1])
    return (probabilities - truth).square().sum(dim=1)


def log_loss_of_labels(probabilities: Tensor, targets: Tensor) -> Tensor:
    """Minus the logarithm of the truth's probability, mean over labels (N,)."""
    right = torch.where(targets > 0.5, probabilities, 1 - probabilities)
    return -_bounded(right).log().mean(dim=1)


def brier_of_labels(probabilities: Tensor, targets: Tensor) -> Tensor:
    """The squared distance from the truth, mean over labels (N,), 0 to 1."""
    return (probabilities - targets).square().mean(dim=1)


_FUNCTIONS: Final[dict[tuple[str, str], Values]] = {
    ("log_loss", "multiclass"): log_loss,
    ("brier", "multiclass"): brier,
    ("log_loss", "multilabel"): log_loss_of_labels,
    ("brier", "multilabel"): brier_of_labels,
}


def mean_metric(kind: str, task: str) -> MeanOf:
    """A fresh metric."""
    return MeanOf(_FUNCTIONS[kind, task])


def _bounded(probabilities: Tensor) -> Tensor:
    """Not quite zero, as scikit-learn has it: a single sure mistake would else be infinite."""
    return probabilities.clamp(min=torch.finfo(torch.float32).eps)
