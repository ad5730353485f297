"""Metrics by name, as torchmetrics objects, or as plain functions."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layergroups.errors import TrainingError
from layergroups.training.distributed import ALONE, Processes
from layergroups.training.named_metrics import make_named, meaning
from layergroups.training.tasks import checked_task

if TYPE_CHECKING:
    import torchmetrics

MetricFunction = Callable[[Tensor, Tensor], Any]


class Meter:
    """Several metrics over the same predictions; `name -> value` at the end.

    Each update gets probabilities, float (N, C), and classes, int64 (N,); for the task "multi"
    probabilities of labels, each by itself, and float32 (N, C) of 0 and 1; for "regression" numbers
    and numbers (N, K). A torchmetrics object is copied, so that the one that was given stays as it
    is. A plain function is called once, with the probabilities and targets of all items, on the
    CPU.
    """

    def __init__(
        self,
        metrics: Iterable[object],
        n_classes: int,
        task: str = "single",
        thresh: float = 0.5,
    ) -> None:
        """Make the metrics.

        Args:
            metrics: names, torchmetrics objects, functions of (probabilities, targets).
            n_classes: outputs of the model.
            task: "single", "multi" or "regression", which decides what names mean.
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

    def compute(self, processes: Processes = ALONE) -> dict[str, float]:
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


def higher_is_better(metric: object, task: str = "single") -> bool | None:
    """Whether more of a metric is better; None for a function that does not say.

    torchmetrics objects say it by their attribute `higher_is_better`, as a function may.
    """
    if isinstance(metric, str):
        return meaning(metric, task).higher
    said = getattr(metric, "higher_is_better", None)
    return said if isinstance(said, bool) else None


def check_metrics(metrics: Iterable[object], task: str = "single") -> None:
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
    if task == "multi" and not type(metric).__module__.startswith("torchmetrics.regression"):
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
