"""The training loop: fit -> run_epoch -> train_step."""

from __future__ import annotations

import logging
import math
import time

from torch import Tensor

from layergroups._formatting import count, first_few, percent, rate
from layergroups._forward import labelled
from layergroups._interrupts import interrupts
from layergroups.data import Batches
from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups
from layergroups.tasks import checked_loss
from layergroups.training.distributed import divide_gradients
from layergroups.training.hardware import in_safe_layout, keep_freed_memory, to_device
from layergroups.training.loop._evaluation import evaluate
from layergroups.training.loop._events import notify, notify_last
from layergroups.training.loop._fit_context import FitContext
from layergroups.training.loop._loss_meter import LossMeter, NotFiniteError
from layergroups.training.loop._optimizer_step import optimizer_step
from layergroups.training.loop._resuming import shards_left
from layergroups.training.optim import Schedule, rates_in_use, set_momentum, set_rates
from layergroups.training.state import EpochRow, History, lr_profile, memory_used, norm_layers

_log = logging.getLogger("layergroups")
_FEW_STEPS = 20  # with more, a step comes near any peak


def fit(run: FitContext) -> History:
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
    if run.step == 0:
        warn_of_low_rates(run.schedule, run.epochs * run.epoch_steps)
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
    if run.surgery_sync.sync():
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
    run.accelerator.backward(run.loss if factor == 1 else run.loss * factor)
    run.accumulated += 1
    if run.accumulated == run.accumulate:
        _take_step(run)


def _take_step(run: FitContext) -> None:
    run.replicas.barrier(f"step {run.step}", run.groups, run.optimizer, run.share)
    run.replicas.add_gradients(run.model)
    divide_gradients(run.model.parameters(), run.accumulated)
    if run.step == 0 or run.changed:
        warn_of_missing_gradients(run.groups)
    optimizer_step(run.accelerator, run.optimizer, run.learner.clip)
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
    run.inputs = in_safe_layout(run.inputs, run.model)
    with run.accelerator.autocast():
        try:
            outputs = run.forward(run.inputs)
        except ValueError as cause:
            if len(run.targets) > 1 or "more than 1 value per channel" not in str(cause):
                raise
            raise TrainingError(
                "A training batch has one item, from which batch norm cannot compute statistics. "
                'Use a batch_size that leaves no batch of one, or batch_norm="keep".'
            ) from cause
        outputs = run.learner.task.fitted(outputs, run.targets)
        if run.step == 0:
            run.learner.task.check_targets(outputs, run.targets, run.learner.loss_func)
            _compare_outputs(outputs, run)
        return checked_loss(run.learner.loss_func, outputs, run.targets)


def _compare_outputs(outputs: Tensor, run: FitContext) -> None:
    expected, given = run.learner.data.n_outputs, outputs.shape[1] if outputs.ndim > 1 else 0
    if expected and given > expected:
        _log.warning(
            "The model has %d outputs, the data have %d. Predictions have no names until data with "
            "all %d are assigned: learn.dls = dls",
            given, expected, given,
        )  # fmt: skip


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
        batches = run.valid if stored is None else stored
        return evaluate(learner, batches, forward=run.forward, advance=bar.advance)


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
        note=note or run.stop or run.note or origin,
        lr_profile=lr_profile(run.schedule, first, first + run.step - run.first_step, steps),
        resources=took[1],
    )
    run.rows.append(row)
    learner.end_epoch(row, 1 if features is None else features.epochs_counted)


def check_batch_count(batches: Batches) -> int:
    try:
        n_batches = len(batches)
    except TypeError as cause:
        raise TrainingError(
            f"The training batches ({type(batches).__name__}) have no len(), but a schedule needs "
            "the number of steps. Give a DataLoader or a list of batches."
        ) from cause
    if n_batches == 0:
        raise TrainingError("There are no training batches: too few items for a batch of 2.")
    return n_batches


def check_trainable(groups: LayerGroups) -> None:
    """Refuse a fit in which no parameter would train."""
    if any(p.requires_grad for group in groups for p in group.parameters()):
        return
    raise TrainingError(
        "Nothing would train: every layer group is frozen or has rate 0.\n"
        f"{groups}\nUse learn.unfreeze() or learn.freeze_to(-1), and a rate above 0."
    )


def warn_of_low_rates(schedule: Schedule, steps: int) -> None:
    """Warn if all steps of a fit lie beside the peak of its schedule."""
    if steps > _FEW_STEPS:
        return
    reached = max(schedule.multiplier(step / steps) for step in range(steps))
    peak = max(schedule.multiplier(place / 100) for place in range(101))
    if reached < peak / 2:
        _log.warning(
            "The fit has %s, too few for its schedule (%s): the rates reach %s of their maximum. "
            "Train for more epochs or in smaller batches, or at flat rates: learn.fit(1, lr).",
            count(steps, "optimizer step"), type(schedule).__name__, percent(reached / peak),
        )  # fmt: skip


def warn_of_missing_gradients(groups: LayerGroups) -> None:
    """After the first backward pass: warn of unfrozen parameters without a gradient."""
    named = [
        (group.name, name)
        for group in groups
        if not group.frozen
        for name, parameter in group.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    if not named:
        return
    _log.warning(
        "%s got no gradient in the first step and will not train: the loss does not depend on "
        "it. Use it in forward, or freeze its group (%s).",
        first_few((name for _, name in named), 3),
        ", ".join(dict.fromkeys(f'learn.layer_groups["{group}"].freeze()' for group, _ in named)),
    )


def explain_not_finite(error: NotFiniteError, run: FitContext) -> TrainingError:
    """The error for a NaN or infinite loss, with the rates and the usual causes."""
    multiplier = run.schedule.multiplier(run.done)
    rates = ", ".join(
        f"{group.name} {rate(lr * multiplier)}"
        for group, lr in zip(run.groups, run.groups.rates, strict=True)
    )
    return TrainingError(
        f"The loss became {error.value} at step {error.step} of {run.steps} (epoch "
        f"{run.learner.epochs_done}), at rates {rates}. Usual causes: rates too high (try a "
        "tenth), inputs that are not finite or not normalised, or fp16 (use "
        'mixed_precision="bf16" or "no"). The weights may be NaN too: load an earlier checkpoint '
        "with learn.load."
    )
