"""The folder of a run: export, history, record and confusion matrix, side by side."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from layergroups._formatting import first_few
from layergroups.checkpoints import DESCRIPTION, ENDINGS
from layergroups.errors import CheckpointError
from layergroups.reports._protocols import Subject
from layergroups.reports.figures import confusion_matrix_picture
from layergroups.reports.run._collect import record_run
from layergroups.reports.run._record import RECORD, RunRecord
from layergroups.tasks import ConfusionMatrix

HISTORY = "history.csv"
PICTURE = "confusion_matrix.png"
_log = logging.getLogger("layergroups")


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes:
        folder: the export; `load_learner(folder)` and `layergroups predict` read it.
        history: a row for each epoch, as comma-separated values.
        picture: of the confusion matrix; None if there is none.
        record: the record of the run, from which `layergroups report` makes the page.
    """

    folder: Path
    history: Path
    picture: Path | None
    record: Path


def claim_folder(folder: str | Path) -> bool:
    """See before a run that its folder can be written and holds nothing of other kinds.

    Args:
        folder: made if it is missing. Hidden files do not count as content.

    Returns:
        Whether there is an earlier export, which `write_run` will replace.

    Raises:
        CheckpointError: it holds other things, is a file, or cannot be written.
    """
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
        found = sorted(path.name for path in target.iterdir() if path.name[0] != ".")
    except OSError as cause:
        raise CheckpointError(f"{target} cannot be a folder for the model: {cause}") from cause
    if not os.access(target, os.W_OK | os.X_OK):
        raise CheckpointError(f"There is no permission to write into the folder {target}.")
    if found and DESCRIPTION not in found:
        raise CheckpointError(
            f"The folder {target} holds other things ({first_few(found, 3)}) and no "
            "earlier model. Give a new or an empty "
            f"folder for the model, such as {target / 'model'}."
        )
    return bool(found)


def write_run(
    learn: Subject,
    folder: str | Path,
    confusion: ConfusionMatrix | None = None,
    record: RunRecord | None = None,
) -> RunFiles:
    """Write a learner's export, its history, its record and, if given, its confusion matrix.

    All files are made in a folder beside, then put in their places one after another, so a run
    that is killed while it writes leaves an earlier export as it was. A graph that `layergroups
    export` made of an earlier model there (model.onnx, model.pt2) is removed, with a warning.
    Other files in the folder stay.

    Args:
        learn: a learner.
        folder: made if it is missing.
        confusion: for a picture of it.
        record: of the run; None makes one without predictions and pictures.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    target = Path(folder)
    found = record or record_run(learn, measured=False)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target) as name:
            draft = Path(name)
            learn.export(draft)
            learn.history.to_csv(draft / HISTORY)
            found.save(draft / RECORD)
            if confusion is not None:
                confusion_matrix_picture(confusion.matrix, confusion.classes, draft / PICTURE)
            else:
                (target / PICTURE).unlink(missing_ok=True)  # of an earlier run
            _drop_graphs(target)
            for made in sorted(draft.iterdir()):
                os.replace(made, target / made.name)
    except OSError as cause:
        raise CheckpointError(f"Could not write {target}: {cause}") from cause
    picture = None if confusion is None else target / PICTURE
    return RunFiles(target, target / HISTORY, picture, target / RECORD)


def _drop_graphs(folder: Path) -> None:
    """Remove the graphs of an earlier model: they would answer as that one did."""
    for ending in ENDINGS:
        graph = folder / f"model{ending}"
        if graph.is_file():
            graph.unlink()
            graph.with_name(f"{graph.name}.json").unlink(missing_ok=True)
            _log.warning(
                "%s was made of the earlier model and is removed. Make it again: layergroups "
                "export %s --format %s",
                graph,
                folder,
                ending.removeprefix("."),
            )
