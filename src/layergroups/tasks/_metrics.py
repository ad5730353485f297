"""Metrics: torchmetrics objects by name, torchmetrics objects, or plain functions.

Each task defines its metrics by name (`Task.metrics`). The same name has a similar meaning in each:
`f1` is the mean of the F1 scores of the classes, or of the labels, that are present; labels with a
probability above the threshold count as predicted. torchmetrics is imported when a metric is made.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor

from layergroups.errors import TrainingError
from layergroups.tasks._task import NamedMetric, Task, checked_task

if TYPE_CHECKING:
    import torchmetrics


def named(maker: str, *, higher: bool = True, **options: Any) -> NamedMetric:
    """A metric made by a function or class of `_item_metrics`, which imports torchmetrics."""

    def make(n: int, thresh: float) -> Any:
        from layergroups.tasks import _item_metrics

        return getattr(_item_metrics, maker)(n, thresh, **options)

    return NamedMetric(make, higher)


def mean_of(function: str, *, higher: bool = False, **options: Any) -> NamedMetric:
    """The mean over all items of the values of a function of `_item_metrics`."""
    return named("mean_of", higher=higher, function=function, **options)


def make_named(name: str, n_outputs: int, task: Task, thresh: float = 0.5) -> torchmetrics.Metric:
    """A torchmetrics object for a name; all classes present have equal weight in averages."""
    named = task.metric(name)
    if n_outputs < task.least_outputs:
        raise TrainingError(
            f"Metric {name!r} needs the number of classes, but the data have none: give them an "
            "attribute vocab or c, or their dataset classes; or give a torchmetrics object instead."
        )
    with warnings.catch_warnings():
        # Some store all predictions, as functions do; a validation set fits into memory.
        warnings.filterwarnings("ignore", ".*large memory footprint")
        return named.make(n_outputs, thresh)


class Processes(Protocol):
    """The processes that train together, as metrics need them."""

    @property
    def is_distributed(self) -> bool: ...

    def in_order(self, values: Tensor, places: Tensor) -> Tensor: ...


MetricFunction = Callable[[Tensor, Tensor], Any]


class Meter:
    """Several metrics over the same predictions; `name -> value` at the end.

    Each update gets predictions (probabilities (N, C), or numbers (N, K)) and targets in the form
    of the task. A given torchmetrics object is copied and not changed. A plain function is called
    once, with the predictions and targets of all items, on the CPU.
    """

    def __init__(
        self, metrics: Iterable[object], n_classes: int, task: Task | str, thresh: float = 0.5
    ) -> None:
        """Make the metrics.

        Args:
            metrics: names, torchmetrics objects, functions of (probabilities, targets).
            n_classes: outputs of the model.
            task: defines the metrics by name; the object or its name.
            thresh: for several labels, the probability above which a label counts as predicted, in
                metrics by name; objects and functions have their own.
        """
        self._task = task = checked_task(task)
        self._objects: dict[str, torchmetrics.Metric] = {}
        self._functions: dict[str, MetricFunction] = {}
        self._batches: list[tuple[Tensor, Tensor]] = []
        self._places: list[Tensor] = []
        given = list(metrics)
        check_metrics(given, task)
        for name, metric in zip(metric_names(given), given, strict=True):
            if isinstance(metric, str):
                self._objects[name] = make_named(metric, n_classes, task, thresh)
            elif _is_torchmetric(metric):
                fresh: Any = copy.deepcopy(metric)
                fresh.reset()
                self._objects[name] = fresh
            else:
                self._functions[name] = cast(MetricFunction, metric)

    def to(self, device: torch.device) -> Meter:
        for metric in self._objects.values():
            metric.to(device)
        return self

    def update(self, probabilities: Tensor, targets: Tensor, places: Tensor | None = None) -> None:
        """Add a batch; `places` are the positions of its items among those of all processes."""
        probabilities, targets = probabilities.contiguous(), targets.contiguous()  # some use views
        for metric in self._objects.values():
            metric.update(*self._task.for_metric(metric, probabilities, targets))
        if self._functions:
            self._batches.append((probabilities, targets))
            if places is not None:
                self._places.append(places)

    def reset(self) -> None:
        for metric in self._objects.values():
            metric.reset()
        self._batches.clear()
        self._places.clear()

    def compute(self, processes: Processes | None = None) -> dict[str, float]:
        """The values over all batches, of all processes if they are given."""
        values: dict[str, float] = {}
        shared = processes if processes is not None and processes.is_distributed else None
        for name, metric in self._objects.items():
            for one in metric.modules():  # switch gathering on or off, for its parts too
                if _is_torchmetric(one):
                    one.sync_on_compute = one._to_sync = shared is not None
            values[name] = _value(name, metric.compute)
        if self._functions and self._batches:
            probabilities, targets = (
                torch.cat(column) for column in zip(*self._batches, strict=True)
            )
            if shared is not None:
                places = torch.cat(self._places)
                probabilities = shared.in_order(probabilities, places)
                targets = shared.in_order(targets, places)
            probabilities, targets = probabilities.cpu(), targets.cpu()
            for name, function in self._functions.items():
                values[name] = _value(name, partial(function, probabilities, targets))
        return values


def metric_names(metrics: Iterable[object]) -> list[str]:
    """The column headings of several metrics, each a different one."""
    names: list[str] = []
    for metric in metrics:
        own = getattr(metric, "__name__", type(metric).__name__)
        name = metric if isinstance(metric, str) else str(own)
        while name in names:
            name += "_"
        names.append(name)
    return names


def higher_is_better(metric: object, task: Task) -> bool | None:
    """Whether more of a metric is better; None if unknown.

    torchmetrics objects have an attribute `higher_is_better`; a function may have one.
    """
    if isinstance(metric, str):
        return task.metric(metric).higher
    higher = getattr(metric, "higher_is_better", None)
    return higher if isinstance(higher, bool) else None


def check_metrics(metrics: Iterable[object], task: Task) -> None:
    """Check names and types early, without importing torchmetrics."""
    for metric in metrics:
        if isinstance(metric, str):
            task.metric(metric)
        elif isinstance(metric, type):
            name = metric.__name__
            raise TrainingError(f"{name} is a class; give an object, such as {name}(...).")
        elif not callable(metric):
            raise TrainingError(
                f'{metric!r} is not a metric. Give a name, such as "accuracy", a torchmetrics '
                "object, or a function of (probabilities, targets)."
            )


def as_list(metrics: object) -> list[Any]:
    if isinstance(metrics, str) or not isinstance(metrics, Sequence):
        return [] if metrics is None else [metrics]
    return list(metrics)


def _is_torchmetric(metric: object) -> bool:
    """By the name of its classes, without importing torchmetrics."""
    return any(base.__module__.startswith("torchmetrics.") for base in type(metric).__mro__)


def _value(name: str, compute: Callable[[], Any]) -> float:
    try:
        return float(compute())
    except Exception as cause:
        raise TrainingError(
            f"Metric {name} failed: {cause}. It gets probabilities (N, C) and the true classes "
            "(N,), or labels or numbers (N, C), and must return a number."
        ) from cause
