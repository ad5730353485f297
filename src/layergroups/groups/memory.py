"""What an optimizer remembers of a parameter, and how that follows the parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from layergroups.groups.optimizer import Members, reconcile
from layergroups.groups.standing import Standing
from layergroups.groups.surgery import Form, form_of


def follow(
    optimizer: Optimizer,
    members: Sequence[Members],
    old: Standing,
    now: Standing,
    heirs: Mapping[nn.Parameter, nn.Parameter],
) -> None:
    """Bring an optimizer in step with a model after surgery.

    Args:
        optimizer: made from the layer groups.
        members: for each layer group its name and its named parameters, as they are now.
        old: where everything stood before, heirs in the place of what they are conversions of.
        now: where everything stands.
        heirs: those conversions: new parameter -> old one.
    """
    _inherit(optimizer, heirs)
    reconcile(optimizer, members)
    for parameter, was in old.forms.items():
        if now.forms.get(parameter, was) != was:
            _refit(optimizer, parameter, was)
    place_steps(optimizer)


def _inherit(optimizer: Optimizer, heirs: Mapping[nn.Parameter, nn.Parameter]) -> None:
    """Give each new parameter what is remembered of the old one that it is a conversion of."""
    for heir, old in heirs.items():
        if old in optimizer.state:
            optimizer.state[heir] = optimizer.state.pop(old)


def _refit(optimizer: Optimizer, parameter: nn.Parameter, was: Form) -> None:
    """Bring what is remembered of a parameter to the form that the parameter has now.

    Moments follow the type and device, as `Optimizer.load_state_dict` has it; what had another type
    than the parameter keeps its own. Counts of steps stay exact. For another shape, or where
    the moments are lost because they were on the meta device, the memory starts afresh.
    """
    memory = optimizer.state.get(parameter)
    if not memory:
        return
    lost = any(isinstance(v, Tensor) and v.is_meta for v in memory.values())
    if form_of(parameter).shape != was.shape or (lost and not parameter.is_meta):
        del optimizer.state[parameter]
        return
    for key, value in memory.items():
        if isinstance(value, Tensor) and key != "step":
            memory[key] = _refitted(value, parameter, was)


def _refitted(value: Tensor, parameter: nn.Parameter, was: Form) -> Tensor:
    dtype = parameter.dtype if value.dtype == was.dtype else value.dtype
    if value.dtype == dtype and value.device == parameter.device:
        return value
    if value.shape != parameter.shape:
        return value.to(parameter.device, dtype)
    return torch.empty_like(parameter, dtype=dtype, requires_grad=False).copy_(value)


def place_steps(optimizer: Optimizer) -> None:
    """Fused and capturable optimizers count steps on the parameter's own device."""
    for group in optimizer.param_groups:
        if not (group.get("fused") or group.get("capturable")):
            continue
        for parameter in group["params"]:
            step = optimizer.state.get(parameter, {}).get("step")
            if isinstance(step, Tensor) and not parameter.is_meta:
                optimizer.state[parameter]["step"] = step.to(parameter.device)
