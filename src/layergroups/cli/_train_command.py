"""`layergroups train`: from a folder of images, or a table of labels, to a model folder."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import typer

from layergroups._formatting import say, show_figures, show_json
from layergroups._interrupts import interrupts
from layergroups.cli._parsing import is_table, names_in, split_rule
from layergroups.cli._run_config import RunConfig
from layergroups.cli._validate_command import as_json, draw_confusion, figures_of
from layergroups.data import (
    DEFAULT_MODEL,
    ImageDataLoaders,
    SegmentationDataLoaders,
    TextDataLoaders,
)
from layergroups.errors import DataError
from layergroups.reports import (
    CONFIG,
    PICTURE,
    Interpretation,
    RunFiles,
    claim_folder,
    record_run,
    write_run,
)
from layergroups.training import (
    FineTuneDefaults,
    FineTunePlan,
    FitContext,
    Learner,
    segmentation_learner,
    text_learner,
    vision_learner,
)

_MASKS_IN_A_BATCH: Final = 8


def run(config: RunConfig, *, resume: bool, json: bool, command: Sequence[str]) -> None:
    """Train, save, evaluate, and say what to do next.

    Raises:
        LayerGroupsError: images, network or folder are not as they should be.
        typer.Exit: with code 130 after Ctrl-C.
    """
    if config.search and config.freeze_epochs != 1:
        raise typer.BadParameter("--search needs --freeze-epochs 1.")
    if resume and config.checkpoint_dir is None:
        raise typer.BadParameter("--resume needs --checkpoint-dir, where the training was saved.")
    found, files = train(config, resume=resume, command=command)
    _show(config.out, found, files, json)


def train(
    config: RunConfig, *, resume: bool = False, command: Sequence[str]
) -> tuple[Interpretation, RunFiles]:
    """Train, save and evaluate; errors and Ctrl-C as for `run`."""
    _check(config)
    is_new = not config.out.exists()
    replaces = claim_folder(config.out)
    try:
        learn = _learner(config)
        if replaces:
            say(f"{config.out} holds an earlier model; it is replaced when training ends.")
        return _train(learn, config, resume, command)
    finally:
        if is_new and not any(config.out.iterdir()):
            config.out.rmdir()


def _check(config: RunConfig) -> None:
    """Find mistakes before any work is done."""
    if not config.epochs and not config.freeze_epochs:
        raise typer.BadParameter("--epochs 0 with --freeze-epochs 0 trains nothing.")
    config.labels.check(config.folder)
    if config.masks is None and (config.classes or config.ignore or config.mask_suffix):
        raise typer.BadParameter("--classes, --ignore and --mask-suffix need --masks DIR.")
    if config.masks is not None and not config.folder.is_dir():
        raise typer.BadParameter("--masks DIR goes with a folder of images; FOLDER is none.")
    folder = config.folder
    if config.out.resolve().is_relative_to(folder.resolve()) and folder.is_dir():
        raise DataError(
            f"--out {config.out} lies in the folder of the images, {folder}, where it would "
            "count as a class. Give a folder outside of it."
        )


def _learner(config: RunConfig) -> Learner:
    make = _mask_learner if config.masks else _text_learner if config.text else _image_learner
    learn = make(config)
    groups = ", ".join(learn.layer_groups.names)
    name = learn.blueprint.arch if learn.blueprint else config.arch
    start = "pretrained" if config.pretrained or config.weights else "randomly initialized"
    say(f"{name}, {start}; layer groups: {groups}")
    return learn


def _text_learner(config: RunConfig) -> Learner:
    if config.weights is not None:
        raise typer.BadParameter("--weights is for images; for texts --arch may be a folder.")
    dls = TextDataLoaders.from_table(
        config.folder,
        task=config.task,
        model=DEFAULT_MODEL if config.arch == RunConfig.arch else config.arch,
        valid_pct=config.valid_pct,
        seed=config.seed,
        batch_size=config.batch_size,
        on_error=config.on_error,
        **config.labels.text_arguments(),
    )
    say(
        f"{len(dls.train_texts)} training and {len(dls.valid_texts)} validation texts of "
        f"{dls.task.count(dls.c)}, at most {dls.transform.max_length} tokens"
    )
    return text_learner(
        dls,
        pretrained=config.pretrained,
        split=split_rule(config.split),
        metrics=dls.task.default_metrics,
        seed=config.seed,
    )


def _image_learner(config: RunConfig) -> Learner:
    dls = _data(config)
    say(
        f"{len(dls.train_images)} training and {len(dls.valid_images)} validation images of "
        f"{dls.task.count(dls.c)}, {config.size} x {config.size} pixels"
    )
    return vision_learner(
        dls,
        config.arch,
        pretrained=config.pretrained,
        weights=config.weights,
        split=split_rule(config.split),
        metrics=dls.task.default_metrics,
        seed=config.seed,
    )


def _mask_learner(config: RunConfig) -> Learner:
    values = [int(name) if name.isdecimal() else name for name in names_in(config.ignore) or ()]
    options = _loading(config)
    if config.batch_size == RunConfig.batch_size:  # too many for a decoder
        options["batch_size"] = _MASKS_IN_A_BATCH
    dls = SegmentationDataLoaders.from_folders(
        config.folder,
        config.masks or "",
        classes=names_in(config.classes),
        ignore=values or None,
        suffix=config.mask_suffix,
        **options,
    )
    say(
        f"{len(dls.train_images)} training and {len(dls.valid_images)} validation masks of "
        f"{dls.task.count(dls.c)}, {config.size} x {config.size} pixels, batches of "
        f"{dls.batch_size}"
    )
    return segmentation_learner(
        dls,
        config.arch,
        pretrained=config.pretrained,
        weights=config.weights,
        split=split_rule(config.split),
        metrics=dls.task.default_metrics,
        seed=config.seed,
    )


def _data(config: RunConfig) -> ImageDataLoaders:
    if not is_table(config.folder):
        return ImageDataLoaders.from_folder(config.folder, **_loading(config))
    columns = config.labels.arguments()
    return ImageDataLoaders.from_table(
        config.folder, task=config.task, **columns, **_loading(config)
    )


def _loading(config: RunConfig) -> dict[str, Any]:
    """The options that all images have."""
    return {
        "valid_pct": config.valid_pct,
        "seed": config.seed,
        "size": config.size,
        "batch_size": config.batch_size,
        "augment": {None: True, "none": False}.get(config.augment, config.augment),
        "num_workers": config.workers,
        "on_error": config.on_error,
        "channels": config.channels,
    }


class _StepCount:
    steps = 0

    def after_step(self, run: FitContext) -> None:
        self.steps += 1


def _train(
    learn: Learner, config: RunConfig, resume: bool, command: Sequence[str]
) -> tuple[Interpretation, RunFiles]:
    """Train, save, then evaluate; Ctrl-C loses nothing that was learned."""
    count = _StepCount()
    learn.callbacks.append(count)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with interrupts():
            try:
                saved: dict[str, Any] = {"checkpoint_dir": config.checkpoint_dir, "resume": resume}
                if config.search is not None:
                    learn.fine_tune(plan=_searched(learn, config.search, config), **saved)
                else:
                    whole = {"freeze_epochs": config.freeze_epochs, **saved}
                    usual = config.lr == RunConfig.lr  # which data and head decide
                    learn.fine_tune(config.epochs, None if usual else config.lr, **whole)
            finally:
                for number in before:
                    signal.signal(number, signal.SIG_IGN)  # the model is being saved
        files = _write(learn, config, command)
    except KeyboardInterrupt:
        if count.steps:
            _write(learn, config, command)
            say(f"Interrupted: the model after {count.steps} steps is saved in {config.out}.")
        else:
            say("Interrupted before the first step: nothing was learned, nothing is saved.")
        raise typer.Exit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        found = Interpretation.from_learner(learn)
        record_run(learn, command=command, interp=found).save(files.record)
    except KeyboardInterrupt:
        say(f"Interrupted: the model is saved in {config.out}, but not evaluated.")
        raise typer.Exit(130) from None
    return found, files


def _searched(learn: Learner, trials: int, config: RunConfig) -> FineTunePlan:
    own = FineTuneDefaults()
    recipe = None if config.lr == own.base_lr else replace(own, base_lr=config.lr)
    found = learn.search(trials, epochs=config.epochs, defaults=recipe, apply=False)
    if found.interrupted:
        raise KeyboardInterrupt
    say(found)
    return found.plan


def _write(learn: Learner, config: RunConfig, command: Sequence[str]) -> RunFiles:
    record = record_run(learn, command=command, measured=False)
    return write_run(learn, config.out, record=record, config=config.to_yaml())


def _show(out: Path, found: Interpretation, files: RunFiles, json: bool) -> None:
    picture = out / PICTURE
    has_picture = draw_confusion(found, picture)
    if json:
        show_json({"model": str(out)} | as_json(found))
    else:
        say()
        paths = {"model": out, "history": files.history}
        paths |= {"confusion": picture} if has_picture else {}
        figures = {"loss": float(found.losses.mean()), "items": len(found)}
        show_figures(figures_of(found) | figures | paths)
    say(f"\nLook at the run:  layergroups report {out}")
    example = '"some text"' if found.texts else "image.jpg"
    say(f"Predict with it:  layergroups predict {out} {example}")
    say(f"Change a setting: layergroups train --config {out / CONFIG} --out another-model")
