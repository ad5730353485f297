"""`layergroups validate`: how good a model is on photos whose classes are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from layergroups.data import labelled_batches
from layergroups.data.checks import OnError
from layergroups.reports import ConfusionMatrix, confusion_matrix_picture, per_class_table
from layergroups.reports.drawing import check_ending
from layergroups.reports.output import say, show, show_figures, show_json
from layergroups.training import load_learner


def run(
    model: Path,
    folder: Path,
    *,
    out: Path | None,
    batch_size: int,
    workers: int | None,
    on_error: OnError,
    json: bool,
) -> None:
    """Measure an exported model on a folder of classes; show loss, accuracy and each class.

    Raises:
        LayerGroupsError: the folder is not an export, or photos or classes do not fit.
    """
    if out is not None:
        check_ending(out)
    learn = load_learner(model)
    dls: Any = learn.dls
    batches = labelled_batches(
        _validation_part(folder),
        dls.vocab,
        dls.transform,
        batch_size=batch_size,
        num_workers=workers,
        on_error=on_error,
    )
    found: Any = learn.get_preds(batches, with_loss=True)
    probabilities, targets, losses = found
    confusion = ConfusionMatrix.from_predictions(probabilities, targets, dls.vocab)
    _tell(float(losses.mean()), confusion, json=json)
    if out is not None:
        confusion_matrix_picture(confusion.matrix, confusion.classes, out)
        say(f"The confusion matrix is drawn in {out}.")


def _validation_part(folder: Path) -> Path:
    """The folder, or its `valid` if it is divided."""
    if not all((folder / part).is_dir() for part in ("train", "valid")):
        return folder
    say(f"{folder} is divided into train and valid: measured on {folder / 'valid'}.")
    return folder / "valid"


def _tell(loss: float, confusion: ConfusionMatrix, *, json: bool) -> None:
    if json:
        show_json({"loss": loss, **confusion.to_dict()})
        return
    show_figures({"photos": confusion.total, "loss": loss, "accuracy": confusion.accuracy})
    show(per_class_table(confusion))
