"""Checks before a fit and at its first step, with errors that name the fix."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from torch import Tensor

from layergroups._formatting import first_few
from layergroups.errors import TrainingError

if TYPE_CHECKING:
    from layergroups.data import Batches
    from layergroups.groups import LayerGroups
    from layergroups.training.loop._fit_context import FitContext
    from layergroups.training.loop._loss_meter import NotFiniteError

_log = logging.getLogger("layergroups")


def check_batch_count(batches: Batches) -> int:
    """The number of training batches."""
    try:
        count = len(batches)
    except TypeError as cause:
        raise TrainingError(
            f"The training batches ({type(batches).__name__}) have no len(), but a schedule needs "
            "the number of steps. Give a DataLoader or a list of batches."
        ) from cause
    if count == 0:
        raise TrainingError("There are no training batches: too few items for a batch of 2.")
    return count


def check_trainable(groups: LayerGroups) -> None:
    """Refuse a fit in which no parameter would train."""
    if any(p.requires_grad for group in groups for p in group.parameters()):
        return
    raise TrainingError(
        "Nothing would train: every layer group is frozen or has rate 0.\n"
        f"{groups}\nUse learn.unfreeze() or learn.freeze_to(-1), and a rate above 0."
    )


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
        f"{group.name} {rate * multiplier:.2g}"
        for group, rate in zip(run.groups, run.groups.rates, strict=True)
    )
    return TrainingError(
        f"The loss became {error.value} at step {error.step} of {run.steps} (epoch "
        f"{run.learner.epochs_done}), at rates {rates}. Usual causes: rates too high (try a "
        "tenth), inputs that are not finite or not normalised, or fp16 (use "
        'mixed_precision="bf16" or "no"). The weights may be NaN too: load an earlier checkpoint '
        "with learn.load."
    )


def is_batch_of_one(error: Exception, targets: Tensor) -> bool:
    """Whether batch norm refused a batch of one item."""
    return len(targets) == 1 and "more than 1 value per channel" in str(error)


BATCH_OF_ONE = (
    "A training batch has one item, from which batch norm cannot compute statistics. Use a "
    'batch_size that leaves no batch of one, or batch_norm="keep".'
)
