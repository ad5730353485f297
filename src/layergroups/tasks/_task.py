"""`Task`: everything that depends on what a model predicts, in one object for each task."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, NamedTuple, Protocol

import torch
from torch import Tensor

from layergroups._drawing import palette
from layergroups._formatting import count
from layergroups.errors import LayerGroupsError, ModelError, TrainingError
from layergroups.models import TargetUnits
from layergroups.tasks._losses import LossFunc, Meaning, apply, loss_name, meaning_of


class MaskFile(NamedTuple):
    """The mask of an image: its files, and how many pixels of each class it has."""

    paths: tuple[str, ...]  # one; of labels that may overlap perhaps one for each, or ""
    pixels: tuple[int, ...]
    size: int = 0  # pixels in all

    @property
    def classes(self) -> tuple[int, ...]:
        """The positions of the classes in it."""
        return tuple(place for place, n in enumerate(self.pixels) if n)


# of one item: its class, its labels by position, its numbers, or its mask
Label = int | tuple[float, ...] | MaskFile
_LOG: Final = logging.getLogger("layergroups")
Names = Sequence[str]
Vocab = tuple[str, ...]
Parts = tuple[tuple[int, ...], tuple[int, ...]]  # positions for training and for validation
OLD_NAMES: Final = {"single": "multiclass", "multi": "multilabel"}  # in files of version 0.1
_OTHER_METRIC_NAMES: Final = {"auroc": "roc_auc", "mcc": "matthews", "calibration_error": "ece"}


@dataclass(frozen=True)
class NamedMetric:
    make: Callable[[int, float], Any]  # a torchmetrics object, of number of outputs and threshold
    higher: bool = True  # whether more is better


class Column(NamedTuple):
    """A column of a table of predictions; its width is in characters."""

    heading: str
    width: int = 0
    right: bool = False


class AnyPrediction(Protocol):
    """The prediction of one item, in each output format."""

    @classmethod
    def columns(cls, names: Names) -> tuple[Column, ...]:
        """The columns of a table in the terminal; `names` are those of the outputs."""

    def cells(self) -> tuple[str, ...]:
        """A cell for each of these columns."""

    @classmethod
    def csv_columns(cls, names: Names) -> tuple[str, ...]:
        """Headings of comma-separated values."""

    def csv_cells(self) -> tuple[object, ...]:
        """A value for each of these headings."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""


class Ranked:
    """Base of predictions with a probability for each output."""

    probabilities: Tensor
    names: tuple[str, ...]

    @property
    def by_name(self) -> dict[str, float]:
        """The probability of every class or label."""
        return dict(zip(self.names, self.probabilities.tolist(), strict=True))

    @property
    def ranking(self) -> tuple[tuple[str, float], ...]:
        """(name, probability) of every class or label, the most likely first."""
        return tuple(sorted(self.by_name.items(), key=lambda pair: -pair[1]))


class Measures(Protocol):
    """Predictions compared with the targets; prints as a table."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""


class Task(ABC):
    """What a model predicts, and everything that depends on it.

    There is one object for each task, in `TASKS`. To add one, derive from this class (or from a
    similar task) and `register` an object of it. A task equals its name, so that
    `learn.task == "multilabel"` works.
    """

    name: ClassVar[str]  # as people and files write it
    one: ClassVar[str]  # what one output is, such as "class"
    many: ClassVar[str]  # its plural
    items_have: ClassVar[str]  # what each item has, in words
    targets_are: ClassVar[str]  # form and type of targets, in words
    usual_loss: ClassVar[str]  # the default loss, in words
    meanings: ClassVar[frozenset[Meaning]]  # of the losses that fit
    # how outputs become predictions if the loss is unknown
    activation: ClassVar[Meaning]
    metrics: ClassVar[Mapping[str, NamedMetric]]  # by name
    default_metrics: ClassVar[tuple[str, ...]]  # those that the command line shows
    more_metrics: ClassVar[str] = ""  # without a fixed name, for messages
    least_outputs: ClassVar[int] = 1  # of a model
    prediction: ClassVar[type[AnyPrediction]]  # the class of predictions of one item
    measures_type: ClassVar[type[Measures]]  # the class that `measures` returns
    output_name: ClassVar[str] = "probabilities"  # of an exported file's output
    output_is: ClassVar[str]  # its description
    # whether the name of a folder can be the label of its items
    reads_folders: ClassVar[bool] = False
    needs_label: ClassVar[bool] = True  # whether an item without a label is an error
    has_threshold: ClassVar[bool] = False  # whether predictions depend on a threshold
    has_counts: ClassVar[bool] = True  # whether items can be counted for each output
    has_confusion: ClassVar[bool] = False  # whether classes are confused: each has one
    per_pixel: ClassVar[bool] = False  # whether there is a prediction for every pixel
    # the error if no item is left to validate with; {} is the source of the items
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

    def recognises(self, values: Sequence[Any]) -> bool:
        """Whether labels look like those of this task; used if no task is given."""
        return False

    @abstractmethod
    def parse_labels(
        self, values: Sequence[Any], files: Names, vocab: Vocab | None, columns: Vocab
    ) -> tuple[Vocab, tuple[Label, ...]]:
        """Names of the outputs, and the label of each item; `DataError` if a value is not one.

        Args:
            values: the label of each item, as plain Python.
            files: the items, for messages.
            vocab: the names, if given.
            columns: of the table that the values come from.
        """

    @abstractmethod
    def split(self, labels: Sequence[Label], valid_pct: float, seed: int) -> Parts:
        """Split items into training and validation; each part has some of every class or label."""

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
    def words(self, value: Tensor, names: Names) -> list[str]:
        """A target or a decision of `decide` as text: a class, labels or numbers."""

    def text(self, value: Tensor, names: Names) -> str:
        """The same, joined by commas; "none" if empty."""
        return ", ".join(self.words(value, names)) or "none"

    def target_units(self, targets: Tensor | None) -> TargetUnits | None:
        """The last layer of a new head, if outputs are scaled to the units of all targets."""
        return None

    def check_range(self, y_range: object, targets: Tensor | None = None) -> None:
        """Check that a head may be bounded: its outputs are numbers, and targets are in between."""
        raise ModelError(
            f"y_range={y_range!r} bounds the numbers of a regression, but the task of the data is "
            f"{self.name!r}. Leave it out, or give the data numbers as targets."
        )

    @abstractmethod
    def default_loss(self) -> LossFunc:
        """The usual loss."""

    def check_loss(self, loss_func: LossFunc) -> None:
        """Check that a loss fits the task; an unknown loss passes."""
        meaning = meaning_of(loss_func)
        if meaning is not None and meaning not in self.meanings:
            raise TrainingError(
                f"The loss {loss_name(loss_func)} does not fit the task of the data, "
                f"{self.name!r}: their targets are {self.targets_are}. The usual loss for that is "
                f"{self.usual_loss}, which a learner uses if loss_func= is not given."
            )

    def note_unknown_loss(self, loss_func: LossFunc) -> None:
        """Log how outputs are interpreted, if the loss does not say."""
        says = callable(getattr(loss_func, "activation", None)) or meaning_of(loss_func)
        if not says and self.activation is not Meaning.NUMBERS:
            _LOG.warning(
                "The loss %s is not known, so outputs are taken as %s (task %r). If the model "
                "gives probabilities itself, set loss_func.activation = torch.nn.Identity().",
                loss_name(loss_func),
                self.activation.value,
                self.name,
            )

    def predictions(self, outputs: Tensor, loss_func: object = None) -> Tensor:
        """The model's outputs as probabilities (N, C), or as the numbers (N, K) themselves.

        An attribute `activation` of the loss takes precedence. Cross entropy means a softmax over
        dimension 1, binary cross entropy with logits a sigmoid; other losses of torch mean the
        outputs as they are. For an unknown loss the task decides.
        """
        own: Callable[[Tensor], Tensor] | None = getattr(loss_func, "activation", None)
        if callable(own):
            return own(outputs)
        return apply(meaning_of(loss_func) or self.activation, outputs)

    def check_targets(self, outputs: Tensor, targets: Tensor, loss_func: object = None) -> None:
        """Check the shapes and values of outputs and targets, before the first step.

        The `ignore_index` of the loss leaves out some targets.
        """
        if outputs.shape != targets.shape or not targets.is_floating_point():
            raise TrainingError(
                f"The outputs {tuple(outputs.shape)} and the targets {tuple(targets.shape)} "
                f"{targets.dtype} do not fit: for the task {self.name!r} targets are "
                f"{self.targets_are}, and the model gives as many outputs, as vision_learner(dls, "
                "arch) does; a single number for each item has shape (N, 1), targets[:, None]."
            )

    def fitted(self, outputs: Tensor, like: Tensor) -> Tensor:
        """Outputs at the size of targets or images, where a model gives smaller maps of scores."""
        return outputs

    def metric(self, name: str) -> NamedMetric:
        """The metric of this name; the error for any other lists the names."""
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
            f"{why} The names are: {', '.join(self.metrics)}{self.more_metrics}. Any "
            "torchmetrics object or function of (probabilities, targets) works too."
        )

    def for_metric(
        self, metric: object, predictions: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Predictions and targets in the form that a torchmetrics object needs."""
        return predictions, targets

    # Predictions of one item, and of many with their targets

    @abstractmethod
    def decode(self, values: Tensor, names: Names, thresh: float = 0.5) -> AnyPrediction:
        """The prediction of one item from its probabilities or numbers (C,), on the CPU.

        Names are positions if their number differs; labels above the threshold are predicted.
        """

    def placed(self, prediction: Any, height: int, width: int, values: tuple[Any, ...] = ()) -> Any:
        """A prediction of `decode` as one of an image of this size, and of masks of these values.

        Args:
            prediction: its probabilities have the size that the network saw.
            height: of the image in pixels.
            width: likewise.
            values: value or colour of each class in the files of masks; empty for 0, 1, ...
        """
        return prediction

    def joined(
        self, strips: Iterable[Tensor], size: tuple[int, int], names: Names, thresh: float = 0.5
    ) -> Any:
        """The prediction of an image of this size from probabilities of its rows (C, h, width)."""
        raise TrainingError(
            f"tile= is for masks, but the task is {self.name!r}: it has one prediction for an "
            "image. Leave tile= out."
        )

    @abstractmethod
    def decide(self, predictions: Tensor, thresh: float = 0.5) -> Tensor:
        """The decision for each item: classes int (N,), labels bool (N, C), numbers (N, K)."""

    def correct(self, predictions: Tensor, targets: Tensor, thresh: float = 0.5) -> Tensor | None:
        """Whether each item is predicted correctly, bool (N,); None for numbers."""
        return None

    def confidence(self, values: Tensor) -> float | None:
        """The largest probability of an item (C,); None if there are no probabilities."""
        return float(values.max())

    def graded(
        self, predictions: Tensor, targets: Tensor, thresh: float = 0.5
    ) -> tuple[Tensor, Tensor] | None:
        """Probabilities (M,) and whether each is correct (M,), for calibration, or None."""
        return None

    def rows(self, values: Tensor) -> Tensor:
        """Predictions or targets of many items in the shape in which they are stored."""
        return values

    def default_names(self, n_outputs: int) -> tuple[str, ...]:
        """Names of outputs if the data have none."""
        return tuple(map(str, range(n_outputs)))

    def targets_shape(self, predictions: Sequence[int]) -> tuple[int, ...]:
        """The shape of targets that goes with a shape of predictions."""
        return tuple(predictions)

    @abstractmethod
    def measures(
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> Measures:
        """Predictions compared with the targets."""

    @abstractmethod
    def figures(
        self, predictions: Tensor, targets: Tensor, names: Names, thresh: float = 0.5
    ) -> dict[str, float]:
        """The most important of these figures, by name."""

    def colours(self, n_outputs: int) -> list[tuple[int, int, int]]:
        """The colour of each class in pictures of masks."""
        return palette(n_outputs)

    def scale(self, predictions: Tensor) -> float:
        """The unit of differences between predictions: 1 for probabilities."""
        return 1.0


TASKS: Final[dict[str, Task]] = {}


def register(task: Task) -> Task:
    """Add a task to `TASKS`."""
    if task.name in TASKS:
        raise LayerGroupsError(f"There is already a task {task.name!r}; choose a different name.")
    TASKS[task.name] = task
    return task


def task_named(name: object) -> Task:
    """The task that a saved file names: checkpoints, exports and records of older versions too."""
    known = str(name)
    return checked_task(OLD_NAMES.get(known, known), LayerGroupsError)


def checked_task(task: object, error: type[LayerGroupsError] = TrainingError) -> Task:
    if isinstance(task, Task):
        return task
    known = str(task)
    if known in TASKS:
        return TASKS[known]
    *most, last = (f'"{name}"' for name in TASKS)
    renamed = f' "{known}" is now task="{OLD_NAMES[known]}".' if known in OLD_NAMES else ""
    raise error(f"task={known!r} is not known; give {', '.join(most)} or {last}.{renamed}")


def task_meant_by(loss_func: object) -> Task:
    """The task that a loss is for, if the data have none."""
    meaning = meaning_of(loss_func)
    usual = [task for task in TASKS.values() if task.activation is meaning]
    fitting = [task for task in TASKS.values() if meaning in task.meanings]
    return next(iter((*usual, *fitting, *TASKS.values())))


def output_names(names: Names, n: int) -> tuple[str, ...]:
    """A name for each of n outputs: positions if the number of names differs."""
    return tuple(names) if len(names) == n else tuple(map(str, range(n)))


def checked_threshold(thresh: Any) -> float:
    """A probability above which a label counts as predicted."""
    if isinstance(thresh, bool) or not isinstance(thresh, (int, float)) or not 0 < thresh < 1:
        raise TrainingError(
            f"thresh={thresh!r} must lie between 0 and 1: labels with a higher probability "
            "count as predicted, such as thresh=0.5."
        )
    return float(thresh)
