"""`layergroups validate`: how good a model is on photos of which the answers are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from layergroups.cli.measuring import measure
from layergroups.cli.words import Labels, is_table
from layergroups.data import OrderedBatches, labelled_batches
from layergroups.data.checks import OnError
from layergroups.data.labelled_table import table_batches
from layergroups.errors import DataError
from layergroups.reports import confusion_matrix_picture
from layergroups.reports.drawing import check_ending
from layergroups.reports.output import say, show, show_figures, show_json
from layergroups.training import Learner, load_learner


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
    if out is not None and learn.task != "single":
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


def _batches(
    learn: Learner, folder: Path, labels: Labels, options: dict[str, Any]
) -> OrderedBatches:
    """The photos with what is known of them."""
    dls: Any = learn.dls
    if is_table(folder):
        columns = labels.columns()
        return table_batches(folder, dls.vocab, learn.task, dls.transform, **columns, **options)
    if learn.task != "single":
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
