"""The training loop: fit -> run_epoch -> train_step."""

from __future__ import annotations

import math
import time

from torch import Tensor

from layergroups._forward import labelled
from layergroups._interrupts import interrupts
from layergroups.errors import TrainingError
from layergroups.tasks import checked_loss
from layergroups.training.distributed import divide_gradients
from layergroups.training.hardware import keep_freed_memory, to_device
from layergroups.training.loop._evaluation import evaluate
from layergroups.training.loop._events import notify, notify_last
from layergroups.training.loop._fit_context import FitContext
from layergroups.training.loop._loop_checks import (
    BATCH_OF_ONE,
    check_batch_count,
    check_trainable,
    explain_not_finite,
    is_batch_of_one,
    warn_of_missing_gradients,
)
from layergroups.training.loop._loss_meter import LossMeter, NotFiniteError
from layergroups.training.loop._position import shards_left
from layergroups.training.loop._precision import autocast, backward, optimizer_step
from layergroups.training.optim import checked_clip, rates_in_use, set_momentum, set_rates
from layergroups.training.state import (
    EpochRow,
    History,
    lr_profile,
    memory_used,
    norm_layers,
)


def fit(run: FitContext) -> History:
    """Train for `run.epochs` epochs."""
    with run.processes.failing_together(), interrupts(), keep_freed_memory():
        run.replicas.broadcast_weights(run.model, "the start of a fit")
        run.replicas.check(run.model, run.optimizer)
        return _fit(run)


def _fit(run: FitContext) -> History:
    run.steps = run.epochs * math.ceil(check_batch_count(run.batches) / run.accumulate)
    check_trainable(run.groups)
    run.learner.task.check_loss(run.learner.loss_func)
    run.learner.note_kept_statistics()
    run.optimizer.zero_grad(set_to_none=True)
    failing = True
    try:
        notify(run.callbacks, "before_fit", run)
        while not run.over:
            run_epoch(run)
        run.begun = True
        run.learner.fits_done += 1
        notify(run.callbacks, "after_fit", run)
        failing = False
    finally:
        run.optimizer.zero_grad(set_to_none=True)
        set_momentum(run.optimizer, None)
        run.model.eval()
        notify_last(run.callbacks, run, quietly=failing)
    return History(tuple(run.rows))


def run_epoch(run: FitContext) -> None:
    """Train on every batch once, validate and add a row; a resumed epoch continues where it was."""
    run.started, run.seconds_before = time.perf_counter() - run.seconds_before, 0.0
    run.learner.begin_epoch(run.train, seeded=run.batch == 0)
    if run.batch == 0:
        run.losses, run.max_multiplier, run.lrs = LossMeter(), 0.0, ()
        run.first_step = run.step
        run.replicas.sync_rng()
        notify(run.callbacks, "before_epoch", run)
    run.losses.allow_nonfinite = run.allow_nonfinite
    stored = None if run.features is None else run.features.batches_for_epoch(run)
    run.batches = run.train if stored is None else stored
    run.epoch_steps = math.ceil(len(run.batches) / run.accumulate)
    try:
        _train_on_all(run)
        _bring_together(run)
        notify(run.callbacks, "before_validate", run)
        results = _validate(run)
    except KeyboardInterrupt:
        if run.losses.mean() is not None:
            _add_row(run, {}, note="interrupted")
        raise
    _add_row(run, results)
    notify(run.callbacks, "after_epoch", run)
    run.stop = run.processes.any_text("the events after an epoch", run.stop)
    run.epoch, run.batch = run.epoch + 1, 0


def train_step(run: FitContext) -> None:
    """Forward, backward and optimizer step for one batch, after a sync with the model.

    With `accumulate=n` the optimizer steps after every n batches, and after the last one of an
    epoch, with the mean of their gradients. Schedules, `run.step` and `after_step` count optimizer
    steps; `before_step` comes before each batch. A group that is frozen between two of the n
    batches loses its accumulated gradients; an unfrozen or new one accumulates from then on.
    """
    notify(run.callbacks, "before_step", run)
    if run.detector.sync():
        run.changes += 1
        run.optimizer = run.learner.made_optimizer()
        run.changed = True
        run.replicas.broadcast_weights(run.model, f"surgery before step {run.step}")
    _apply_schedule(run)
    if not run.accumulated:
        run.optimizer.zero_grad(set_to_none=True)
    if run.replicas.sharded:
        run.replicas.barrier(
            f"a batch before step {run.step}", run.groups, run.optimizer, run.share
        )
    run.loss = _loss(run)
    run.losses.add(run.step, run.loss, run.share.n_counted)
    factor = run.replicas.factor(run.share)
    backward(run.accelerator, run.loss if factor == 1 else run.loss * factor)
    run.accumulated += 1
    if run.accumulated == run.accumulate:
        _take_step(run)


def _take_step(run: FitContext) -> None:
    run.replicas.barrier(f"step {run.step}", run.groups, run.optimizer, run.share)
    run.replicas.add_gradients(run.model)
    divide_gradients(run.model.parameters(), run.accumulated)
    if run.step == 0 or run.changed:
        warn_of_missing_gradients(run.groups)
    optimizer_step(run.accelerator, run.optimizer, checked_clip(run.learner.clip))
    run.accumulated, run.changed, run.begun = 0, False, True
    run.step += 1
    notify(run.callbacks, "after_step", run)


def _apply_schedule(run: FitContext) -> None:
    multiplier = run.schedule.multiplier(run.done)
    set_rates(run.optimizer, run.groups.rates, multiplier)
    set_momentum(run.optimizer, run.schedule.momentum(run.done))
    if not run.lrs or multiplier > run.max_multiplier:
        run.max_multiplier, run.lrs = multiplier, rates_in_use(run.optimizer, len(run.groups))


def _loss(run: FitContext) -> Tensor:
    run.inputs = run.layout(run.inputs, run.model, run.changes)
    with autocast(run.accelerator):
        try:
            outputs = run.forward(run.inputs)
        except ValueError as cause:
            if is_batch_of_one(cause, run.targets):
                raise TrainingError(BATCH_OF_ONE) from cause
            raise
        if run.step == 0:
            run.learner.task.check_targets(outputs, run.targets, run.learner.loss_func)
        return checked_loss(run.learner.loss_func, outputs, run.targets)


def _train_on_all(run: FitContext) -> None:
    title = f"epoch {run.learner.epochs_done}"
    try:
        with run.learner.reporter.bar(title, len(run.batches)) as bar:
            least = 2 if any(norm_layers(run.model)) else 1  # batch norm needs two items
            for share in () if run.stop else shards_left(run, least):
                batch = to_device(share.batch, run.accelerator.device)
                run.share, (run.inputs, run.targets) = share, labelled(batch)
                run.batch, run.mixed = run.batch + 1, False
                if len(run.targets):
                    train_step(run)
                bar.advance(run.losses.latest)
                run.stop = run.processes.any_text(
                    "the events after a step", run.stop or run.losses.nonfinite_note
                )
                if run.stop:
                    break
            if run.accumulated:
                _take_step(run)
        run.losses.read()
    except NotFiniteError as cause:
        raise explain_not_finite(cause, run) from cause


def _bring_together(run: FitContext) -> None:
    run.replicas.barrier("the end of training on all batches", run.groups, run.optimizer)
    run.losses.combine(run.processes)
    run.stop = run.stop or run.losses.nonfinite_note
    run.replicas.sync_buffers(run.model)
    run.replicas.check(run.model, run.optimizer)


def _validate(run: FitContext) -> dict[str, float]:
    if run.valid is None or len(run.valid) == 0 or run.losses.nonfinite_note:
        return {}
    learner, stored = run.learner, None
    if run.features is not None:
        stored = run.features.validation(run)
    with learner.reporter.bar("validation", len(run.valid)) as bar:
        return evaluate(
            run.model,
            run.valid if stored is None else stored,
            loss_func=learner.loss_func,
            task=learner.task,
            meter=learner.meter(),
            accelerator=run.accelerator,
            processes=run.processes,
            forward=run.forward,
            advance=bar.advance,
        )


def _add_row(run: FitContext, results: dict[str, float], note: str = "") -> None:
    learner, features = run.learner, run.features
    resources, origin = memory_used(run.accelerator.device), ""
    if features is not None and run.batches is not run.train:
        resources, origin = resources | features.resources(run), "cached features"
    took = (time.perf_counter() - run.started, resources)
    if not note:
        took = run.processes.from_main("the end of an epoch", took)
    first, steps = run.epoch * run.epoch_steps, run.epochs * run.epoch_steps
    row = EpochRow(
        epoch=learner.epochs_done,
        phase=run.phase,
        train_loss=run.losses.mean(),
        valid_loss=results.pop("valid_loss", None),
        metrics=results,
        seconds=took[0],
        lrs=run.lrs,
        frozen=tuple(run.groups.frozen),
        note=note or run.stop or origin,
        lr_profile=lr_profile(run.schedule, first, first + run.step - run.first_step, steps),
        resources=took[1],
    )
    run.rows.append(row)
    learner.end_epoch(row, 1 if features is None else features.epochs_counted)
