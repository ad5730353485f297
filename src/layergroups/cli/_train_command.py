"""`layergroups train`: a folder of photos, or a table of them, to a model in a folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from layergroups.cli._entry import Interrupts, ignore_interrupts
from layergroups.cli._predict_command import Labels, is_table, split_rule
from layergroups.cli._validate_command import Measured, measure
from layergroups.data import ImageDataLoaders, OnError
from layergroups.errors import DataError
from layergroups.reports import (
    PICTURE,
    Interpretation,
    RunFiles,
    claim_folder,
    confusion_matrix_picture,
    record_run,
    say,
    show_figures,
    show_json,
    write_run,
)
from layergroups.training import vision_learner

if TYPE_CHECKING:
    from layergroups.training import Learner


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """What the user asks for; the options of the command."""

    folder: Path
    labels: Labels
    channels: int | None
    arch: str
    epochs: int
    freeze_epochs: int
    lr: float
    size: int
    batch_size: int
    out: Path
    weights: Path | None
    pretrained: bool
    valid_pct: float
    seed: int
    split: str
    checkpoint_dir: Path | None
    resume: bool
    workers: int | None
    on_error: OnError
    json: bool
    command: tuple[str, ...]


def run(order: TrainOptions) -> None:
    """Train, save, measure, and say how to go on.

    Raises:
        LayerGroupsError: photos, network or folder are not as they should be.
        typer.Exit: with code 130 after Ctrl-C.
    """
    _check(order)
    made_here = not order.out.exists()
    earlier = claim_folder(order.out)
    try:
        learn = _learner(order)
        if earlier:
            say(f"{order.out} holds an earlier model; it is replaced when the training is done.")
        _train(learn, order)
    finally:
        if made_here and not any(order.out.iterdir()):
            order.out.rmdir()


def _check(order: TrainOptions) -> None:
    """What needs no heavy work to be seen."""
    if not order.epochs and not order.freeze_epochs:
        raise typer.BadParameter("--epochs 0 with --freeze-epochs 0 trains nothing.")
    if order.resume and order.checkpoint_dir is None:
        raise typer.BadParameter("--resume needs --checkpoint-dir, where the training was saved.")
    order.labels.check(order.folder)
    if order.out.resolve().is_relative_to(order.folder.resolve()) and order.folder.is_dir():
        raise DataError(
            f"--out {order.out} lies in the folder of the photos, {order.folder}, where it would "
            "be taken for a class. Give a folder outside of it."
        )


def _learner(order: TrainOptions) -> Learner:
    dls = _data(order)
    say(
        f"{len(dls.train_photos)} training and {len(dls.valid_photos)} validation photos of "
        f"{dls.task.count(dls.c)}, {order.size} x {order.size} pixels"
    )
    learn = vision_learner(
        dls,
        order.arch,
        pretrained=order.pretrained,
        weights=order.weights,
        split=split_rule(order.split),
        metrics=dls.task.default_metrics,
        seed=order.seed,
    )
    groups = ", ".join(learn.layer_groups.names)
    name = learn.blueprint.arch if learn.blueprint else order.arch
    start = "pretrained" if order.pretrained or order.weights else "from noise"
    say(f"{name}, {start}; layer groups: {groups}")
    return learn


def _data(order: TrainOptions) -> ImageDataLoaders:
    """The photos, of a folder or of a table."""
    options: dict[str, Any] = {
        "valid_pct": order.valid_pct,
        "seed": order.seed,
        "size": order.size,
        "batch_size": order.batch_size,
        "num_workers": order.workers,
        "on_error": order.on_error,
        "channels": order.channels,
    }
    if not is_table(order.folder):
        return ImageDataLoaders.from_folder(order.folder, **options)
    return ImageDataLoaders.from_table(
        order.folder, task=order.labels.task, **order.labels.columns(), **options
    )


def _train(learn: Learner, order: TrainOptions) -> None:
    """Train, save, then measure; Ctrl-C loses nothing that was learned."""
    with Interrupts() as interrupts:
        learn.callbacks.append(interrupts)
        try:
            learn.fine_tune(
                order.epochs,
                order.lr,
                freeze_epochs=order.freeze_epochs,
                checkpoint_dir=order.checkpoint_dir,
                resume=order.resume,
            )
        except KeyboardInterrupt:
            ignore_interrupts()
            _save_interrupted(learn, order, interrupts.steps)
            raise typer.Exit(130) from None
        ignore_interrupts()
        files = _write(learn, order)
    try:
        measured = _measure(learn, order, files)
    except KeyboardInterrupt:
        say(f"Interrupted: the model is trained and saved in {order.out}, but not measured.")
        raise typer.Exit(130) from None
    if measured.confusion is not None:
        files = replace(files, picture=order.out / PICTURE)
        matrix, classes = measured.confusion.matrix, measured.confusion.classes
        confusion_matrix_picture(matrix, classes, order.out / PICTURE)
    _tell(order, measured, files)


def _write(learn: Learner, order: TrainOptions) -> RunFiles:
    """The folder of the run, not measured yet."""
    record = record_run(learn, command=order.command, measured=False)
    return write_run(learn, order.out, record=record)


def _measure(learn: Learner, order: TrainOptions, files: RunFiles) -> Measured:
    """Ask the model about the validation photos; what it says goes into the record of the run."""
    interp = Interpretation.from_learner(learn)
    record_run(learn, command=order.command, interp=interp).save(files.record)
    return measure(learn, found=(interp.predictions, interp.targets, interp.losses))


def _save_interrupted(learn: Learner, order: TrainOptions, steps: int) -> None:
    if not steps:
        say("Interrupted before the first step: nothing was learned, nothing is saved.")
        return
    _write(learn, order)
    say(f"Interrupted: the model as it was after {steps} steps is saved in {order.out}.")


def _tell(order: TrainOptions, measured: Measured, files: RunFiles) -> None:
    if order.json:
        show_json({"model": str(order.out)} | measured.to_dict())
    else:
        say()
        written = {"model": order.out, "history": files.history, "confusion": files.picture}
        show_figures(
            {
                **measured.figures,
                "loss": measured.loss,
                "photos": measured.photos,
                **{name: path for name, path in written.items() if path is not None},
            }
        )
    say(f"\nLook at the run:  layergroups report {order.out}")
    say(f"Predict with it:  layergroups predict {order.out} photo.jpg")
