"""`layergroups train`: from a folder of images, or a table of labels, to a model folder."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from layergroups._formatting import say, show_figures, show_json
from layergroups._interrupts import interrupts
from layergroups.cli._parsing import TableOptions, is_table, split_rule
from layergroups.cli._validate_command import as_json, draw_confusion, figures_of
from layergroups.data import ImageDataLoaders, OnError
from layergroups.errors import DataError
from layergroups.reports import (
    PICTURE,
    Interpretation,
    RunFiles,
    claim_folder,
    record_run,
    write_run,
)
from layergroups.training import FitContext, Learner, vision_learner


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    folder: Path
    labels: TableOptions
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


def run(options: TrainOptions) -> None:
    """Train, save, evaluate, and say what to do next.

    Raises:
        LayerGroupsError: images, network or folder are not as they should be.
        typer.Exit: with code 130 after Ctrl-C.
    """
    _check(options)
    is_new = not options.out.exists()
    replaces = claim_folder(options.out)
    try:
        learn = _learner(options)
        if replaces:
            say(f"{options.out} holds an earlier model; it is replaced when training ends.")
        _train(learn, options)
    finally:
        if is_new and not any(options.out.iterdir()):
            options.out.rmdir()


def _check(options: TrainOptions) -> None:
    """Find mistakes before any work is done."""
    if not options.epochs and not options.freeze_epochs:
        raise typer.BadParameter("--epochs 0 with --freeze-epochs 0 trains nothing.")
    if options.resume and options.checkpoint_dir is None:
        raise typer.BadParameter("--resume needs --checkpoint-dir, where the training was saved.")
    options.labels.check(options.folder)
    folder = options.folder
    if options.out.resolve().is_relative_to(folder.resolve()) and folder.is_dir():
        raise DataError(
            f"--out {options.out} lies in the folder of the images, {folder}, where it would "
            "count as a class. Give a folder outside of it."
        )


def _learner(options: TrainOptions) -> Learner:
    dls = _data(options)
    say(
        f"{len(dls.train_images)} training and {len(dls.valid_images)} validation images of "
        f"{dls.task.count(dls.c)}, {options.size} x {options.size} pixels"
    )
    learn = vision_learner(
        dls,
        options.arch,
        pretrained=options.pretrained,
        weights=options.weights,
        split=split_rule(options.split),
        metrics=dls.task.default_metrics,
        seed=options.seed,
    )
    groups = ", ".join(learn.layer_groups.names)
    name = learn.blueprint.arch if learn.blueprint else options.arch
    start = "pretrained" if options.pretrained or options.weights else "randomly initialized"
    say(f"{name}, {start}; layer groups: {groups}")
    return learn


def _data(options: TrainOptions) -> ImageDataLoaders:
    shared: dict[str, Any] = {
        "valid_pct": options.valid_pct,
        "seed": options.seed,
        "size": options.size,
        "batch_size": options.batch_size,
        "num_workers": options.workers,
        "on_error": options.on_error,
        "channels": options.channels,
    }
    if not is_table(options.folder):
        return ImageDataLoaders.from_folder(options.folder, **shared)
    columns = options.labels.arguments()
    return ImageDataLoaders.from_table(
        options.folder, task=options.labels.task, **columns, **shared
    )


class _StepCount:
    steps = 0

    def after_step(self, run: FitContext) -> None:
        self.steps += 1


def _train(learn: Learner, options: TrainOptions) -> None:
    """Train, save, then evaluate; Ctrl-C loses nothing that was learned."""
    count = _StepCount()
    learn.callbacks.append(count)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with interrupts():
            try:
                learn.fine_tune(
                    options.epochs,
                    options.lr,
                    freeze_epochs=options.freeze_epochs,
                    checkpoint_dir=options.checkpoint_dir,
                    resume=options.resume,
                )
            finally:
                for number in before:
                    signal.signal(number, signal.SIG_IGN)  # the model is being saved
        files = _write(learn, options)
    except KeyboardInterrupt:
        if count.steps:
            _write(learn, options)
            say(f"Interrupted: the model after {count.steps} steps is saved in {options.out}.")
        else:
            say("Interrupted before the first step: nothing was learned, nothing is saved.")
        raise typer.Exit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        found = Interpretation.from_learner(learn)
        record_run(learn, command=options.command, interp=found).save(files.record)
    except KeyboardInterrupt:
        say(f"Interrupted: the model is saved in {options.out}, but not evaluated.")
        raise typer.Exit(130) from None
    _show(options, found, files)


def _write(learn: Learner, options: TrainOptions) -> RunFiles:
    record = record_run(learn, command=options.command, measured=False)
    return write_run(learn, options.out, record=record)


def _show(options: TrainOptions, found: Interpretation, files: RunFiles) -> None:
    picture = options.out / PICTURE
    has_picture = draw_confusion(found, picture)
    if options.json:
        show_json({"model": str(options.out)} | as_json(found))
    else:
        say()
        paths = {"model": options.out, "history": files.history}
        paths |= {"confusion": picture} if has_picture else {}
        figures = {"loss": float(found.losses.mean()), "items": len(found)}
        show_figures(figures_of(found) | figures | paths)
    say(f"\nLook at the run:  layergroups report {options.out}")
    say(f"Predict with it:  layergroups predict {options.out} image.jpg")
