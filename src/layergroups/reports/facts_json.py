"""Facts of a run from JSON, and to it.

Each value is made of the kind that it should be, so that whoever shows the facts may rely on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from layergroups.reports.network_picture import Row, Stack
from layergroups.reports.run_facts import (
    Cell,
    DataFacts,
    EpochFacts,
    LabelFacts,
    NetworkFacts,
    Outcome,
    Photo,
    SetupFacts,
)

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
        task=str(found["task"]),
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
