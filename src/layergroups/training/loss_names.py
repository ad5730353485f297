"""Losses by name, with weights from the data where they ask for them, and as settings in a file."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from layergroups.errors import CheckpointError, TrainingError
from layergroups.training.class_counts import balanced_weights, positive_weights
from layergroups.training.loaders import Loaders
from layergroups.training.loss_functions import (
    L1,
    BinaryCrossEntropy,
    BinaryFocalLoss,
    CrossEntropy,
    FocalLoss,
    Huber,
    MeanSquaredError,
    NamedLoss,
)
from layergroups.training.losses import LossFunc

LOSSES: Final[dict[str, Callable[[], NamedLoss]]] = {
    "cross_entropy": CrossEntropy,
    "focal": FocalLoss,
    "bce": BinaryCrossEntropy,
    "binary_focal": BinaryFocalLoss,
    "mse": MeanSquaredError,
    "l1": L1,
    "mae": L1,
    "huber": Huber,
}
_OURS: Final[tuple[type[NamedLoss], ...]] = (
    CrossEntropy, FocalLoss, BinaryCrossEntropy, BinaryFocalLoss, MeanSquaredError, L1, Huber,
)  # fmt: skip
_TORCHS: Final[dict[type[nn.Module], tuple[str, ...]]] = {
    nn.CrossEntropyLoss: ("weight", "ignore_index", "label_smoothing"),
    nn.BCEWithLogitsLoss: ("weight", "pos_weight"),
    nn.MSELoss: (),
    nn.L1Loss: (),
    nn.SmoothL1Loss: ("beta",),
    nn.HuberLoss: ("delta",),
}


def as_loss(loss_func: LossFunc | str | type, dls: Loaders) -> LossFunc:
    """A loss from its name; "balanced" weights are taken from the training data.

    Args:
        loss_func: a name of `LOSSES`, an object of this file, or any callable of outputs and
            targets.
        dls: the data of the learner.

    Raises:
        TrainingError: there is no such name, it is a class, or the data do not tell their labels.
    """
    if isinstance(loss_func, str):
        if loss_func not in LOSSES:
            near = difflib.get_close_matches(loss_func, LOSSES, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise TrainingError(
                f"No loss is called {loss_func!r}.{hint} There are {', '.join(LOSSES)}; or give "
                "any function of outputs and targets, such as "
                "torch.nn.functional.cross_entropy."
            )
        return LOSSES[loss_func]()
    if isinstance(loss_func, type):
        raise TrainingError(
            f"loss_func={loss_func.__name__} is a class; give an object: {loss_func.__name__}()."
        )
    if not callable(loss_func):
        raise TrainingError(
            f"loss_func={loss_func!r} cannot be called. Give a name ({', '.join(LOSSES)}) or a "
            "function of outputs and targets."
        )
    if isinstance(loss_func, NamedLoss) and loss_func.own:
        return _weighted(loss_func, dls)
    return loss_func


def describe_loss(loss_func: LossFunc) -> dict[str, Any]:
    """The settings of a loss of this file or of torch.nn, JSON-ready; none of any other."""
    if isinstance(loss_func, _OURS):
        settings = asdict(loss_func)
        return {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}
    names = _TORCHS.get(type(loss_func), ())  # type: ignore[arg-type] # any other has none
    values = {name: getattr(loss_func, name) for name in names}
    return {n: v.tolist() if isinstance(v, Tensor) else v for n, v in values.items()}


def loss_from(name: str, settings: Mapping[str, Any]) -> LossFunc | None:
    """The inverse of `describe_loss`, by the name of the class; None if it is another's.

    Raises:
        CheckpointError: the settings are not those of this loss.
    """
    ours = {kind.__name__: kind for kind in _OURS}
    torchs = {kind.__name__: kind for kind in _TORCHS}
    kind: Callable[..., Any] | None = ours.get(name) or torchs.get(name)
    if kind is None:
        return None
    values = dict(settings)
    if name in torchs:
        values = {n: torch.tensor(v) if isinstance(v, list) else v for n, v in values.items()}
    try:
        made: LossFunc = kind(**values)
    except (TypeError, TrainingError) as cause:
        raise CheckpointError(
            f"{dict(settings)} are no settings of the loss {name}: {cause}."
        ) from cause
    return made


def _weighted(loss: NamedLoss, dls: Loaders) -> NamedLoss:
    """The loss with the weights that the training data give, where it asks for them."""
    if getattr(loss, loss.own) != "balanced":
        return loss
    count = positive_weights if loss.own == "pos_weight" else balanced_weights
    weights: dict[str, Any] = {loss.own: count(dls)}
    return replace(loss, **weights)
