"""The history of a learner: one row for each epoch."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, overload

import torch
from rich.table import Table

from layergroups._formatting import Printable, count, current_cell, duration, rate, table
from layergroups._from_dict import from_dict
from layergroups._paths import path_of
from layergroups.checkpoints import write_text
from layergroups.errors import CheckpointError
from layergroups.reports import EpochRow as EpochRow
from layergroups.training.optim import Schedule


@dataclass(frozen=True)
class History(Sequence[EpochRow], Printable):
    """The epochs of one or several fits; prints as a table."""

    rows: tuple[EpochRow, ...] = ()
    _columns = 1000

    @overload
    def __getitem__(self, index: int) -> EpochRow: ...
    @overload
    def __getitem__(self, index: slice) -> History: ...
    def __getitem__(self, index: int | slice) -> EpochRow | History:
        return History(self.rows[index]) if isinstance(index, slice) else self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[EpochRow]:
        return iter(self.rows)

    def __add__(self, other: Sequence[EpochRow]) -> History:
        return History((*self.rows, *other))

    def __rich__(self) -> Table:
        return table_of(self.rows)

    def __repr__(self) -> str:
        last = self.rows[-1:]
        shown = {"valid_loss": last[0].valid_loss, **last[0].metrics} if last else {}
        values = ", ".join(f"{n} {_number(v)}" for n, v in shown.items() if v is not None)
        return f"History({count(len(self), 'epoch')}{values and f'; the last: {values}'})"

    def _ipython_display_(self) -> None:
        # IPython uses the other displays on NotImplementedError. Rows are compared by what the
        # table shows: fine_tune adds its plan to the last one afterwards.
        shown = _live.get(current_cell(), ())[-len(self) :]
        names = self.metric_names
        if not self.rows or [cells(r, names) for r in shown] != [cells(r, names) for r in self]:
            raise NotImplementedError

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The metrics of all rows, in the order of first appearance."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row.metrics))

    def to_dict(self) -> list[dict[str, Any]]:
        """The rows as JSON-ready values."""
        return [row.to_dict() for row in self.rows]

    @classmethod
    def from_dict(cls, rows: Sequence[Mapping[str, Any]]) -> History:
        """The inverse of `to_dict`."""
        return cls(tuple(from_dict(EpochRow, row) for row in rows))

    def to_json(self, path: str | Path | None = None) -> str:
        """The rows as JSON text; also written to `path` if given."""
        text = json.dumps(self.to_dict(), indent=2)
        if path is not None:
            write_text(
                path_of(path, CheckpointError, 'history.to_json("history.json")'), text + "\n"
            )
        return text

    def to_csv(self, path: str | Path | None = None) -> str:
        """The rows as CSV text, one column for each metric; also written to `path` if given."""
        names = self.metric_names
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(
            ["epoch", "phase", "train_loss", "valid_loss", *names, "seconds", "lrs", "frozen"]
        )
        for row in self.rows:
            values = [row.metrics.get(name) for name in names]
            lrs = " ".join(f"{lr:.6g}" for lr in row.lrs)
            frozen = " ".join(str(int(flag)) for flag in row.frozen)
            losses = [row.train_loss, row.valid_loss]
            writer.writerow([row.epoch, row.phase, *losses, *values, row.seconds, lrs, frozen])
        if path is not None:
            target = path_of(path, CheckpointError, 'history.to_csv("history.csv")')
            write_text(target, text.getvalue())
        return text.getvalue()


# The rows in the live table of the last notebook cell with a fit: such a fit at the end of a cell
# does not show them twice.
_live: dict[int | None, tuple[EpochRow, ...]] = {}


def mark_live(cell: int | None, rows: Sequence[EpochRow]) -> None:
    _live.clear()
    _live[cell] = tuple(rows)


def table_of(rows: Sequence[EpochRow]) -> Table:
    names = tuple(dict.fromkeys(name for row in rows for name in row.metrics))
    found = (cells(row, names) for row in rows)
    return table(headings(names), found, left=("phase",), box=None, header_style="bold")


def headings(metric_names: Sequence[str]) -> list[str]:
    return ["epoch", "phase", "train_loss", "valid_loss", *metric_names, "rates", "frozen", "time"]


def cells(row: EpochRow, metric_names: Sequence[str]) -> list[str]:
    return [
        str(row.epoch),
        row.phase,
        _number(row.train_loss),
        _number(row.valid_loss),
        *(_number(row.metrics.get(name)) for name in metric_names),
        rates_text(row.lrs),
        f"{sum(row.frozen)} of {len(row.frozen)}" if row.frozen else "",
        duration(row.seconds),
    ]


def rates_text(lrs: Sequence[float]) -> str:
    """The rates of all groups in short: one if all are equal, else the first and the last."""
    if len(set(lrs)) < 2:
        return "".join(map(rate, set(lrs)))
    return f"{rate(lrs[0])}..{rate(lrs[-1])}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


_POINTS: Final = 16  # of `lr_profile`, for each epoch


def memory_used(device: torch.device) -> dict[str, float]:
    """The peak memory in bytes, by the names of `EpochRow.resources`; without what is unknown."""
    most: dict[str, float] = {}
    with suppress(ImportError):  # Windows has no such module
        import resource

        # macOS counts bytes, other systems 1024 bytes
        unit = 1 if sys.platform == "darwin" else 1024
        most["memory"] = float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
    if device.type == "cuda":
        most["device_memory"] = float(torch.cuda.max_memory_allocated(device))
    return most


def lr_profile(schedule: Schedule, first: int, last: int, steps: int) -> tuple[float, ...]:
    """The course of the rates from step `first` up to `last` of `steps`, as parts of their maximum.

    Returns:
        At most 16 numbers in 0..1, at evenly spaced steps; none if there are no steps.
    """
    count = last - first
    if count < 1:
        return ()
    chosen = min(count, _POINTS)
    places = [first + round(i * (count - 1) / max(1, chosen - 1)) for i in range(chosen)]
    values = [schedule.multiplier(place / steps) for place in places]
    at = values.index(max(values))  # the maximum may lie between two of the places
    around = range(places[max(0, at - 1)], places[min(len(places) - 1, at + 1)] + 1)
    top = max(schedule.multiplier(step / steps) for step in around)
    return tuple(round(min(1.0, value / top), 5) for value in values) if top > 0 else ()
