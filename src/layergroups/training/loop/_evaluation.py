"""Validation and predictions: run a model over batches without changing it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from layergroups._forward import call_model, split_batch
from layergroups._torch import tree_leaves
from layergroups.anatomy import describe_input
from layergroups.data import Shard, check_of, order_of, shards_of
from layergroups.errors import TrainingError
from layergroups.tasks import LossFunc, Meter, Task, checked_loss, item_losses
from layergroups.training.distributed import SINGLE_PROCESS, Processes
from layergroups.training.hardware import keep_freed_memory, to_device
from layergroups.training.state import LearnerState, evaluating

Forward = Callable[[Any], Tensor]


def evaluate(
    learner: LearnerState,
    batches: Iterable[Any],
    *,
    meter: Meter | None = None,
    forward: Forward | None = None,
    processes: Processes | None = None,
    advance: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Mean loss over the items, and the metrics; by default those of the learner.

    The model's mode and the random state are restored. Nothing is read from the device until the
    end, since each read waits for it. All processes call this and get the same result. `forward`
    replaces the forward pass of the model, `advance` is called after every batch.
    """
    loss_func, task = learner.loss_func, learner.task
    task.check_loss(loss_func)
    model, meter = learner.placed_model(), meter or learner.meter()
    processes = processes or learner.processes
    seen = _Seen(task, loss_func, meter)
    with processes.failing_together(), keep_freed_memory():
        with evaluating(model):
            meter.to(learner.accelerator.device)
            for share in shards_of(batches, processes):
                for outputs, targets in _outputs(learner, [share.batch], forward, advance):
                    seen.add(outputs, targets, share)
        counts = processes.barrier("validation", {"batches": seen.check}, gather=[seen.items])
        some_have_none = not all(items for (items,) in counts) and any(map(any, counts))
        if processes.is_distributed and some_have_none:  # every process evaluates all of them
            meter.reset()
            alone = SINGLE_PROCESS
            return evaluate(learner, batches, meter=meter, forward=forward, processes=alone)
        total, items = processes.total(float(seen.total), seen.items)
        if not items:
            raise TrainingError(
                "There are no validation items. Give valid_pct=0.2, or validate(dl)."
            )
        return {"valid_loss": total / items, **meter.compute(processes)}


class _Seen:
    """Sums over the batches of an evaluation, on the device until the end."""

    def __init__(self, task: Task, loss_func: LossFunc, meter: Meter) -> None:
        self.task, self.loss_func, self.meter = task, loss_func, meter
        self.total: Tensor | float = 0.0
        self.items = 0
        self.check = 0
        self._whole = 0

    def add(self, outputs: Tensor, targets: Tensor | None, share: Shard) -> None:
        if targets is None:
            raise TrainingError("validate needs batches of (inputs, targets), not inputs only.")
        places = torch.tensor(share.positions, device=targets.device) + self._whole
        self._whole += share.n_items
        self.check = check_of([self.check, share.n_items, share.check])
        if share.n_counted:
            if not self.items:
                self.task.check_targets(outputs, targets, self.loss_func)
            loss = checked_loss(self.loss_func, outputs, targets).float() * share.n_counted
            self.total, self.items = self.total + loss, self.items + share.n_counted
            self.meter.update(self.task.predictions(outputs, self.loss_func), targets, places)


def predict_all(
    learner: LearnerState,
    batches: Iterable[Any],
    *,
    with_loss: bool = False,
    advance: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Predictions, targets and losses of every item, in the order of the items, on the CPU.

    Returns:
        Probabilities (N, C), or numbers (N, K) for regression; targets (N,), (N, C) or (N, K), None
        if the batches have none; losses (N,), None without `with_loss`.
    """
    collected: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
    loss_func, task = learner.loss_func, learner.task
    with evaluating(learner.placed_model()):
        for outputs, targets in _outputs(learner, batches, None, advance):
            losses = None
            if with_loss:
                if targets is None:
                    raise TrainingError("with_loss=True needs batches of (inputs, targets).")
                losses = item_losses(loss_func, outputs, targets).cpu()
            known = None if targets is None else targets.cpu()
            collected.append((task.predictions(outputs, loss_func).cpu(), known, losses))
    if not collected:
        raise TrainingError("There is nothing to predict: the batches are empty.")
    order = order_of(batches)
    back = slice(None) if order is None else torch.tensor(order).argsort()

    def joined(column: Sequence[Tensor | None]) -> Tensor | None:
        parts = [part for part in column if part is not None]
        return torch.cat(parts)[back] if parts else None

    predictions, all_targets, all_losses = map(joined, zip(*collected, strict=True))
    assert predictions is not None
    return predictions, all_targets, all_losses


def _outputs(
    learner: LearnerState,
    batches: Iterable[Any],
    forward: Forward | None,
    advance: Callable[[], None] | None,
) -> Iterator[tuple[Tensor, Tensor | None]]:
    forward, accelerator = forward or partial(call_model, learner.model), learner.accelerator
    for batch in batches:
        inputs, targets = split_batch(to_device(batch, accelerator.device))
        if targets is None or len(targets):
            with accelerator.autocast(), _taking(inputs):
                outputs = forward(inputs)
            # In half precision, a loss would be rounded to three digits.
            half = outputs.dtype in (torch.bfloat16, torch.float16)
            like = next(_maps_in(inputs), None) if targets is None else targets
            if like is not None:
                outputs = learner.task.fitted(outputs, like)
            yield outputs.float() if half else outputs, targets
        if advance is not None:
            advance()


def _maps_in(inputs: object) -> Iterator[Tensor]:
    return (t for t in tree_leaves(inputs) if isinstance(t, Tensor) and t.ndim == 4)


@contextmanager
def _taking(inputs: object) -> Iterator[None]:
    # An error of the model gets the shape of its inputs.
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as cause:
        reason = (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")
        raise TrainingError(
            f"The model cannot take inputs {describe_input(inputs)}: {reason}. Give batches "
            "of the shape that it was trained on; learn.predict takes one item, without the batch "
            "dimension."
        ) from cause
