"""A learner's whole state as named tensors and JSON, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from layergroups.checkpoints import (
    check_optimizer,
    check_weights,
    load_optimizer_state,
    load_random_state,
    load_weights,
    optimizer_state,
    random_state,
    under_prefix,
    with_prefix,
    write,
)
from layergroups.errors import CheckpointError, GroupingError
from layergroups.training.history import History
from layergroups.training.sharding import whole

if TYPE_CHECKING:
    from layergroups.training.learner import Learner

_log = logging.getLogger("layergroups")


def save(learner: Learner, file: Path) -> Path:
    """Write the state of a learner; with several processes the main one writes, all wait."""
    processes = learner.processes
    with processes.together():
        processes.meet(f"save {file.name}")
        tensors, state = state_of(learner)
        whole_tensors = whole(tensors)
        processes.write(f"save {file.name}", lambda: write(file, whole_tensors, state))
    return file


def state_of(learner: Learner) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights, optimizer, groups, history, epoch and random states."""
    groups = learner.layer_groups
    random_tensors, random_values = random_state()
    tensors = with_prefix("model", learner.model.state_dict())
    tensors |= with_prefix("random", random_tensors)
    state: dict[str, Any] = {
        "epochs_done": learner.epochs_done,
        "groups": groups.state_dict(),
        "history": learner.history.to_dict(),
        "random": random_values,
        "optimizer": None,
    }
    if learner.opt is not None:
        moments, values = optimizer_state(learner.opt, learner.model)
        tensors |= with_prefix("optimizer", moments)
        state["optimizer"] = values
    return tensors, state


def restore(
    learner: Learner,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    with_opt: bool,
    source: str,
) -> None:
    """Put a learner where it was when `state_of` was taken.

    Raises:
        CheckpointError: weights, groups or optimizer do not fit this learner.
    """
    try:
        weights = under_prefix("model", tensors)
        check_weights(learner.model, weights, source)
        saved_optimizer = state["optimizer"]
        if with_opt and saved_optimizer is not None:
            check_optimizer(learner.made_optimizer(), saved_optimizer)
        load_weights(learner.model, weights, source)
        _restore_groups(learner, state["groups"])
        if with_opt:
            _restore_optimizer(learner, under_prefix("optimizer", tensors), saved_optimizer)
        learner.history = History.from_dict(state["history"])
        learner.epochs_done = int(state["epochs_done"])
        load_random_state(under_prefix("random", tensors), state["random"])
    except (KeyError, TypeError, ValueError, IndexError) as cause:
        raise CheckpointError(f"{source} is not what learn.save writes: {cause!r}.") from cause


def _restore_groups(learner: Learner, saved: Mapping[str, Any]) -> None:
    """Freezing and rates; groups of other names stay as they are, and that is said."""
    groups = learner.layer_groups
    try:
        groups.load_state_dict(saved)
    except GroupingError as cause:
        _log.warning("Weights are loaded, freezing and rates are not: %s", cause)


def _restore_optimizer(
    learner: Learner, tensors: Mapping[str, Tensor], saved: Mapping[str, Any] | None
) -> None:
    if saved is None:
        if learner.opt is not None:
            learner.opt.state.clear()
        return
    optimizer = learner.made_optimizer()
    unknown = load_optimizer_state(optimizer, learner.model, tensors, saved)
    if unknown:
        _log.warning("The optimizer's state of %s is for no parameter here.", ", ".join(unknown))
