"""The checkpoints of one fit, in a folder of their own: the newest whole one counts.

Nested values with tensors in them, as named tensors and JSON values, and back.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor

from layergroups.checkpoints._file import read, write
from layergroups.errors import CheckpointError

_log = logging.getLogger("layergroups")


@dataclass(frozen=True)
class Saved:
    """A checkpoint that was read and is whole.

    Attributes:
        path: its file.
        tensors: by name, on the CPU.
        state: JSON values.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


@dataclass(frozen=True)
class Series:
    """Files `step-00000012.safetensors` in one folder, one for each moment that was kept.

    Attributes:
        folder: made when the first file is written.
    """

    folder: Path

    def files(self) -> list[Path]:
        """The files, newest first."""
        return sorted(self.folder.glob("step-*.safetensors"), reverse=True)

    def write(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step, all or nothing; an earlier one of that step goes."""
        return write(self.folder / f"step-{step:08d}.safetensors", tensors, state)

    def prune(self, keep: Collection[Path]) -> None:
        """Delete all but these files, and what killed writers left behind."""
        for path in [*self.files(), *self.folder.glob(".step-*.part")]:
            if path not in keep:
                path.unlink(missing_ok=True)

    def whole(self) -> Iterator[Saved]:
        """The checkpoints that can be read, newest first; of a damaged one a line is told.

        Raises:
            CheckpointError: there are files, and every one is damaged.
        """
        reasons = []
        files = self.files()
        for path in files:
            try:
                tensors, state = read(path)
            except CheckpointError as damage:
                reasons.append(str(damage))
                if len(reasons) < len(files):
                    _log.warning("%s The checkpoint before it is used instead.", damage)
                continue
            yield Saved(path, tensors, state)
        if files and len(reasons) == len(files):
            listed = "\n".join(f"  {reason}" for reason in reasons)
            raise CheckpointError(
                f"No checkpoint in {self.folder} can be read:\n{listed}\nDelete the folder to "
                "begin this fit again."
            )


_PLAIN: Final = (bool, int, float, str, type(None))


_TENSOR: Final = "__tensor__"


def split_tensors(value: Any, prefix: str) -> tuple[dict[str, Tensor], Any]:
    """Take the tensors out of nested dicts, lists and tuples.

    Args:
        value: dicts with string keys, lists, tuples (they come back as lists), plain values, and
            tensors.
        prefix: begins the name of every tensor.

    Returns:
        The tensors by name, and the same value with the names in their places.

    Raises:
        CheckpointError: something else is in it, which could not be saved without pickle.
    """
    if isinstance(value, Tensor):
        return {prefix: value}, {_TENSOR: prefix}
    if isinstance(value, _PLAIN):
        return {}, value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        parts = {k: split_tensors(v, f"{prefix}/{k}") for k, v in value.items()}
        return _joined(parts.values()), {k: plain for k, (_, plain) in parts.items()}
    if isinstance(value, (list, tuple)):
        listed = [split_tensors(v, f"{prefix}/{i}") for i, v in enumerate(value)]
        return _joined(listed), [plain for _, plain in listed]
    raise CheckpointError(
        f"{prefix} is a {type(value).__name__}; a state that is saved may hold dicts with string "
        "keys, lists, numbers, strings and tensors, and nothing that would need pickle."
    )


def join_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `split_tensors`.

    Raises:
        CheckpointError: a tensor that the value names is not there.
    """
    if isinstance(value, Mapping):
        if set(value) == {_TENSOR}:
            if value[_TENSOR] not in tensors:
                raise CheckpointError(f"The tensor {value[_TENSOR]} is missing in the file.")
            return tensors[value[_TENSOR]]
        return {key: join_tensors(part, tensors) for key, part in value.items()}
    if isinstance(value, list):
        return [join_tensors(part, tensors) for part in value]
    return value


def _joined(parts: Any) -> dict[str, Tensor]:
    return {name: tensor for tensors, _ in parts for name, tensor in tensors.items()}
