"""`layergroups validate`: evaluate a trained model on labelled images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from layergroups._drawing import check_ending
from layergroups._formatting import say, show, show_figures, show_json
from layergroups.cli._parsing import TableOptions, is_table
from layergroups.cli._run_config import RunConfig
from layergroups.data import InferenceTexts, OnError
from layergroups.errors import ConfigError, DataError
from layergroups.reports import CONFIG, ConfusionMatrix, Interpretation, per_class_table
from layergroups.training import Learner, load_learner


def figures_of(found: Interpretation) -> dict[str, Any]:
    """The main figures, by name."""
    args = (found.predictions, found.targets, found.classes, found.threshold)
    return dict(found.task.figures(*args))


def as_json(found: Interpretation) -> dict[str, Any]:
    measures, loss = found.measures(), {"loss": float(found.losses.mean())}
    values = measures.to_dict()
    values.pop("values", None)  # the error of each image
    if isinstance(measures, ConfusionMatrix):
        return loss | values
    return loss | {"items": len(found)} | figures_of(found) | values


def draw_confusion(found: Interpretation, path: Path) -> bool:
    """Draw the confusion matrix, where the task has one; whether it has."""
    measures = found.measures()
    if not isinstance(getattr(measures, "confusion", measures), ConfusionMatrix):
        return False
    found.plot_confusion_matrix(path)
    return True


def run(
    model: Path,
    folder: Path,
    *,
    labels: TableOptions,
    masks: Path | None,
    suffix: str,
    out: Path | None,
    batch_size: int,
    workers: int | None,
    on_error: OnError,
    json: bool,
) -> None:
    """Evaluate an exported model on a folder of classes, a table or masks; show the figures.

    Raises:
        LayerGroupsError: the folder is not an export, or images or labels do not fit.
    """
    trained_on = _settings_of(model)
    if trained_on and labels == TableOptions() and folder.resolve() == trained_on.folder.resolve():
        labels = replace(trained_on.labels, task=None)
        masks, suffix = masks or trained_on.masks, suffix or trained_on.mask_suffix
    elif trained_on and is_table(folder) and trained_on.labels.text:
        labels = labels.completed(trained_on.labels)
    labels.check(folder)
    if suffix and masks is None:
        raise typer.BadParameter("--mask-suffix needs --masks DIR.")
    if out is not None:
        check_ending(out)
    learn = load_learner(model)
    if out is not None and not learn.task.has_confusion:
        raise typer.BadParameter(
            "--out draws a confusion matrix, which needs one class per image or pixel; the task "
            f"of this model is {learn.task}. Leave --out out: the table has all figures."
        )
    if labels.valid is None and trained_on is not None:
        _warn_of_training_images(model, folder, trained_on.folder)
    loading: dict[str, Any] = {"batch_size": batch_size, "num_workers": workers}
    loading |= {"on_error": on_error}
    if learn.task.per_pixel or masks is not None:
        batches = _masked(learn, folder, masks, suffix, loading)
    else:
        batches = _batches(learn, folder, labels, **loading)
    found = Interpretation.from_learner(learn, batches)
    if json:
        show_json(as_json(found))
    else:
        measures: Any = found.measures()
        show_figures({"items": len(found), "loss": float(found.losses.mean())} | figures_of(found))
        show(per_class_table(measures) if isinstance(measures, ConfusionMatrix) else measures)
    if out is not None and draw_confusion(found, out):
        say(f"The confusion matrix is drawn in {out}.")


def _settings_of(model: Path) -> RunConfig | None:
    """None if it was made in Python, or by an earlier release."""
    try:
        return RunConfig.load(model / CONFIG)
    except ConfigError:
        return None


def _warn_of_training_images(model: Path, folder: Path, trained_on: Path) -> None:
    has_parts = all((folder / part).is_dir() for part in ("train", "valid"))
    if folder.resolve() == trained_on.resolve() and not has_parts:
        say(
            f"Most of {folder} trained this model, so these figures are too good. The figures of "
            f"its validation items: layergroups report {model} --text."
        )


def _masked(
    learn: Learner, folder: Path, masks: Path | None, suffix: str, loading: dict[str, Any]
) -> Any:
    dls: Any = learn.dls
    if not learn.task.per_pixel:
        raise typer.BadParameter(f"--masks is for models of masks; this one is {learn.task}.")
    if masks is None or not folder.is_dir():
        raise typer.BadParameter(
            f"This model predicts masks: give a folder of images and --masks DIR, not {folder} "
            "alone."
        )
    return dls.folders_dl(folder, masks, suffix=suffix, **loading)


def _batches(learn: Learner, folder: Path, labels: TableOptions, **options: Any) -> Any:
    dls: Any = learn.dls
    if isinstance(dls, InferenceTexts):
        if not is_table(folder):
            raise DataError(f"{folder} is not a .csv or .tsv file with texts and their labels.")
        options.pop("num_workers")  # texts are tokenized in this process
        return dls.table_dl(folder, **labels.text_arguments(), **options)
    if is_table(folder):
        return dls.table_dl(folder, **labels.arguments(), **options)
    if not learn.task.reads_folders:
        raise DataError(
            f"The folders of {folder} give one class per image, but the task of the model is "
            f"{learn.task}. Give a .csv file with the names of the images and their labels."
        )
    if all((folder / part).is_dir() for part in ("train", "valid")):
        folder /= "valid"
        say(f"{folder.parent} has train and valid: evaluated on {folder}.")
    return dls.test_dl(folder, with_labels=True, **options)
