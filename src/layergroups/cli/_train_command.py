"""`layergroups train`: from a folder of images, or a table of labels, to a model folder."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple, cast

import torch
import typer

from layergroups._formatting import say, show_figures, show_json
from layergroups._interrupts import interrupts
from layergroups._suggestions import nearest
from layergroups.checkpoints import transplant
from layergroups.cli._parsing import is_table, names_in, split_rule
from layergroups.cli._run_config import RunConfig
from layergroups.cli._validate_command import as_json, draw_confusion, figures_of
from layergroups.data import (
    ImageDataLoaders,
    OnError,
    SegmentationDataLoaders,
    TextDataLoaders,
)
from layergroups.errors import DataError
from layergroups.models import DECODERS, POOLINGS, check_network
from layergroups.reports import (
    CONFIG,
    PICTURE,
    RECORD,
    Interpretation,
    RunFiles,
    RunRecord,
    claim_folder,
    record_run,
    write_run,
)
from layergroups.tasks import as_loss
from layergroups.training import (
    EarlyStopping,
    FineTunePlan,
    FitContext,
    History,
    Learner,
    SaveBest,
    load_learner,
    segmentation_learner,
    text_learner,
    vision_learner,
)

_DEVICE = "ACCELERATE_TORCH_DEVICE"  # accelerate reads it
_MASKS_IN_A_BATCH: Final = 8


class Trained(NamedTuple):
    """A run that ended: its results on the validation items, its files, and its figures."""

    found: Interpretation
    files: RunFiles
    figures: dict[str, Any]  # with the metrics that were asked for


def run(config: RunConfig, *, resume: bool, json: bool, command: Sequence[str]) -> None:
    """Train, save, evaluate, and say what to do next.

    Raises:
        LayerGroupsError: images, network or folder are not as they should be.
        typer.Exit: with code 130 after Ctrl-C.
    """
    if resume and config.checkpoint_dir is None:
        raise typer.BadParameter("--resume needs --checkpoint-dir, where the training was saved.")
    trained = train(config, resume=resume, command=command)
    _show(config.out, trained, json)


def train(config: RunConfig, *, resume: bool = False, command: Sequence[str]) -> Trained:
    """Train, save and evaluate; errors and Ctrl-C as for `run`."""
    config = replace(config, arch=config.network)
    _check(config)
    is_new = not config.out.exists()
    replaces = claim_folder(config.out)
    try:
        with _on(config.device):
            learn, config = _learner(config)
            if replaces:
                say(f"{config.out} holds an earlier model; it is replaced when training ends.")
            return _train(learn, config, resume, command)
    finally:
        if is_new and not any(config.out.iterdir()):
            config.out.rmdir()


def _check(config: RunConfig) -> None:
    """Find mistakes before any work is done."""
    if not config.epochs and (config.freeze_epochs == 0 or config.train_all_layers):
        raise typer.BadParameter("--epochs 0 without --freeze-epochs trains nothing.")
    if config.search and config.freeze_epochs not in (None, 1):
        raise typer.BadParameter("--search needs --freeze-epochs 1.")
    if config.train_all_layers and (config.search or config.freeze_epochs):
        raise typer.BadParameter("--train-all-layers has no --search and no --freeze-epochs.")
    if config.from_run is None and config.text is None:
        check_network(config.network, config.weights)
    of_images = ("weights", "size", "channels", "augment", "masks")
    odd = [name for name in of_images if getattr(config, name) != getattr(RunConfig, name)]
    if config.text and odd:
        raise typer.BadParameter(f"--{odd[0]} is for images, --text for texts.")
    config.labels.check(config.folder)
    _check_names(config)
    if config.text is None and (config.max_length or config.long or config.pooling):
        raise typer.BadParameter("--max-length, --long and --pooling are for texts: --text NAME.")
    of_masks = (config.classes, config.ignore, config.mask_suffix, config.overlapping)
    if config.masks is None and any((*of_masks, config.decoder)):
        raise typer.BadParameter(
            "--classes, --ignore, --mask-suffix, --overlapping and --decoder need --masks DIR."
        )
    if config.masks is not None and not config.folder.is_dir():
        raise typer.BadParameter("--masks DIR goes with a folder of images; FOLDER is none.")
    folder = config.folder
    if config.out.resolve().is_relative_to(folder.resolve()) and folder.is_dir():
        raise DataError(
            f"--out {config.out} lies in the folder of the images, {folder}, where it would "
            "count as a class. Give a folder outside of it."
        )
    if config.from_run and config.from_run.resolve() == config.out.resolve():
        raise typer.BadParameter(f"--from {config.from_run} is also --out. Give another --out.")


def _check_names(config: RunConfig) -> None:
    """Find unknown names before data and weights are loaded."""
    if config.loss is not None:
        as_loss(config.loss)
    known = {"decoder": DECODERS, "pooling": POOLINGS}
    for option, names in known.items():
        name = getattr(config, option)
        if name is not None and name not in names:
            raise typer.BadParameter(
                f"--{option} {name} is not known.{nearest(name, names)} The names are "
                f"{', '.join(names)}."
            )


@contextmanager
def _on(device: str | None) -> Iterator[None]:
    """Train on this device, instead of an accelerator if there is one."""
    if device is None:
        yield
        return
    try:
        kind = torch.device(device).type
    except RuntimeError as cause:
        raise typer.BadParameter(f"--device {device}: give cpu, cuda, cuda:1 or mps.") from cause
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if kind not in ("cpu", found and found.type):
        raise typer.BadParameter(f"--device {device}: there is none here, but {found or 'cpu'}.")
    before = os.environ.get(_DEVICE)
    os.environ[_DEVICE] = device
    try:
        yield
    finally:
        os.environ.pop(_DEVICE)
        if before is not None:
            os.environ[_DEVICE] = before


def _learner(config: RunConfig) -> tuple[Learner, RunConfig]:
    """The learner, and the settings with what they leave open."""
    dls = (_masks if config.masks else _texts if config.text else _images)(config)
    if config.loss is not None:
        dls.task.check_loss(as_loss(config.loss))
    old = None if config.from_run is None else load_learner(config.from_run)
    is_known = old is not None and tuple(dls.vocab) == tuple(old.dls.vocab)
    if config.freeze_epochs is None:  # a head that knows these classes is trained already
        config = replace(config, freeze_epochs=0 if is_known or config.train_all_layers else 1)
    if old is None:
        learn = _new_learner(config, dls)
        start = "pretrained" if config.pretrained or config.weights else "randomly initialized"
    elif is_known:
        learn, start = _trained_on(old, config, dls), f"from {config.from_run}"
    else:
        arch = config.network if config.text or old.blueprint is None else old.blueprint.arch
        learn = _new_learner(replace(config, arch=arch, pretrained=False, weights=None), dls)
        say(str(transplant(old, learn)))
        start = f"from {config.from_run}"
    if old is not None:  # its weights are trained, however they began
        learn.pretrained = True
    groups = ", ".join(learn.layer_groups.names)
    name = learn.blueprint.arch if learn.blueprint else config.network
    say(f"{name}, {start}; layer groups: {groups}")
    return learn, config


def _trained_on(old: Learner, config: RunConfig, dls: Any) -> Learner:
    """The learner of an earlier run, to train on; its epochs are counted and shown too."""
    old.dls = dls
    for name, value in _settings(config, dls).items():
        setattr(old, name, value)
    assert config.from_run is not None
    if (config.from_run / RECORD).is_file():
        old.history = History(RunRecord.load(config.from_run).epochs)
        old.epochs_done = old.history[-1].epoch + 1 if old.history else 0
    return old


def _settings(config: RunConfig, dls: Any) -> dict[str, Any]:
    """The settings of a learner that are also its attributes."""
    names = [name.strip() for name in (config.metrics or "").split(",") if name.strip()]
    return {
        **({} if config.loss is None else {"loss_func": config.loss}),
        "metrics": names or dls.task.default_metrics,
        "opt_func": config.optimizer,
        "weight_decay": config.weight_decay,
        "mixed_precision": config.mixed_precision,
        "seed": config.seed,
    }


def _new_learner(config: RunConfig, dls: Any) -> Learner:
    options: dict[str, Any] = {"split": split_rule(config.split), **_settings(config, dls)}
    if config.text:
        return text_learner(dls, pretrained=config.pretrained, pooling=config.pooling, **options)
    options |= {"pretrained": config.pretrained, "weights": config.weights}
    if config.masks:
        return segmentation_learner(dls, config.network, decoder=config.decoder, **options)
    return vision_learner(dls, config.network, **options)


def _texts(config: RunConfig) -> TextDataLoaders:
    dls = TextDataLoaders.from_table(
        config.folder,
        task=config.task,
        model=config.network,
        valid_pct=config.valid_pct,
        seed=config.seed,
        batch_size=config.batch_size,
        balance=config.balance,
        on_error=cast(OnError, config.on_error),
        max_length=config.max_length,
        long=config.long or "truncate",
        **config.labels.text_arguments(),
    )
    say(
        f"{len(dls.train_texts)} training and {len(dls.valid_texts)} validation texts of "
        f"{dls.task.count(dls.c)}, at most {dls.transform.max_length} tokens"
    )
    return dls


def _masks(config: RunConfig) -> SegmentationDataLoaders:
    values = [int(name) if name.isdecimal() else name for name in names_in(config.ignore) or ()]
    options = _loading(config)
    if config.batch_size == RunConfig.batch_size:  # too many for a decoder
        options["batch_size"] = _MASKS_IN_A_BATCH
    if options.pop("balance"):
        raise typer.BadParameter("--balance is for one class per image, not for masks.")
    dls = SegmentationDataLoaders.from_folders(
        config.folder,
        config.masks or "",
        classes=names_in(config.classes),
        ignore=values or None,
        overlapping=config.overlapping,
        suffix=config.mask_suffix,
        **options,
    )
    say(
        f"{len(dls.train_images)} training and {len(dls.valid_images)} validation masks of "
        f"{dls.task.count(dls.c)}, {config.size} x {config.size} pixels, batches of "
        f"{dls.batch_size}"
    )
    return dls


def _images(config: RunConfig) -> ImageDataLoaders:
    if is_table(config.folder):
        columns = {"task": config.task, **config.labels.arguments()}
        dls = ImageDataLoaders.from_table(config.folder, **columns, **_loading(config))
    else:
        dls = ImageDataLoaders.from_folder(config.folder, **_loading(config))
    say(
        f"{len(dls.train_images)} training and {len(dls.valid_images)} validation images of "
        f"{dls.task.count(dls.c)}, {config.size} x {config.size} pixels"
    )
    return dls


def _loading(config: RunConfig) -> dict[str, Any]:
    """The options that all images have."""
    return {
        "valid_pct": config.valid_pct,
        "seed": config.seed,
        "size": config.size,
        "batch_size": config.batch_size,
        "augment": {None: True, "none": False}.get(config.augment, config.augment),
        "balance": config.balance,
        "num_workers": config.workers,
        "on_error": config.on_error,
        "channels": config.channels,
    }


class _StepCount:
    steps = 0

    def after_step(self, run: FitContext) -> None:
        self.steps += 1


@contextmanager
def _watched(learn: Learner, config: RunConfig) -> Iterator[None]:
    """Keep the best epoch and stop early, as asked; else say if an earlier epoch was better."""
    monitor, first = config.keep_best or "valid_loss", learn.epochs_done
    if config.patience is not None:
        learn.callbacks.append(EarlyStopping(monitor, config.patience))
    with TemporaryDirectory() as temporary:
        if config.keep_best is not None:
            folder = (config.checkpoint_dir or Path(temporary)).absolute()
            learn.callbacks.append(SaveBest(monitor, str(folder / "best"), restore=True))
        yield
    rows = [row for row in learn.history if row.epoch >= first]  # not those of --from
    losses = {row.epoch: row.valid_loss for row in rows if row.valid_loss is not None}
    if config.keep_best is None and losses:
        best = min(losses, key=losses.__getitem__)
        if best != learn.history[-1].epoch:
            say(
                f"Epoch {best} had the lowest valid_loss, {losses[best]:.4g}: "
                "--keep-best valid_loss keeps its weights."
            )


def _train(learn: Learner, config: RunConfig, resume: bool, command: Sequence[str]) -> Trained:
    """Train, save, then evaluate; Ctrl-C loses nothing that was learned."""
    count = _StepCount()
    learn.callbacks.append(count)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with interrupts():
            try:
                with _watched(learn, config):
                    _fit(learn, config, checkpoint_dir=config.checkpoint_dir, resume=resume)
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
        figures = figures_of(found)
        if config.metrics and not {*learn.metrics} <= {*figures}:
            figures |= {n: v for n, v in learn.validate().items() if n != "valid_loss"}
    except KeyboardInterrupt:
        say(f"Interrupted: the model is saved in {config.out}, but not evaluated.")
        raise typer.Exit(130) from None
    return Trained(found, files, figures)


def _fit(learn: Learner, config: RunConfig, **saved: Any) -> None:
    lr = None if config.lr == RunConfig.lr else config.lr  # which data and head decide
    if config.train_all_layers:
        learn.unfreeze()
        learn.fit_one_cycle(config.epochs, config.lr, **saved)
    elif config.search is not None:
        learn.fine_tune(plan=_searched(learn, config.search, config.epochs, lr), **saved)
    else:
        assert config.freeze_epochs is not None  # see _learner
        learn.fine_tune(config.epochs, lr, freeze_epochs=config.freeze_epochs, **saved)


def _searched(learn: Learner, trials: int, epochs: int, lr: float | None) -> FineTunePlan:
    found = learn.search(trials, epochs=epochs, base_lr=lr, apply=False)
    if found.trials:
        say(found)
    if found.interrupted:
        raise KeyboardInterrupt
    return found.plan


def _write(learn: Learner, config: RunConfig, command: Sequence[str]) -> RunFiles:
    record = record_run(learn, command=command, measured=False)
    return write_run(learn, config.out, record=record, config=config.to_yaml())


def _show(out: Path, trained: Trained, json: bool) -> None:
    found, picture = trained.found, out / PICTURE
    has_picture = draw_confusion(found, picture)
    if json:
        show_json({"model": str(out)} | trained.figures | as_json(found))
    else:
        say()
        paths = {"model": out, "history": trained.files.history}
        paths |= {"confusion": picture} if has_picture else {}
        figures = {"loss": float(found.losses.mean()), "items": len(found)}
        show_figures(trained.figures | figures | paths)
    say(f"\nLook at the run:  layergroups report {out}")
    example = '"some text"' if found.texts else "image.jpg"
    say(f"Predict with it:  layergroups predict {out} {example}")
    say(f"Change a setting: layergroups train --config {out / CONFIG} --out another-model")
