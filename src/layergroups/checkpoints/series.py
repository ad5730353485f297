"""The checkpoints of one fit, in a folder of their own: the newest whole one counts."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from layergroups.checkpoints.file import read, write
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
