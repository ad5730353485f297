"""`layergroups validate`: how good a model is on photos of which the answers are known.

How good a model is, for each kind of task: figures for the terminal and for JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from layergroups._drawing import check_ending
from layergroups.cli._predict_command import Labels, is_table
from layergroups.data import EvalLoader, OnError, labelled_batches, table_batches
from layergroups.errors import DataError
from layergroups.reports import (
    ConfusionMatrix,
    confusion_matrix_picture,
    per_class_table,
    say,
    show,
    show_figures,
    show_json,
)
from layergroups.tasks import Measures
from layergroups.training import Learner, load_learner


@dataclass(frozen=True)
class Measured:
    """What photos with known answers say of a model.

    Attributes:
        loss: mean over the photos.
        photos: how many.
        figures: the most telling ones, by name.
        report: for classes a confusion matrix, for labels a row each, for numbers their errors.
    """

    loss: float
    photos: int
    figures: dict[str, float]
    report: Measures

    @property
    def table(self) -> Any:
        """A row for each class, label or number."""
        return self.report if self.confusion is None else per_class_table(self.confusion)

    @property
    def confusion(self) -> ConfusionMatrix | None:
        """Only of one class for each photo."""
        return self.report if isinstance(self.report, ConfusionMatrix) else None

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        if isinstance(self.report, ConfusionMatrix):
            return {"loss": self.loss, **self.report.to_dict()}
        told = self.report.to_dict()
        told.pop("values", None)  # the error of each photo
        return {"loss": self.loss, "photos": self.photos, **self.figures, **told}


def measure(learn: Learner, batches: Any = None, *, found: Any = None) -> Measured:
    """Measure a learner on its validation photos, or on other batches (inputs, targets).

    Args:
        learn: the learner.
        batches: None for its validation photos.
        found: what `learn.get_preds(batches, with_loss=True)` has given, if it is known already.
    """
    known: Any = found or learn.get_preds(batches, with_loss=True)
    answers, targets, losses = known
    names = list(learn.data.vocab)
    loss, photos = float(losses.mean()), len(losses)
    args = (answers, targets, names, learn.thresh)
    task = learn.task
    return Measured(loss, photos, task.figures(*args), task.measures(*args))


def run(
    model: Path,
    folder: Path,
    *,
    labels: Labels,
    out: Path | None,
    batch_size: int,
    workers: int | None,
    on_error: OnError,
    json: bool,
) -> None:
    """Measure an exported model on a folder of classes or a table; show loss, figures, each class.

    Raises:
        LayerGroupsError: the folder is not an export, or photos or labels do not fit.
    """
    labels.check(folder)
    if out is not None:
        check_ending(out)
    learn = load_learner(model)
    if out is not None and not issubclass(learn.task.measures_type, ConfusionMatrix):
        raise typer.BadParameter(
            f"--out draws a confusion matrix, which needs one class for each photo; this model's "
            f"task is {learn.task!r}. Leave --out away: the table says it all."
        )
    options: dict[str, Any] = {
        "batch_size": batch_size,
        "num_workers": workers,
        "on_error": on_error,
    }
    measured = measure(learn, _batches(learn, folder, labels, options))
    if json:
        show_json(measured.to_dict())
    else:
        show_figures({"photos": measured.photos, "loss": measured.loss} | measured.figures)
        show(measured.table)
    if out is not None and measured.confusion is not None:
        confusion_matrix_picture(measured.confusion.matrix, measured.confusion.classes, out)
        say(f"The confusion matrix is drawn in {out}.")


def _batches(learn: Learner, folder: Path, labels: Labels, options: dict[str, Any]) -> EvalLoader:
    """The photos with what is known of them."""
    dls: Any = learn.dls
    if is_table(folder):
        columns = labels.columns()
        return table_batches(folder, dls.vocab, learn.task, dls.transform, **columns, **options)
    if not learn.task.reads_folders:
        raise DataError(
            f"The folders of {folder} tell one class for each photo, but the model's task is "
            f"{learn.task!r}. Give a .csv file with the names of the photos and their labels."
        )
    return labelled_batches(_validation_part(folder), dls.vocab, dls.transform, **options)


def _validation_part(folder: Path) -> Path:
    """The folder, or its `valid` if it is divided."""
    if not all((folder / part).is_dir() for part in ("train", "valid")):
        return folder
    say(f"{folder} is divided into train and valid: measured on {folder / 'valid'}.")
    return folder / "valid"
