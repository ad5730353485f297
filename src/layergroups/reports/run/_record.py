"""All that is told of a run, as data: what the page, the tables and the JSON of a run are made of.

A record needs neither the model nor the photos: `record_run` makes it while they are there, and
`write_run` keeps it as `run.json` in the folder of the run. Pictures are small JPEGs as data URIs.

What is told of a run, part by part, as data.

Facts of a run from JSON, and to it.

Each value is made of the kind that it should be, so that whoever shows the facts may rely on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar

from layergroups.checkpoints import write_text
from layergroups.data import DataFacts
from layergroups.errors import CheckpointError
from layergroups.reports.figures._network import Row, Stack
from layergroups.tasks import task_named


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
        task: "multiclass" (one class for each item), "multilabel" or "regression" (numbers).
        items: how many.
        loss: mean over them.
        figures: what the result comes to, by name, the most telling first.
        classes: names of the classes, labels or numbers.
        cells: of the confusion matrix, those that are not empty; "multiclass" only.
        labels: "multilabel" only.
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


_Made = TypeVar("_Made")


def plain(value: Any) -> Any:
    """Values as JSON has them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def network_facts(network: Mapping[str, Any]) -> NetworkFacts:
    """The inverse of `asdict`."""
    return NetworkFacts(
        name=str(network["name"]),
        rule=str(network["rule"]),
        groups=_all(_stack, network["groups"]),
    )


def _all(make: Callable[[Any], _Made], values: Iterable[Any]) -> tuple[_Made, ...]:
    return tuple(map(make, values))


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in values.items()}


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """By name; what was not finite is left out."""
    return {str(name): float(value) for name, value in values.items() if value is not None}


def _epoch(row: Mapping[str, Any]) -> EpochFacts:
    return EpochFacts(
        epoch=int(row["epoch"]),
        phase=str(row["phase"]),
        train_loss=_number(row["train_loss"]),
        valid_loss=_number(row["valid_loss"]),
        metrics=_numbers(row["metrics"]),
        seconds=float(row["seconds"]),
        lrs=_all(float, row["lrs"]),
        frozen=_all(bool, row["frozen"]),
        note=str(row["note"]),
        course=_all(float, row.get("course", ())),
        cost=_numbers(row.get("cost", {})),
    )


def epoch_facts(rows: Iterable[Mapping[str, Any]]) -> tuple[EpochFacts, ...]:
    """Rows of a history, as its `to_dict()` gives them."""
    return _all(_epoch, plain(list(rows)))


def _stack(group: Mapping[str, Any]) -> Stack:
    return Stack(
        name=str(group["name"]),
        rows=_all(_block, group["rows"]),
        colour=str(group["colour"]),
        parameters=int(group["parameters"]),
        blocks=int(group["blocks"]),
        frozen=bool(group["frozen"]),
        rate=float(group["rate"]),
        reason=str(group["reason"]),
    )


def _block(row: Mapping[str, Any]) -> Row:
    return Row(str(row["name"]), int(row["parameters"]), _all(int, row["shape"]))


def _photo(photo: Mapping[str, Any]) -> Photo:
    texts = {name: str(photo[name]) for name in ("path", "actual", "predicted", "thumb", "heat")}
    return Photo(**texts, score=_number(photo["score"]), loss=_number(photo["loss"]))


def outcome_facts(found: Mapping[str, Any]) -> Outcome:
    """The inverse of `asdict`."""
    return Outcome(
        task=task_named(found["task"]).name,
        items=int(found["items"]),
        loss=_number(found["loss"]),
        figures=_numbers(found["figures"]),
        classes=_all(str, found["classes"]),
        cells=_all(_cell, found["cells"]),
        labels=_all(_label, found["labels"]),
        points=tuple((float(x), float(y)) for x, y in found["points"]),
        calibration=tuple((float(p), float(r), int(n)) for p, r, n in found["calibration"]),
        calibration_error=_number(found["calibration_error"]),
        photos=_all(_photo, found["photos"]),
        worst=_all(_photo, found["worst"]),
    )


def _cell(cell: Mapping[str, Any]) -> Cell:
    where = (int(cell["actual"]), int(cell["predicted"]), int(cell["count"]))
    return Cell(*where, _all(int, cell["photos"]))


def _label(label: Mapping[str, Any]) -> LabelFacts:
    counts = (int(label[name]) for name in ("actual", "predicted", "right"))
    return LabelFacts(str(label["name"]), *counts)


def data_facts(data: Mapping[str, Any]) -> DataFacts:
    """The inverse of `asdict`."""
    return DataFacts(
        name=str(data["name"]),
        train=None if data["train"] is None else int(data["train"]),
        valid=None if data["valid"] is None else int(data["valid"]),
        counts=tuple((str(name), int(t), int(v)) for name, t, v in data["counts"]),
        facts=_texts(data["facts"]),
        broken=tuple((str(path), str(reason)) for path, reason in data["broken"]),
    )


def setup_facts(setup: Mapping[str, Any]) -> SetupFacts:
    """The inverse of `asdict`."""
    return SetupFacts(
        command=str(setup["command"]),
        created=str(setup["created"]),
        settings=_texts(setup["settings"]),
        versions=_texts(setup["versions"]),
        machine=_texts(setup["machine"]),
    )


VERSION: Final = 1
RECORD: Final = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run, told in data.

    Attributes:
        title: of the page.
        network: in its groups.
        epochs: in the order in which they happened.
        outcome: None if nothing was measured.
        data: what it was trained on.
        setup: how it was done.
    """

    title: str
    network: NetworkFacts
    epochs: tuple[EpochFacts, ...] = ()
    outcome: Outcome | None = None
    data: DataFacts = field(default_factory=DataFacts)
    setup: SetupFacts = field(default_factory=SetupFacts)

    @property
    def seconds(self) -> float:
        """Time of all epochs."""
        return sum(row.seconds for row in self.epochs)

    def without_pictures(self) -> RunRecord:
        """The facts alone."""
        if self.outcome is None:
            return self
        bare = {
            name: tuple(replace(photo, thumb="", heat="") for photo in photos)
            for name, photos in (("photos", self.outcome.photos), ("worst", self.outcome.worst))
        }
        return replace(self, outcome=replace(self.outcome, **bare))  # type: ignore[arg-type] # photos both

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values; numbers that are not finite become None."""
        fields: dict[str, Any] = plain(asdict(self))
        return {"version": VERSION} | fields

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RunRecord:
        """The inverse of `to_dict`.

        Raises:
            CheckpointError: it is of a newer version, or not a record.
        """
        version = fields.get("version") if isinstance(fields, Mapping) else None
        if version != VERSION:
            raise CheckpointError(
                f"This record of a run has version {version!r}; this release reads version "
                f"{VERSION}. Make it again with write_run(learn, folder), or upgrade layergroups."
            )
        try:
            outcome = fields["outcome"]
            return cls(
                title=str(fields["title"]),
                network=network_facts(fields["network"]),
                epochs=epoch_facts(fields["epochs"]),
                outcome=None if outcome is None else outcome_facts(outcome),
                data=data_facts(fields["data"]),
                setup=setup_facts(fields["setup"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as cause:
            raise CheckpointError(f"This record of a run is damaged: {cause!r}.") from cause

    def save(self, path: str | Path) -> None:
        """Write it as JSON, all or nothing.

        Raises:
            CheckpointError: the file cannot be written.
        """
        write_text(path, json.dumps(self.to_dict(), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """Read what `save` wrote: the file, or the folder that it is in.

        Raises:
            CheckpointError: there is none, or it is damaged.
        """
        if not isinstance(path, str | Path):
            raise CheckpointError(
                f"The record of a run is read from a folder, not from a {type(path).__name__}: "
                'RunRecord.load("model").'
            )
        file = Path(path) / RECORD if Path(path).is_dir() else Path(path)
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError as cause:
            raise CheckpointError(
                f"There is no record of a run at {file}. `layergroups train --out DIR` writes it "
                "into the folder of the model; in Python, learn.report(path) makes the page."
            ) from cause
        except (OSError, UnicodeDecodeError) as cause:
            raise CheckpointError(f"{file} cannot be read: {cause}") from cause
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, CheckpointError) as cause:
            raise CheckpointError(f"{file}: {cause}") from cause
