"""`layergroups validate`: evaluate a trained model on labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from layergroups._drawing import check_ending
from layergroups._formatting import say, show, show_figures, show_json
from layergroups.cli._parsing import TableOptions, is_table
from layergroups.data import EvalLoader, OnError
from layergroups.errors import DataError
from layergroups.reports import ConfusionMatrix, confusion_matrix_picture, per_class_table
from layergroups.tasks import Measures
from layergroups.training import Learner, load_learner


@dataclass(frozen=True)
class Metrics:
    """How good a model is on labelled images.

    Attributes:
        loss: mean over the images.
        images: how many there are.
        figures: the main ones, by name.
        measures: what the task gives: a confusion matrix, a row for each label, or errors.
    """

    loss: float
    images: int
    figures: dict[str, float]
    measures: Measures

    @classmethod
    def of(cls, learn: Learner, found: Any) -> Metrics:
        """Of what `learn.get_preds(..., with_loss=True)` has returned."""
        predictions, targets, losses = found
        known = (predictions, targets, list(learn.data.vocab), learn.thresh)
        figures, measures = learn.task.figures(*known), learn.task.measures(*known)
        return cls(float(losses.mean()), len(losses), figures, measures)

    @property
    def confusion(self) -> ConfusionMatrix | None:
        """The confusion matrix, where the task has one."""
        return self.measures if isinstance(self.measures, ConfusionMatrix) else None

    @property
    def table(self) -> Any:
        """A row for each class, label or target."""
        return self.measures if self.confusion is None else per_class_table(self.confusion)

    def draw_confusion(self, path: Path) -> bool:
        """Draw the confusion matrix, where the task has one; whether it has."""
        if self.confusion is None:
            return False
        confusion_matrix_picture(self.confusion.matrix, self.confusion.classes, path)
        return True

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON-ready values."""
        values = self.measures.to_dict()
        values.pop("values", None)  # the error of each image
        counts = {} if self.confusion else {"items": self.images, **self.figures}
        return {"loss": self.loss, **counts, **values}


def run(
    model: Path,
    folder: Path,
    *,
    labels: TableOptions,
    out: Path | None,
    batch_size: int,
    workers: int | None,
    on_error: OnError,
    json: bool,
) -> None:
    """Evaluate an exported model on a folder of classes or a table; show the figures.

    Raises:
        LayerGroupsError: the folder is not an export, or images or labels do not fit.
    """
    labels.check(folder)
    if out is not None:
        check_ending(out)
    learn = load_learner(model)
    if out is not None and not issubclass(learn.task.measures_type, ConfusionMatrix):
        raise typer.BadParameter(
            "--out draws a confusion matrix, which needs one class per image; the task of this "
            f"model is {learn.task}. Leave --out out: the table has all figures."
        )
    batches = _batches(
        learn, folder, labels, batch_size=batch_size, num_workers=workers, on_error=on_error
    )
    metrics = Metrics.of(learn, learn.get_preds(batches, with_loss=True))
    if json:
        show_json(metrics.to_dict())
    else:
        show_figures({"items": metrics.images, "loss": metrics.loss} | metrics.figures)
        show(metrics.table)
    if out is not None and metrics.draw_confusion(out):
        say(f"The confusion matrix is drawn in {out}.")


def _batches(learn: Learner, folder: Path, labels: TableOptions, **options: Any) -> EvalLoader:
    dls: Any = learn.dls
    if is_table(folder):
        return dls.table_dl(folder, **labels.arguments(), **options)  # type: ignore[no-any-return] # learn.dls is Any
    if not learn.task.reads_folders:
        raise DataError(
            f"The folders of {folder} give one class per image, but the task of the model is "
            f"{learn.task}. Give a .csv file with the names of the images and their labels."
        )
    if all((folder / part).is_dir() for part in ("train", "valid")):
        folder /= "valid"
        say(f"{folder.parent} has train and valid: evaluated on {folder}.")
    return dls.test_dl(folder, with_labels=True, **options)  # type: ignore[no-any-return] # learn.dls is Any
