"""`layergroups reproduce`: repeat a run from its settings, and compare weights and history."""

from __future__ import annotations

import hashlib
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor

from layergroups._formatting import count, say, show, show_json, table
from layergroups.checkpoints import read_export
from layergroups.cli._run_config import RunConfig
from layergroups.cli._train_command import train
from layergroups.errors import ConfigError
from layergroups.reports import CONFIG, EpochRow, RunRecord, differences

DIFFERENT = 1  # exit code
_NOT_COMPARED = ("seconds", "resources")  # of a row: time and memory


@dataclass(frozen=True)
class RowDifference:
    """The first value of the histories that differs; None where a run has no such epoch."""

    epoch: int
    column: str
    recorded: Any
    repeated: Any


@dataclass(frozen=True)
class Comparison:
    """A recorded run beside its repetition.

    Attributes:
        tensors: their number in the recorded model.
        different: names of the tensors that differ, or that only one model has.
        largest: the largest difference of their values, where the shapes agree.
        sha256: of all weights: recorded, repeated.
        epochs: rows of the recorded history.
        row: the first difference of the histories.
        surroundings: versions, data, settings and machine that differ: name, recorded, repeated.
    """

    tensors: int
    different: tuple[str, ...]
    largest: float
    sha256: tuple[str, str]
    epochs: int
    row: RowDifference | None
    surroundings: tuple[tuple[str, ...], ...]

    @property
    def identical(self) -> bool:
        return not self.different and self.row is None


def run(folder: Path, *, images: Path | None, out: Path | None, json: bool) -> None:
    """Repeat a run, show whether it is the same to the bit, and where it first differs.

    Raises:
        LayerGroupsError: the folder does not describe a run, or the run cannot start again.
        typer.Exit: with code 1 if it differs, or 130 after Ctrl-C.
    """
    record = RunRecord.load(folder)
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"{folder} has no {CONFIG}, which `layergroups train` writes, so its settings are not "
            f"known. It was made by: {record.setup.command}"
        )
    if out is not None and out.resolve() == folder.resolve():
        raise typer.BadParameter(f"--out {out} is the run itself. Give another folder.")
    config = RunConfig.load(folder / CONFIG)
    weights, _ = read_export(folder)
    with tempfile.TemporaryDirectory(prefix="layergroups-") as temporary:
        target = out or Path(temporary) / "model"
        again = replace(config, folder=images or config.folder, out=target, checkpoint_dir=None)
        with _threads(record.setup.machine.get("PyTorch threads", "")):
            train(again, command=shlex.split(record.setup.command))
        found = _compare(record, weights, RunRecord.load(target), read_export(target)[0])
    if json:
        show_json(asdict(found) | {"identical": found.identical})
    else:
        _show(found)
    if out is not None:
        say(f"The repeated run is in {out}.")
    if not found.identical:
        raise typer.Exit(DIFFERENT)


@contextmanager
def _threads(recorded: str) -> Iterator[None]:
    """As many threads as in the recorded run: sums over tensors depend on them."""
    before = torch.get_num_threads()
    if recorded.isdecimal() and int(recorded):
        torch.set_num_threads(int(recorded))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compare(
    one: RunRecord, before: Mapping[str, Tensor], other: RunRecord, after: Mapping[str, Tensor]
) -> Comparison:
    different = tuple(
        name
        for name in dict.fromkeys((*before, *after))
        if name not in before or name not in after or not torch.equal(before[name], after[name])
    )
    pairs = [(before[n], after[n]) for n in different if n in before and n in after]
    far = [(a.double() - b.double()).abs().max() for a, b in pairs if a.shape == b.shape]
    return Comparison(
        tensors=len(before),
        different=different,
        largest=max((float(value) for value in far), default=0.0),
        sha256=(_sha256(before), _sha256(after)),
        epochs=len(one.epochs),
        row=_first_difference(one.epochs, other.epochs),
        surroundings=tuple(differences((one, other))),
    )


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(f"{name} {tuple(tensors[name].shape)} {tensors[name].dtype}".encode())
        found.update(tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _first_difference(
    recorded: Sequence[EpochRow], repeated: Sequence[EpochRow]
) -> RowDifference | None:
    for epoch, (one, other) in enumerate(zip_longest(recorded, repeated)):
        if one is None or other is None:
            return RowDifference(epoch, "epoch", one and one.epoch, other and other.epoch)
        values = other.to_dict()
        for column, value in one.to_dict().items():
            if column not in _NOT_COMPARED and value != values[column]:
                return RowDifference(epoch, column, value, values[column])
    return None


def _show(found: Comparison) -> None:
    if found.identical:
        tensors, epochs = count(found.tensors, "tensor"), count(found.epochs, "epoch")
        show(
            f"Identical: all {tensors} and {epochs} of the history.\n"
            f"sha256 of the weights  {found.sha256[0]}"
        )
    else:
        show(f"Different. {_weights_in_words(found)} {_row_in_words(found.row)}")
        for name, value in zip(("recorded", "repeated"), found.sha256, strict=True):
            show(f"sha256 of the weights, {name}  {value}")
    if found.surroundings:
        show("\nWhat else differs:")
        show(table(("", "recorded", "repeated"), found.surroundings, left=("recorded", "repeated")))
    elif not found.identical:
        show(
            "Versions, data, settings and machine are the same. Either the recorded run was "
            "interrupted or changed afterwards, or an operation of this device is not "
            "deterministic."
        )


def _weights_in_words(found: Comparison) -> str:
    if not found.different:
        return "The weights are the same."
    return (
        f"Weights: {len(found.different)} of {count(found.tensors, 'tensor')} differ, by up to "
        f"{found.largest:.2g}; the first is {found.different[0]}."
    )


def _row_in_words(row: RowDifference | None) -> str:
    if row is None:
        return "The history is the same."
    if row.column == "epoch":
        return f"History: only one of the runs has an epoch {row.epoch}."
    return f"History: first in epoch {row.epoch}, {row.column}: {row.recorded}, now {row.repeated}."
