"""What is told of a run, part by part, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from layergroups.reports.network_picture import Stack


@dataclass(frozen=True, kw_only=True)
class EpochFacts:
    """A row of the history; see `layergroups.training.EpochRow`, whose fields these are."""

    epoch: int
    phase: str
    train_loss: float | None = None
    valid_loss: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    lrs: tuple[float, ...] = ()
    frozen: tuple[bool, ...] = ()
    note: str = ""
    course: tuple[float, ...] = ()
    cost: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """The network in its layer groups, as it is at the end.

    Attributes:
        name: such as "timm:efficientnet_lite0".
        rule: that divided it.
        groups: nearest the input first, each with its blocks.
    """

    name: str
    rule: str = ""
    groups: tuple[Stack, ...] = ()

    @property
    def parameters(self) -> int:
        """Of all groups."""
        return sum(group.parameters for group in self.groups)


@dataclass(frozen=True)
class Photo:
    """An item of the validation data, and what the model said of it.

    Attributes:
        path: where it is, below the folder of the data; or "item 7".
        actual: what it is of, in words.
        predicted: what it was taken for.
        score: probability of that; None for numbers.
        loss: its loss, if known.
        thumb: a small picture as a data URI; empty if there is none.
        heat: the same with the places that spoke for the prediction (Grad-CAM); empty if unknown.
    """

    path: str
    actual: str
    predicted: str
    score: float | None = None
    loss: float | None = None
    thumb: str = ""
    heat: str = ""


@dataclass(frozen=True)
class Cell:
    """Items of one class that were predicted as one class.

    Attributes:
        actual: position of the class that they are of.
        predicted: position of the class that they were taken for.
        count: how many.
        photos: positions in `Outcome.photos` of those that are shown.
    """

    actual: int
    predicted: int
    count: int
    photos: tuple[int, ...] = ()


@dataclass(frozen=True)
class LabelFacts:
    """How one label of several was found.

    Attributes:
        name: of the label.
        actual: items that have it.
        predicted: items for which it was predicted.
        right: items of both kinds.
    """

    name: str
    actual: int
    predicted: int
    right: int


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the model says of the validation data.

    Attributes:
        task: "single" (one class for each item), "multi" (several labels), "regression" (numbers).
        items: how many.
        loss: mean over them.
        figures: what the result comes to, by name, the most telling first.
        classes: names of the classes, labels or numbers.
        cells: of the confusion matrix, those that are not empty; "single" only.
        labels: "multi" only.
        points: (actual, predicted) of the first number of some items; "regression" only.
        calibration: mean probability said, part that was right, and number of predictions, for
            predictions of about the same probability; not for "regression".
        calibration_error: the mean distance of the two, 0..1.
        photos: pictures that cells show.
        worst: the items with the highest losses.
    """

    task: str
    items: int
    loss: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()
    labels: tuple[LabelFacts, ...] = ()
    points: tuple[tuple[float, float], ...] = ()
    calibration: tuple[tuple[float, float, int], ...] = ()
    calibration_error: float | None = None
    photos: tuple[Photo, ...] = ()
    worst: tuple[Photo, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """The data, in figures.

    Attributes:
        name: short; the name of the folder.
        train: items to learn from.
        valid: items to measure with.
        counts: for each class its name, training items and validation items.
        facts: anything else, by name, as text.
        broken: files that could not be read and were left out: path and reason.
    """

    name: str = ""
    train: int | None = None
    valid: int | None = None
    counts: tuple[tuple[str, int, int], ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    broken: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class SetupFacts:
    """What is needed to do the run again.

    Attributes:
        command: as it was typed.
        created: when the record was made, ISO 8601 with the offset to UTC.
        settings: loss, optimizer, seed and so on, by name.
        versions: of Python and libraries, by name.
        machine: system, device, cores and so on, by name.
    """

    command: str = ""
    created: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
