"""A learner's whole state as named tensors and JSON, and back."""

from __future__ import annotations

import logging
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from layergroups.checkpoints import (
    Saved,
    check_optimizer,
    check_weights,
    fitting_weights,
    join_tensors,
    load_optimizer_state,
    load_random_state,
    load_weights,
    optimizer_state,
    random_state,
    split_tensors,
    under_prefix,
    with_prefix,
    write,
)
from layergroups.errors import CheckpointError
from layergroups.groups import GroupDifference
from layergroups.training.distributed._sharding import whole
from layergroups.training.loop._history import History

if TYPE_CHECKING:
    from layergroups.training._learner import Learner


_log = logging.getLogger("layergroups")


_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def save(learner: Learner, file: Path) -> Path:
    """Write the state of a learner; with several processes the main one writes, all wait."""
    processes = learner.processes
    with processes.together():
        processes.meet(f"save {file.name}")
        tensors, state = state_of(learner)
        processes.write(f"save {file.name}", lambda: write(file, tensors, state))
    return file


def state_of(learner: Learner) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights, all buffers, optimizer, groups, norm layers, history, counts and random states.

    With several processes all call it when they have met; random states are those of each.
    """
    groups = learner.layer_groups
    random_tensors, random_values = random_state()
    model = groups.model  # without the wrapper of torch.compile
    tensors = with_prefix("model", model.state_dict())
    tensors |= with_prefix("buffer", _passing_buffers(model))
    tensors |= with_prefix("random", random_tensors)
    state: dict[str, Any] = {
        "structure": structure_of(model),
        "epochs_done": learner.epochs_done,
        "fits_done": learner.fits_done,
        "groups": groups.state_dict(),
        "norms": learner.norms.state_dict(model),
        "history": learner.history.to_dict(),
        "random": random_values,
        "scaler": _scaler_state(learner),
        "store": learner.store.state_dict(),
        "optimizer": None,
    }
    if learner.opt is not None:
        moments, values = optimizer_state(learner.opt, model)
        tensors |= with_prefix("optimizer", moments)
        state["optimizer"] = values
    processes = learner.processes
    each, told = split_tensors([*map(list, processes.objects(random_state()))], "ranks")
    if processes.several:
        tensors, state = tensors | each, state | {"ranks": told}
    return whole(tensors), state


def restore(
    learner: Learner,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    source: str,
    with_opt: bool = True,
    strict: bool | None = None,
) -> None:
    """Put a learner where it was when `state_of` was taken.

    Args:
        learner: it keeps its model; weights are copied into it.
        tensors: of the checkpoint.
        state: of the checkpoint.
        source: the file, for messages.
        with_opt: also take over the optimizer's state.
        strict: True refuses other groups and other weights; None refuses other weights; False takes
            what fits. What does not fit is told in a warning.

    Raises:
        CheckpointError: weights, groups or optimizer do not fit this learner.
    """
    try:
        model = learner.groups.model  # without the wrapper of torch.compile
        weights = _chosen_weights(model, under_prefix("model", tensors), strict, source)
        saved_optimizer = state["optimizer"]
        if with_opt and saved_optimizer is not None:
            check_optimizer(learner.made_optimizer(), saved_optimizer)
        difference = learner.layer_groups.compare(state["groups"])
        if strict and difference:
            raise CheckpointError(f"{source} has other layer groups than this model. {difference}")
        load_weights(model, weights, source, strict=strict is not False)
        _load_buffers(model, under_prefix("buffer", tensors))
        _restore_groups(learner, state["groups"], difference)
        learner.norms.load_state_dict(model, state["norms"])
        if with_opt:
            moments = {
                name: moment
                for name, moment in under_prefix("optimizer", tensors).items()
                if name.partition("/")[2] in weights
            }
            _restore_optimizer(learner, moments, saved_optimizer)
        if state["scaler"] and learner.accelerator.scaler is not None:
            learner.accelerator.scaler.load_state_dict(dict(state["scaler"]))
        learner.history = History.from_dict(state["history"])
        learner.epochs_done, learner.fits_done = int(state["epochs_done"]), int(state["fits_done"])
        learner.store.load_state_dict(state["store"])
        _restore_random(learner, tensors, state)
    except (KeyError, TypeError, ValueError, IndexError) as cause:
        raise CheckpointError(f"{source} is not what learn.save writes: {cause!r}.") from cause


def _restore_random(
    learner: Learner, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """The random states of this process; those of the main one if there were others then."""
    ranks = join_tensors(state.get("ranks", []), tensors)
    if len(ranks) == learner.processes.world > 1:
        load_random_state(*ranks[learner.processes.rank])
    else:
        load_random_state(under_prefix("random", tensors), state["random"])


def check_resumable(learner: Learner, saved: Saved) -> None:
    """A run goes on only in a model that is built as it was.

    Raises:
        CheckpointError: it has other weights, or is built otherwise.
    """
    source = str(saved.path)
    model = learner.groups.model
    check_weights(model, under_prefix("model", saved.tensors), source)
    if saved.state.get("structure") != structure_of(model):
        raise CheckpointError(
            f"{source} is of a model with the same weights but other layers than this one. Make "
            "the learner as it was made when this was saved."
        )


def structure_of(model: nn.Module) -> str:
    """A short text that is another one as soon as the model is built otherwise."""
    shapes = [f"{name} {tuple(p.shape)} {p.dtype}" for name, p in model.named_parameters()]
    text = _ADDRESS.sub("", repr(model)) + "\n".join(shapes)
    return f"{zlib.crc32(text.encode()):08x}"


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Weights and all buffers, not copied; with FSDP2 every process must call this."""
    tensors = with_prefix("model", model.state_dict())
    return whole(tensors | with_prefix("buffer", _passing_buffers(model)))


def put_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy what `weights_of` gave, or a checkpoint's weights and buffers, into the model.

    Raises:
        CheckpointError: names or shapes differ; nothing was loaded then.
    """
    load_weights(model, under_prefix("model", tensors), source)
    _load_buffers(model, under_prefix("buffer", tensors))


def _chosen_weights(
    model: nn.Module, weights: dict[str, Tensor], strict: bool | None, source: str
) -> dict[str, Tensor]:
    """The weights to load: all, or those that fit, of which the others are told."""
    if strict is not False:
        check_weights(model, weights, source)
        return weights
    fitting, told = fitting_weights(model, weights, source)
    if told:
        _log.warning("%s Loaded %d that fit; the others stay.", told, len(fitting))
    return fitting


def _passing_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that a state dict leaves out."""
    kept = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in kept}


def _load_buffers(model: nn.Module, saved: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, buffer in _passing_buffers(model).items():
            if name in saved and saved[name].shape == buffer.shape:
                buffer.copy_(saved[name])


def _scaler_state(learner: Learner) -> dict[str, Any] | None:
    """Of the gradient scaler in fp16."""
    scaler = learner.accelerator.scaler
    return None if scaler is None else dict(scaler.state_dict())


def _restore_groups(
    learner: Learner, saved: Mapping[str, Any], difference: GroupDifference | None
) -> None:
    """Freezing and rates, of the groups of the same name; the difference is told."""
    learner.layer_groups.load_state_dict(saved, strict=False)
    if difference:
        _log.warning("The checkpoint has other layer groups than this model. %s", difference)


def _restore_optimizer(
    learner: Learner, tensors: Mapping[str, Tensor], saved: Mapping[str, Any] | None
) -> None:
    if saved is None:
        if learner.opt is not None:
            learner.opt.state.clear()
        return
    optimizer = learner.made_optimizer()
    unknown = load_optimizer_state(optimizer, learner.groups.model, tensors, saved)
    if unknown:
        _log.warning("The optimizer's state of %s is for no parameter here.", ", ".join(unknown))
