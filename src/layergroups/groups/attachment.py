"""Which optimizer follows which layer groups, and the hook before its steps.

A hook of the optimizer, not of the model: a model with hooks is copied, compiled and exported
otherwise than one without. An optimizer that is copied or pickled leaves the hook behind.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

if TYPE_CHECKING:
    from layergroups.groups.layer_groups import LayerGroups


@dataclass(frozen=True)
class Attachment:
    """An optimizer's bond with layer groups.

    Attributes:
        groups: whose parameters it holds.
        handle: of the hook before its steps.
    """

    groups: LayerGroups
    handle: RemovableHandle


_ATTACHED: WeakKeyDictionary[Optimizer, Attachment] = WeakKeyDictionary()


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer itself, inside the wrapper that accelerate puts around it."""
    inner = getattr(optimizer, "optimizer", None)
    while isinstance(inner, Optimizer):
        optimizer, inner = inner, getattr(inner, "optimizer", None)
    return optimizer


def bind(optimizer: Optimizer, groups: LayerGroups) -> None:
    """Let an optimizer follow these groups from now on, and no others any more."""
    before = _ATTACHED.pop(optimizer, None)
    if before is not None:
        before.handle.remove()
    handle = optimizer.register_step_pre_hook(partial(_before_step, groups))
    _ATTACHED[optimizer] = Attachment(groups, handle)


def bound_to(groups: LayerGroups) -> Iterator[Optimizer]:
    """The living optimizers that follow these groups."""
    for optimizer, attachment in list(_ATTACHED.items()):
        if attachment.groups is groups:
            yield optimizer


def _before_step(groups: LayerGroups, optimizer: Optimizer, *_: object) -> None:
    if groups._looked:
        groups._looked = False
        return
    change = groups.sync(names=False)
    if change is not None and change.added:
        new = {name for name, _ in change.added}
        _unscale([p for n, p in groups.model.named_parameters() if n in new], optimizer)


def _unscale(newcomers: list[nn.Parameter], optimizer: Optimizer) -> None:
    """Divide gradients that a GradScaler has not seen by its scale; drop those not finite.

    A scaler unscales the gradients of an optimizer's parameters before the step, so those of
    parameters that join at the step are still too large by its factor.
    """
    scaler = _scaler_at_work()
    if scaler is None:
        return
    in_kernel = getattr(optimizer, "grad_scale", None) is not None  # fused optimizers do it
    for parameter in newcomers:
        if parameter.grad is None:
            continue
        if not in_kernel:
            parameter.grad.div_(scaler.get_scale())
        if not bool(torch.isfinite(parameter.grad).all()):
            parameter.grad = None


def _scaler_at_work() -> GradScaler | None:
    """The scaler from whose `step` this is called; it leaves no other trace of itself."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, GradScaler):
            return owner
        frame = frame.f_back
    return None
