"""Metrics by name, as torchmetrics objects, or as plain functions."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from layergroups.errors import TrainingError
from layergroups.training.distributed import ALONE, Processes

if TYPE_CHECKING:
    import torchmetrics

MetricFunction = Callable[[Tensor, Tensor], Any]
_NAMED: Final = {
    "accuracy": ("MulticlassAccuracy", "micro"),
    "balanced_accuracy": ("MulticlassAccuracy", "macro"),
    "error_rate": ("MulticlassAccuracy", "micro"),
    "f1": ("MulticlassF1Score", "macro"),
    "precision": ("MulticlassPrecision", "macro"),
    "recall": ("MulticlassRecall", "macro"),
    "roc_auc": ("MulticlassAUROC", "macro"),
}
_TOP: Final = re.compile(r"top_(\d+)_accuracy")


class Meter:
    """Several metrics over the same predictions; `name -> value` at the end.

    Each update gets probabilities, float (N, C), and classes, int64 (N,). A torchmetrics object is
    copied, so that the one that was given stays as it is. A plain function is called once, with the
    probabilities and classes of all items, on the CPU.
    """

    def __init__(self, metrics: Iterable[object], n_classes: int) -> None:
        """Make the metrics.

        Raises:
            TrainingError: an unknown name, or something that cannot be a metric.
        """
        self._objects: dict[str, torchmetrics.Metric] = {}
        self._functions: dict[str, MetricFunction] = {}
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._places: list[Tensor] = []
        given = list(metrics)
        check_metrics(given)
        for metric in given:
            name, made = metric_name(metric), _made(metric, n_classes)
            while name in self._objects or name in self._functions:
                name += "_"
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
        for metric in self._objects.values():
            metric.update(probabilities, targets)
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

    def compute(self, processes: Processes = ALONE) -> dict[str, float]:
        """The values over all that was taken in, by all processes if they are given.

        torchmetrics objects add up their own states; functions get the predictions of all.

        Raises:
            TrainingError: a metric failed; the message names it, the cause is chained.
        """
        values: dict[str, float] = {}
        for name, metric in self._objects.items():
            _set_sync(metric, processes.several)
            values[name] = _value(name, metric.compute)
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


def check_metrics(metrics: Iterable[object]) -> None:
    """Find out early what is not a metric, without importing torchmetrics.

    Raises:
        TrainingError: an unknown name, a class, or something that cannot be called.
    """
    for metric in metrics:
        if isinstance(metric, str):
            if metric not in _NAMED and not _TOP.fullmatch(metric):
                raise TrainingError(
                    f"No metric is called {metric!r}. By name there are: {', '.join(_NAMED)} and "
                    "top_5_accuracy (any number). Any torchmetrics object or function of "
                    "(probabilities, classes) works too."
                )
        elif isinstance(metric, type):
            name = metric.__name__
            raise TrainingError(f"{name} is a class; give an object, such as {name}(...).")
        elif not callable(metric):
            raise TrainingError(
                f"{metric!r} is not a metric. Give a name ({', '.join(_NAMED)}), a torchmetrics "
                "object, or a function of (probabilities, classes)."
            )


def as_list(metrics: object) -> list[Any]:
    """One metric or several, as a list."""
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        return [] if metrics is None else [metrics]
    return list(metrics)


def _made(metric: object, n_classes: int) -> object:
    """A fresh torchmetrics object, or the function."""
    if isinstance(metric, str):
        return _named(metric, n_classes)
    if _is_torchmetric(metric):
        fresh: Any = copy.deepcopy(metric)
        fresh.reset()
        return fresh
    return metric


def _named(name: str, n_classes: int) -> torchmetrics.Metric:
    """A torchmetrics object by name; averages over classes count every class alike."""
    from torchmetrics import classification

    if n_classes < 2:
        raise TrainingError(
            f"Metric {name!r} needs to know the number of classes, but the data do not tell: give "
            "them an attribute vocab or c, or give a torchmetrics object instead of a name."
        )
    options: dict[str, Any] = {"num_classes": n_classes, "validate_args": False}
    top = _TOP.fullmatch(name)
    if top:
        k = min(int(top[1]), n_classes)
        return classification.MulticlassAccuracy(top_k=k, average="micro", **options)
    kind, average = _NAMED[name]
    made: torchmetrics.Metric = getattr(classification, kind)(average=average, **options)
    return 1 - made if name == "error_rate" else made


def _is_torchmetric(metric: object) -> bool:
    """Without importing torchmetrics when nobody has: then it cannot be one of its objects."""
    return any(base.__module__.startswith("torchmetrics.") for base in type(metric).__mro__)


def _set_sync(metric: torchmetrics.Metric, on: bool) -> None:
    """Whether a metric, and those that it is made of, gather from other processes."""
    for one in metric.modules():
        if _is_torchmetric(one):
            one.sync_on_compute = one._to_sync = on


def _value(name: str, compute: Callable[[], Any]) -> float:
    try:
        return float(compute())
    except Exception as cause:
        raise TrainingError(
            f"Metric {name} failed: {cause}. It is given probabilities (N, classes) and the true "
            "classes (N,), and must give one number."
        ) from cause
