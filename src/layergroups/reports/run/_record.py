"""The record of a run: the data behind its page, tables and JSON.

A record needs neither model nor images: `record_run` creates it from a learner, and `write_run`
stores it as `run.json` in the folder of the run. Pictures are small JPEGs as data URIs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from layergroups._from_dict import from_dict
from layergroups._paths import path_of
from layergroups._suggestions import nearest_folder
from layergroups.checkpoints import write_text
from layergroups.data import DataFacts
from layergroups.errors import CheckpointError
from layergroups.reports._images import LengthRow
from layergroups.reports._protocols import EpochRow
from layergroups.reports.figures import GroupStack
from layergroups.tasks import Calibration, ClassReport, Confusion, task_named


@dataclass(frozen=True, kw_only=True)
class NetworkFacts:
    """The network and its layer groups at the end of the run."""

    name: str  # such as "timm:efficientnet_lite0"
    rule: str = ""  # by which it was split
    groups: tuple[GroupStack, ...] = ()  # nearest the input first

    @property
    def parameters(self) -> int:
        return sum(group.parameters for group in self.groups)


@dataclass(frozen=True)
class ShownItem:
    path: str  # of its file, relative to the data folder; or "item 7"
    actual: str  # class, labels or targets, as text
    predicted: str
    confidence: float | None = None  # probability of the prediction; None for numbers
    loss: float | None = None
    thumb: str = ""  # a small picture as a data URI
    heat: str = ""  # the same with a Grad-CAM heat map of the prediction
    words: tuple[tuple[str, float], ...] = ()  # a text in pieces, and how they spoke for it, -1..1
    iou: float | None = None  # of a mask


@dataclass(frozen=True)
class Cell:
    """Items of one class that were predicted as one class."""

    actual: int  # positions of the classes
    predicted: int
    count: int
    shown: tuple[int, ...] = ()  # positions in `Outcome.shown` of the items with a picture


@dataclass(frozen=True, kw_only=True)
class Outcome:
    task: str  # its name, such as "multiclass"
    items: int
    loss: float | None = None  # mean over the items
    figures: Mapping[str, float] = field(default_factory=dict)  # the most important first
    classes: tuple[str, ...] = ()  # names of the classes, labels or targets
    class_report: ClassReport | None = None  # None for a regression
    calibration: Calibration | None = None
    cells: tuple[Cell, ...] = ()  # of the confusion matrix, without the empty ones
    points: tuple[tuple[float, float], ...] = ()  # regression: actual, predicted of some items
    shown: tuple[ShownItem, ...] = ()  # items of the cells
    worst: tuple[ShownItem, ...] = ()  # the items with the largest losses
    lengths: tuple[LengthRow, ...] = ()  # of texts

    @property
    def confusions(self) -> tuple[Confusion, ...]:
        """Pairs of classes that were confused, the most frequent first."""
        return tuple(
            Confusion(self.classes[cell.actual], self.classes[cell.predicted], cell.count)
            for cell in sorted(self.cells, key=lambda cell: -cell.count)
            if cell.actual != cell.predicted
        )


@dataclass(frozen=True, kw_only=True)
class SetupFacts:
    """Information for reproducing the run; all but the first two by name."""

    command: str = ""
    created: str = ""  # time of the record, ISO 8601 with the offset to UTC
    settings: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """Convert to JSON values; numbers that are not finite become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value


def epoch_rows(rows: list[dict[str, Any]]) -> tuple[EpochRow, ...]:
    """Parse the rows of `History.to_dict()`."""
    return tuple(from_dict(EpochRow, row) for row in plain(rows))


def _from_version_1(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Convert version 1, with different names and neither ClassReport nor Calibration."""
    found = fields["outcome"]
    if found is None:
        return dict(fields)
    bins = found["calibration"]
    outcome = {key: found[key] for key in ("items", "loss", "figures", "classes", "points")}
    outcome |= {
        "task": task_named(found["task"]).name,
        "class_report": _report_of_version_1(found),
        "calibration": asdict(Calibration.from_means(bins)) if bins else None,
        "cells": [
            {"shown": cell["photos"]} | {n: cell[n] for n in ("actual", "predicted", "count")}
            for cell in found["cells"]
        ],
    }
    for now, before in (("shown", "photos"), ("worst", "worst")):
        outcome[now] = [
            {"confidence": item["score"]} | {n: v for n, v in item.items() if n != "score"}
            for item in found[before]
        ]
    return {**fields, "outcome": outcome}


def _report_of_version_1(found: Mapping[str, Any]) -> dict[str, Any] | None:
    names = found["classes"]
    right, predicted, actual = ([0] * len(names) for _ in range(3))
    for cell in found["cells"]:
        predicted[cell["predicted"]] += cell["count"]
        actual[cell["actual"]] += cell["count"]
        right[cell["actual"]] += cell["count"] * (cell["actual"] == cell["predicted"])
    for i, label in enumerate(found["labels"]):
        right[i], predicted[i], actual[i] = (label[n] for n in ("right", "predicted", "actual"))
    known = found["cells"] or found["labels"]
    return asdict(ClassReport.from_counts(names, right, predicted, actual)) if known else None


VERSION: Final = 2
RECORD: Final = "run.json"


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """A run, as data; the outcome is None without an evaluation."""

    title: str
    network: NetworkFacts
    epochs: tuple[EpochRow, ...] = ()
    outcome: Outcome | None = None
    data: DataFacts = field(default_factory=DataFacts)
    setup: SetupFacts = field(default_factory=SetupFacts)

    @property
    def seconds(self) -> float:
        """Wall-clock time of all epochs."""
        return sum(row.seconds for row in self.epochs)

    @property
    def plan(self) -> Mapping[str, Any] | None:
        """What the last `fine_tune` has decided; `learn.fine_tune(plan=...)` repeats it."""
        return next((row.plan for row in reversed(self.epochs) if row.plan is not None), None)

    def without_pictures(self) -> RunRecord:
        if self.outcome is None:
            return self
        shown, worst = (
            tuple(replace(item, thumb="", heat="") for item in items)
            for items in (self.outcome.shown, self.outcome.worst)
        )
        return replace(self, outcome=replace(self.outcome, shown=shown, worst=worst))

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values; numbers that are not finite become None."""
        return {"version": VERSION, **plain(asdict(self))}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> RunRecord:
        """The inverse of `to_dict`.

        Raises:
            CheckpointError: the fields are of a newer version, or not of a record.
        """
        version = fields.get("version") if isinstance(fields, Mapping) else None
        if version not in (1, VERSION):
            raise CheckpointError(
                f"This record of a run has version {version!r}; this release reads versions 1 to "
                f"{VERSION}. Upgrade layergroups, or write it again: write_run(learn, folder)."
            )
        try:
            own = _from_version_1(fields) if version == 1 else fields
            return from_dict(cls, {name: own[name] for name in own if name != "version"})
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as cause:
            raise CheckpointError(f"This record of a run is damaged: {cause}.") from cause

    def save(self, path: str | Path) -> None:
        """Write the record as JSON, atomically.

        Raises:
            CheckpointError: the file cannot be written.
        """
        write_text(path, json.dumps(self.to_dict(), ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RunRecord:
        """Read a file of `save`, or the folder that contains it.

        Raises:
            CheckpointError: the file is missing or damaged.
        """
        file = path_of(path, CheckpointError, 'RunRecord.load("model")')
        file = file / RECORD if file.is_dir() else file
        try:
            text = file.read_text(encoding="utf-8")
        except FileNotFoundError as cause:
            hint = nearest_folder(file, RECORD) or (
                " `layergroups train --out DIR` writes one; in Python: learn.report(path)."
            )
            raise CheckpointError(f"There is no record of a run at {file}.{hint}") from cause
        except (OSError, UnicodeDecodeError) as cause:
            raise CheckpointError(f"{file} cannot be read: {cause}") from cause
        try:
            return cls.from_dict(json.loads(text))
        except (ValueError, RecursionError, CheckpointError) as cause:
            raise CheckpointError(f"{file}: {cause}") from cause
