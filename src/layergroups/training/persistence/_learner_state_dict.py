"""A learner's whole state as named tensors and JSON, and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from layergroups._checks import whole_number
from layergroups._fingerprint import structure_of
from layergroups._formatting import first_few
from layergroups.checkpoints import (
    Saved,
    check_optimizer,
    check_weights,
    copy_weights,
    fitting_weights,
    join_tensors,
    load_optimizer_state,
    load_random_state,
    optimizer_state,
    random_state,
    split_tensors,
    under_prefix,
    with_prefix,
    write,
)
from layergroups.errors import CheckpointError
from layergroups.groups import compare_groups, taken_over
from layergroups.training.distributed import whole
from layergroups.training.state import History, LearnerState

_log = logging.getLogger("layergroups")
_MALFORMED = (KeyError, TypeError, ValueError, IndexError, AttributeError, RuntimeError)


def save(learner: LearnerState, file: Path) -> Path:
    """Write the state of a learner; with several processes the main one writes, all wait."""
    processes = learner.processes
    with processes.failing_together():
        processes.barrier(f"save {file.name}")
        tensors, state = state_of(learner)
        processes.write(f"save {file.name}", lambda: write(file, tensors, state))
    return file


def state_of(learner: LearnerState) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Everything that training depends on; with several processes all of them must call this."""
    groups = learner.layer_groups
    random_tensors, random_values = random_state()
    model = groups.model  # without the wrapper of torch.compile
    tensors = with_prefix("model", model.state_dict())
    tensors |= with_prefix("buffer", _other_buffers(model))
    tensors |= with_prefix("random", random_tensors)
    state: dict[str, Any] = {
        "structure": structure_of(model),
        "classes": list(learner.data.vocab),
        "pretrained": learner.pretrained,
        "epochs_done": learner.epochs_done,
        "fits_done": learner.fits_done,
        "groups": groups.state_dict(),
        "norms": learner.norms.state_dict(model),
        "history": learner.history.to_dict(),
        "random": random_values,
        "scaler": _scaler_state(learner),
        "store": learner.cache.state_dict(),
        "optimizer": None,
    }
    if learner.opt is not None:
        moments, values = optimizer_state(learner.opt, model)
        tensors |= with_prefix("optimizer", moments)
        state["optimizer"] = values
    processes = learner.processes
    each, values_of_each = split_tensors([*map(list, processes.objects(random_state()))], "ranks")
    if processes.is_distributed:
        tensors, state = tensors | each, state | {"ranks": values_of_each}
    return whole(tensors), state


def restore(
    learner: LearnerState,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    *,
    source: str,
    with_opt: bool = True,
    strict: bool | None = None,
) -> None:
    """Restore what `state_of` gave, or raise and change nothing; see `Learner.load`."""
    opt = learner.opt
    try:
        loadable = _checked(learner, tensors, state, source, with_opt=with_opt, strict=strict)
    except Exception as cause:
        learner.opt = opt  # the check may have made one
        if isinstance(cause, _MALFORMED):
            raise CheckpointError(f"{source} is not what learn.save writes: {cause!r}.") from cause
        raise
    _apply(learner, loadable, state, with_opt=with_opt)


class _Loadable(NamedTuple):
    """A checkpoint that fits a learner; loading it cannot fail."""

    weights: Mapping[str, Tensor]
    buffers: Mapping[str, Tensor]  # outside of the state dict
    moments: Mapping[str, Tensor]  # of the optimizer
    optimizer: Mapping[str, Any] | None
    random: tuple[Mapping[str, Tensor], Mapping[str, Any]]
    history: History
    notes: tuple[str, ...]  # to warn of


def _checked(
    learner: LearnerState,
    tensors: Mapping[str, Tensor],
    state: Mapping[str, Any],
    source: str,
    *,
    with_opt: bool,
    strict: bool | None,
) -> _Loadable:
    model = learner.groups.model  # without the wrapper of torch.compile
    weights, unfit = under_prefix("model", tensors), ""
    if strict is not False:
        check_weights(model, weights, source)
    else:
        weights, unfit = fitting_weights(model, weights, source)
        unfit = unfit and f"{unfit} Loaded {len(weights)} that fit; the others stay."
    buffers, misfits = _loadable_buffers(model, under_prefix("buffer", tensors))
    if misfits and strict:
        raise CheckpointError(f"{source}: {misfits}")
    _check_classes(learner, state, source)
    groups = learner.layer_groups
    difference = compare_groups(state["groups"], groups.state_dict())
    if strict and difference:
        raise CheckpointError(f"{source} has other layer groups than this model. {difference}")
    taken_over(state["groups"], groups.names, groups.rates, strict=False)
    optimizer, moments = state["optimizer"] if with_opt else None, {}
    if optimizer is not None:
        moments = {
            name: moment
            for name, moment in under_prefix("optimizer", tensors).items()
            if name.partition("/")[2] in weights
        }
        values = {name: v for name, v in optimizer["values"].items() if name in weights}
        optimizer = {**optimizer, "values": values}
        check_optimizer(learner.made_optimizer(), model, moments, optimizer)
    random = _random_of(learner, tensors, state)
    load_random_state(*random, trial=True)
    _check_values(learner, state)
    history = History.from_dict(state["history"])
    other = f"The checkpoint has other layer groups than this model. {difference}"
    notes = (unfit, f"{source}: {misfits}" if misfits else "", other if difference else "")
    return _Loadable(weights, buffers, moments, optimizer, random, history, notes)


def _check_classes(learner: LearnerState, state: Mapping[str, Any], source: str) -> None:
    """Refuse a head whose outputs have the right number but other meanings."""
    saved, ours = state.get("classes") or [], list(learner.data.vocab)
    if len(saved) != len(ours) or saved == ours:  # of other numbers the shapes differ
        return
    same = set(saved) == set(ours)
    raise CheckpointError(
        f"{source} has the classes {first_few(saved)}, these data have "
        f"{first_few(ours)}{', the same in another order' if same else ''}. Give the data "
        f"vocab={saved if len(saved) < 10 else '[...]'}, or copy by class name: load into a "
        "learner with the classes of the file, then transplant(that, this)."
    )


def _check_values(learner: LearnerState, state: Mapping[str, Any]) -> None:
    for name in ("epochs_done", "fits_done"):
        whole_number(name, state[name], 0, 1, CheckpointError)
    if not isinstance(state.get("pretrained"), bool | None):
        raise TypeError("pretrained is not true, false or null")
    if not all(isinstance(kept, bool) for kept in state["norms"].values()):
        raise TypeError("norms are not all true or false")
    if state["groups"].get("norm", "freeze") not in ("freeze", "train"):
        raise ValueError("norm of the groups")
    for stored in state["store"]:
        tuple(map(int, (*stored["groups"], *stored["views"], stored["mark"])))
    scaler = _scaler_state(learner)
    if state["scaler"] and scaler is not None and scaler.keys() - state["scaler"].keys():
        raise KeyError("scaler")


def _apply(
    learner: LearnerState, loadable: _Loadable, state: Mapping[str, Any], *, with_opt: bool
) -> None:
    for note in filter(None, loadable.notes):
        _log.warning("%s", note)
    model = learner.groups.model
    copy_weights(model, loadable.weights)
    _load_buffers(model, loadable.buffers)
    learner.layer_groups.load_state_dict(state["groups"], strict=False)
    learner.norms.load_state_dict(model, state["norms"])
    if loadable.optimizer is not None:
        made = learner.made_optimizer()
        unknown = load_optimizer_state(made, model, loadable.moments, loadable.optimizer)
        if unknown:
            _log.warning(
                "The optimizer state of %s belongs to no parameter of this learner.", unknown
            )
    elif with_opt and learner.opt is not None:
        learner.opt.state.clear()
    if state["scaler"] and learner.accelerator.scaler is not None:
        learner.accelerator.scaler.load_state_dict(dict(state["scaler"]))
    learner.pretrained = state.get("pretrained", learner.pretrained)  # earlier releases lack it
    learner.history = loadable.history
    learner.epochs_done, learner.fits_done = state["epochs_done"], state["fits_done"]
    learner.cache.load_state_dict(state["store"])
    load_random_state(*loadable.random)


def _random_of(
    learner: LearnerState, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
    """The random states of this process; those of the main one if there were others then."""
    ranks = join_tensors(state.get("ranks", []), tensors)
    if len(ranks) == learner.processes.world > 1:
        own: tuple[Mapping[str, Tensor], Mapping[str, Any]] = tuple(ranks[learner.processes.rank])
        return own
    return under_prefix("random", tensors), state["random"]


def check_resumable(learner: LearnerState, saved: Saved) -> None:
    """Refuse a model with other weights or layers than that with which the run began."""
    source, model = str(saved.path), learner.groups.model
    check_weights(model, under_prefix("model", saved.tensors), source)
    if saved.state.get("structure") != structure_of(model):
        raise CheckpointError(
            f"{source} is of a model with the same weights but other layers than this one. Make "
            "the learner as it was made when this was saved."
        )


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Weights and all buffers, not copied; with FSDP2 every process must call this."""
    tensors = with_prefix("model", model.state_dict())
    return whole(tensors | with_prefix("buffer", _other_buffers(model)))


def put_weights(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Copy what `weights_of` gave, or a checkpoint's weights and buffers; all or nothing."""
    weights = under_prefix("model", tensors)
    check_weights(model, weights, source)
    buffers, misfits = _loadable_buffers(model, under_prefix("buffer", tensors))
    if misfits:
        _log.warning("%s: %s", source, misfits)
    copy_weights(model, weights)
    _load_buffers(model, buffers)


def _loadable_buffers(
    model: nn.Module, saved: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], str]:
    """Buffers outside of the state dict that fit, and a text on those that do not.

    Some models size such buffers by their last input, so a different shape is not always a fault.
    """
    own = _other_buffers(model)
    fitting = {n: t for n, t in saved.items() if n in own and own[n].shape == t.shape}
    misfits = [
        f"{n} (saved {tuple(saved[n].shape)}, here {tuple(own[n].shape)})"
        for n in own.keys() & saved.keys() - fitting.keys()
    ]
    text = (
        f"buffers outside of the state dict have a different shape: {first_few(sorted(misfits))}. "
        "They keep the values that they have in this model."
    )
    return fitting, text if misfits else ""


def _other_buffers(model: nn.Module) -> dict[str, Tensor]:
    kept = model.state_dict().keys()
    return {name: buffer for name, buffer in model.named_buffers() if name not in kept}


def _load_buffers(model: nn.Module, fitting: Mapping[str, Tensor]) -> None:
    own = _other_buffers(model)
    with torch.no_grad():
        for name, tensor in fitting.items():
            own[name].copy_(tensor)


def _scaler_state(learner: LearnerState) -> dict[str, Any] | None:
    scaler = learner.accelerator.scaler
    return None if scaler is None else dict(scaler.state_dict())
