"""Write the folder of a run: export, history, record and confusion matrix."""

from __future__ import annotations

import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from layergroups._formatting import first_few
from layergroups.checkpoints import DESCRIPTION, ENDINGS, write_text
from layergroups.errors import CheckpointError
from layergroups.reports._protocols import Trained
from layergroups.reports.figures import confusion_matrix_picture
from layergroups.reports.run._collect import record_run
from layergroups.reports.run._record import RECORD, RunRecord
from layergroups.tasks import ConfusionMatrix

HISTORY = "history.csv"
PICTURE = "confusion_matrix.png"
CONFIG = "run.yaml"
_log = logging.getLogger("layergroups")


@dataclass(frozen=True)
class RunFiles:
    folder: Path  # the export; `load_learner(folder)` and `layergroups predict` read it
    history: Path  # a row for each epoch, as comma-separated values
    picture: Path | None  # of the confusion matrix, or None
    record: Path  # the record of the run, which `layergroups report` reads


def claim_folder(folder: str | Path) -> bool:
    """Check before a run that its folder is writable and has no content but hidden files.

    Returns whether it has an earlier export, which `write_run` will replace.
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
            f"The folder {target} has other content ({first_few(found, 3)}) and no earlier model. "
            f"Use a new or empty folder, such as {target / 'model'}."
        )
    return bool(found)


def write_run(
    learn: Trained,
    folder: str | Path,
    confusion: ConfusionMatrix | None = None,
    record: RunRecord | None = None,
    config: str | None = None,
) -> RunFiles:
    """Write the export of a learner, its history and its record.

    If they are given, also its confusion matrix, and the settings from which it can be repeated.

    All files are written to a temporary folder, then moved into place, so a run that is killed
    while writing leaves an earlier export intact. The files of `layergroups export` of an earlier
    model (model.onnx, model.pt2) are removed, with a warning. Other files do not change.
    """
    target = Path(folder)
    found = record or record_run(learn, measured=False)
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unfinished-", dir=target) as folder_name:
            draft = Path(folder_name)
            learn.export(draft)
            learn.history.to_csv(draft / HISTORY)
            found.save(draft / RECORD)
            if confusion is not None:
                confusion_matrix_picture(confusion.matrix, confusion.classes, draft / PICTURE)
            if config is not None:
                write_text(draft / CONFIG, config)
            for name in (PICTURE, CONFIG):  # of an earlier run
                if not (draft / name).exists():
                    (target / name).unlink(missing_ok=True)
            _drop_graphs(target)
            for made in sorted(draft.iterdir()):
                os.replace(made, target / made.name)
    except OSError as cause:
        raise CheckpointError(f"Could not write {target}: {cause}") from cause
    picture = None if confusion is None else target / PICTURE
    return RunFiles(target, target / HISTORY, picture, target / RECORD)


def _drop_graphs(folder: Path) -> None:
    for ending in ENDINGS:
        graph = folder / f"model{ending}"
        if graph.is_file():
            graph.unlink()
            graph.with_name(f"{graph.name}.json").unlink(missing_ok=True)
            again = f"layergroups export {folder} --format {ending[1:]}"
            _log.warning("%s, of an earlier model, was removed. Write it again: %s", graph, again)
