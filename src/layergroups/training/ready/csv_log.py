"""The history as a CSV file that grows while training."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from layergroups.checkpoints import write_text
from layergroups.errors import TrainingError

if TYPE_CHECKING:
    from layergroups.training.run import Run


class CSVLog:
    """Writes the history of the learner to a CSV file after each epoch; see `History.to_csv`.

    The whole file is written anew each time, all or nothing: it holds all fits of the learner, a
    run that was resumed has each epoch once, and an interrupted one has the row of the epoch that
    broke off. With several processes the main one writes. In fastai: CSVLogger.

    Args:
        path: the file; missing folders are made.

    Raises:
        TrainingError: the path is not one of a file.
    """

    def __init__(self, path: str | os.PathLike[str] = "history.csv") -> None:
        if not isinstance(path, str | os.PathLike) or not str(path) or Path(path).is_dir():
            raise TrainingError(
                f'path={path!r} must be that of a file, such as CSVLog("logs/history.csv").'
            )
        self.path = Path(path)

    def after_epoch(self, run: Run) -> None:
        """Write all rows so far."""
        self._write(run)

    def after_all(self, run: Run) -> None:
        """Write once more: the row of an interrupted epoch, and notes."""
        self._write(run)

    def _write(self, run: Run) -> None:
        if run.processes.is_main:
            write_text(self.path, run.learner.history.to_csv())
