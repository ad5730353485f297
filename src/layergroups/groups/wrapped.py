"""A loop of one's own under torch's DistributedDataParallel: the wrapper must not go stale."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from layergroups.errors import GroupingError
from layergroups.groups.partition import some


def guard(model: nn.Module) -> None:
    """Let a DistributedDataParallel refuse to train other parameters than it was made for.

    It exchanges the gradients of those parameters that required one when it was made. One that is
    thawed or put in later would be trained by each process for itself, and the copies would drift
    apart without a word; one that is frozen later would be waited for.

    Args:
        model: as it was given to `LayerGroups`, with the parameters still as they were when it was
            wrapped; anything but such a wrapper is left as it is.
    """
    if isinstance(model, DistributedDataParallel):
        exchanged = tuple(p for p in model.parameters() if p.requires_grad)
        model.register_forward_pre_hook(partial(_refuse_stale, exchanged))


def _refuse_stale(exchanged: tuple[nn.Parameter, ...], wrapper: nn.Module, _: Any) -> None:
    assert isinstance(wrapper, DistributedDataParallel)
    if not (wrapper.training and torch.is_grad_enabled()):
        return
    known = {id(p) for p in exchanged}
    named = list(wrapper.module.named_parameters())
    trains = {id(p): name for name, p in named if p.requires_grad}
    new = [name for i, name in trains.items() if i not in known]
    idle = [] if wrapper.find_unused_parameters else known - trains.keys()
    if new or idle:
        what = f"{some(new, 3)} would be trained by each process for itself" if new else (
            f"{len(idle)} that do not train any more would be waited for"
        )  # fmt: skip
        raise GroupingError(
            f"this DistributedDataParallel was made when other parameters trained: {what}. Make it "
            "anew after each change, DistributedDataParallel(groups.model), or do without it: "
            "layergroups.training.average_gradients(groups) after backward"
        )
