"""`Task`: all that depends on what a model is asked to predict, in one object for each task."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, Protocol

import torch
from torch import Tensor

from layergroups._formatting import count
from layergroups.errors import LayerGroupsError, ModelError, TrainingError
from layergroups.models import TargetUnits
from layergroups.tasks._losses import LossFunc, Meaning, apply, loss_name, meaning_of

Label = int | tuple[float, ...]  # of one item: its class, its labels by position, or its numbers
Parts = tuple[tuple[int, ...], tuple[int, ...]]  # positions for training and for validation
OLD_NAMES: Final = {"single": "multiclass", "multi": "multilabel"}  # in files of version 0.1
_OTHER_METRIC_NAMES: Final = {
    "auroc": "roc_auc",
    "mcc": "matthews",
    "calibration_error": "ece",
}


@dataclass(frozen=True)
class NamedMetric:
    """What a name of a metric means for a task.

    Attributes:
        make: a fresh torchmetrics object, for a number of outputs and a threshold.
        higher: whether more is better.
    """

    make: Callable[[int, float], Any]
    higher: bool = True


class Column(NamedTuple):
    """A column of a table of predictions; its width is in characters."""

    heading: str
    width: int = 0
    right: bool = False


class AnyPrediction(Protocol):
    """What a model says of one item, in each form in which it is written."""

    @classmethod
    def columns(cls, names: Sequence[str]) -> tuple[Column, ...]:
        """Of a table in the terminal; `names` are those of the outputs."""

    def cells(self) -> tuple[str, ...]:
        """One for each of these columns."""

    @classmethod
    def csv_columns(cls, names: Sequence[str]) -> tuple[str, ...]:
        """Headings of comma-separated values."""

    def csv_cells(self) -> tuple[object, ...]:
        """One for each of these headings."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""


class Ranked:
    """What predictions with a probability for each output have in common."""

    probabilities: Tensor
    names: tuple[str, ...]

    @property
    def by_name(self) -> dict[str, float]:
        """The probability of every class or label."""
        return dict(zip(self.names, self.probabilities.tolist(), strict=True))

    @property
    def ranking(self) -> tuple[tuple[str, float], ...]:
        """(name, probability) of all of them, the likeliest first."""
        return tuple(sorted(self.by_name.items(), key=lambda pair: -pair[1]))


class Measures(Protocol):
    """Predictions beside the truth: what a task measures of them; prints as a table."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""


class Task(ABC):
    """What a model is asked to predict, and all that follows from it.

    There is one object for each task, in `TASKS`. To add one, derive from this class (or from a
    task that is like it) and `register` an object of it. A task equals its name, so
    `learn.task == "multilabel"` is as good as `learn.task is TASKS["multilabel"]`.
    """

    name: ClassVar[str]  # as people and files write it
    one: ClassVar[str]  # what one output stands for, in a word, such as "class"
    many: ClassVar[str]  # several of them
    items_have: ClassVar[str]  # what each item has, in words
    targets_are: ClassVar[str]  # form and type of targets, in words
    usual_loss: ClassVar[str]  # the default loss, in words
    meanings: ClassVar[frozenset[Meaning]]  # of the losses that fit
    # what turns outputs into predictions where the loss does not tell
    activation: ClassVar[Meaning]
    metrics: ClassVar[Mapping[str, NamedMetric]]  # by name
    default_metrics: ClassVar[tuple[str, ...]]  # names of those that the command line shows
    more_metrics: ClassVar[str] = ""  # that have no fixed name, in words for messages
    least_outputs: ClassVar[int] = 1  # that a model for it has
    prediction: ClassVar[type[AnyPrediction]]  # the class of predictions of one item
    measures_type: ClassVar[type[Measures]]  # the class of what `measures` gives
    output_name: ClassVar[str] = "probabilities"  # of an exported file's output
    output_is: ClassVar[str]  # what it is, in words
    # whether the name of a folder can be the label of the items in it
    reads_folders: ClassVar[bool] = False
    needs_label: ClassVar[bool] = True  # whether an item without any label is a mistake
    has_threshold: ClassVar[bool] = False  # whether predictions depend on a threshold
    has_counts: ClassVar[bool] = True  # whether items can be counted for each output
    # why there is nothing to validate with, in words; {} is where items are from
    few_items: ClassVar[str] = "{} has one item"

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return repr(self.name)

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, str) and other == self.name)

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self) -> tuple[Any, ...]:
        return task_named, (self.name,)  # there is one of each, also in a worker process

    def count(self, n: int) -> str:
        """As "1 class", "3 classes"."""
        return count(n, self.one, self.many)

    # Labels and targets

    def recognises(self, values: Sequence[Any]) -> bool:
        """Whether labels look as if they were of this task, where nobody says which it is."""
        return False

    @abstractmethod
    def parse_labels(
        self,
        values: Sequence[Any],
        files: Sequence[str],
        vocab: tuple[str, ...] | None,
        columns: tuple[str, ...],
    ) -> tuple[tuple[str, ...], tuple[Label, ...]]:
        """Names of the outputs, and the label of each item.

        Args:
            values: what a person gave for each item, as plain Python.
            files: the items, for messages.
            vocab: the names, if the person gave them.
            columns: of a table from which the values are.

        Raises:
            DataError: the values are not labels of this task.
        """

    @abstractmethod
    def split(self, labels: Sequence[Label], valid_pct: float, seed: int) -> Parts:
        """Divide items into training and validation; each part has some of every class or label."""

    @abstractmethod
    def target(self, label: Label | None, n_outputs: int) -> int | Tensor:
        """The target of one item from its label."""

    def counts(self, labels: Sequence[Label], n_outputs: int) -> tuple[int, ...]:
        """How many items each class or label has; zeros where there are neither."""
        return (0,) * n_outputs

    def targets(self, labels: Sequence[Label], n_outputs: int) -> Tensor:
        """The targets of many items."""
        return torch.stack([torch.as_tensor(self.target(label, n_outputs)) for label in labels])

    @abstractmethod
    def words(self, value: Tensor, names: Sequence[str]) -> list[str]:
        """A target, or what `decide` gives for an item, in words: a class, labels or numbers."""

    def text(self, value: Tensor, names: Sequence[str]) -> str:
        """The words with commas between them; "none" if there are none."""
        return ", ".join(self.words(value, names)) or "none"

    # Head and loss

    def target_units(self, targets: Tensor | None) -> TargetUnits | None:
        """The last layer of a new head, if outputs are to be scaled to what the targets are.

        Args:
            targets: of all training items; None if they are not known.
        """
        return None

    def check_range(self, y_range: object) -> None:
        """Whether a head may be bounded.

        Raises:
            ModelError: its outputs are not numbers.
        """
        raise ModelError(
            f"y_range={y_range!r} bounds the numbers of a regression, but the task of the data is "
            f"{self.name!r}. Leave it out, or give the data numbers as targets."
        )

    @abstractmethod
    def default_loss(self) -> LossFunc:
        """The usual loss."""

    def check_loss(self, loss_func: LossFunc) -> None:
        """A loss must be one for the task; a loss of one's own is taken as it is.

        Raises:
            TrainingError: it is for a different task, and would fail or train something else.
        """
        meaning = meaning_of(loss_func)
        if meaning is not None and meaning not in self.meanings:
            raise TrainingError(
                f"The loss {loss_name(loss_func)} does not fit the task of the data, "
                f"{self.name!r}: their targets are {self.targets_are}. The usual loss for that is "
                f"{self.usual_loss}, which a learner takes by itself where loss_func= is not given."
            )

    def predictions(self, outputs: Tensor, loss_func: object = None) -> Tensor:
        """The model's outputs as probabilities (N, C), or as the numbers (N, K) themselves.

        A loss with an attribute `activation` says it itself. Cross entropy means a softmax over
        dimension 1, binary cross entropy with logits a sigmoid; other losses of torch mean the
        outputs as they are. Of a loss that is not known the task decides.
        """
        own = getattr(loss_func, "activation", None)
        if callable(own):
            result: Tensor = own(outputs)
            return result
        return apply(meaning_of(loss_func) or self.activation, outputs)

    def check_targets(self, outputs: Tensor, targets: Tensor, loss_func: object = None) -> None:
        """Before the first step: outputs and targets must be of shapes and values that fit.

        Args:
            outputs: of the model.
            targets: of the same items.
            loss_func: may leave out some targets, by its `ignore_index`.

        Raises:
            TrainingError: they are not.
        """
        if outputs.shape != targets.shape or not targets.is_floating_point():
            raise TrainingError(
                f"The outputs {tuple(outputs.shape)} and the targets {tuple(targets.shape)} "
                f"{targets.dtype} do not fit: for the task {self.name!r} targets are "
                f"{self.targets_are}, and the model gives as many outputs. Make the head for the "
                "data, as vision_learner(dls, arch) does; a single number for each item has shape "
                "(N, 1), targets[:, None]."
            )

    # Metrics

    def metric(self, name: str) -> NamedMetric:
        """What a name means.

        Raises:
            TrainingError: nothing for this task; lists the names that mean something.
        """
        name = _OTHER_METRIC_NAMES.get(name, name)
        if name in self.metrics:
            return self.metrics[name]
        others = [task for task in TASKS.values() if task != self and name in task.metrics]
        why = (
            f"Metric {name!r} is for {others[0].items_have}; these data have {self.items_have}."
            if others
            else f"No metric is called {name!r}."
        )
        raise TrainingError(
            f"{why} By name there are: {', '.join(self.metrics)}{self.more_metrics}. Any "
            "torchmetrics object or function of (probabilities, targets) works too."
        )

    def for_metric(
        self, metric: object, predictions: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predictions and targets in the form that a torchmetrics object wants."""
        return predictions, targets

    # Predictions of one item, and of many beside the truth

    @abstractmethod
    def decode(self, values: Tensor, names: Sequence[str], thresh: float = 0.5) -> AnyPrediction:
        """What predictions (C,) of one item say.

        Args:
            values: probabilities or numbers, on the CPU.
            names: of the outputs; positions where there is not one for each.
            thresh: the probability above which a label counts as there.
        """

    @abstractmethod
    def decide(self, predictions: Tensor, thresh: float = 0.5) -> Tensor:
        """What is predicted of each item: classes int (N,), labels bool (N, C), numbers (N, K)."""

    def correct(self, predictions: Tensor, targets: Tensor, thresh: float = 0.5) -> Tensor | None:
        """Whether each item is predicted rightly, bool (N,); None where that is not a yes or no."""
        return None

    def confidence(self, values: Tensor) -> float | None:
        """The largest probability of an item (C,); None if there are no probabilities."""
        return float(values.max())

    def graded(
        self, predictions: Tensor, targets: Tensor, thresh: float = 0.5
    ) -> tuple[Tensor, Tensor] | None:
        """Probabilities (M,) and whether each is right (M,), for calibration; None without any."""
        return None

    def rows(self, values: Tensor) -> Tensor:
        """Predictions or targets of many items in the shape in which they are kept."""
        return values

    def default_names(self, n_outputs: int) -> tuple[str, ...]:
        """Names of outputs where the data have none."""
        return tuple(map(str, range(n_outputs)))

    def targets_shape(self, predictions: Sequence[int]) -> tuple[int, ...]:
        """The shape of targets that goes with a shape of predictions."""
        return tuple(predictions)

    @abstractmethod
    def measures(
        self, predictions: Tensor, targets: Tensor, names: Sequence[str], thresh: float = 0.5
    ) -> Measures:
        """Predictions beside the truth."""

    @abstractmethod
    def figures(
        self, predictions: Tensor, targets: Tensor, names: Sequence[str], thresh: float = 0.5
    ) -> dict[str, float]:
        """The most important figures of the same, by name."""

    def scale(self, predictions: Tensor) -> float:
        """By what differences of predictions are measured: 1 for probabilities."""
        return 1.0


TASKS: Final[dict[str, Task]] = {}


def register(task: Task) -> Task:
    """Add a task to `TASKS`.

    Raises:
        LayerGroupsError: there is one of this name.
    """
    if task.name in TASKS:
        raise LayerGroupsError(f"There is a task {task.name!r} already; give yours another name.")
    TASKS[task.name] = task
    return task


def task_named(name: object) -> Task:
    """The task that a saved file names: checkpoints, exports and records of older versions too."""
    known = str(name)
    return checked_task(OLD_NAMES.get(known, known), LayerGroupsError)


def checked_task(task: object, error: type[LayerGroupsError] = TrainingError) -> Task:
    """The task that a person gives, as an object of `TASKS` or by its name."""
    if isinstance(task, Task):
        return task
    known = str(task)
    if known in TASKS:
        return TASKS[known]
    *most, last = (f'"{name}"' for name in TASKS)
    renamed = f' "{known}" is now task="{OLD_NAMES[known]}".' if known in OLD_NAMES else ""
    raise error(f"task={known!r} is not known; give {', '.join(most)} or {last}.{renamed}")


def task_meant_by(loss_func: object) -> Task:
    """The task that a loss is for, where the data do not tell theirs."""
    meaning = meaning_of(loss_func)
    usual = [task for task in TASKS.values() if task.activation is meaning]
    fitting = [task for task in TASKS.values() if meaning in task.meanings]
    return next(iter((*usual, *fitting, *TASKS.values())))


def output_names(names: Sequence[str], n: int) -> tuple[str, ...]:
    """A name for each of n outputs: their positions where there is not one for each."""
    return tuple(names) if len(names) == n else tuple(map(str, range(n)))


def checked_threshold(thresh: Any) -> float:
    """A probability above which a label counts as there."""
    if isinstance(thresh, bool) or not isinstance(thresh, (int, float)) or not 0 < thresh < 1:
        raise TrainingError(
            f"thresh={thresh!r} must lie between 0 and 1: labels of a higher probability count as "
            "there. Right would be thresh=0.5."
        )
    return float(thresh)
