"""Groups and rates -> an optimizer's parameter groups, and repair of an optimizer after surgery.

Two parameter groups for each layer group, with and without weight decay, always all of them: frozen
groups are in the optimizer from the first step, so that freezing never rebuilds it.

What an optimizer remembers of a parameter, and how that follows the parameter.

Which optimizer follows which layer groups, and the hook before its steps.

A hook of the optimizer, not of the model: a model with hooks is copied, compiled and exported
otherwise than one without. An optimizer that is copied or pickled leaves the hook behind.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parameter import is_lazy
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle

from layergroups.errors import GroupingError
from layergroups.groups._surgery import ModelSnapshot, TensorMeta, form_of

if TYPE_CHECKING:
    from layergroups.groups._layer_groups import LayerGroups


Members = tuple[str, Iterable[tuple[str, nn.Parameter]]]  # a group's name, its named parameters


_NO_DECAY_NAMES = re.compile(
    r"(^|\.|_)(bias|biases|tokens?(_?\d+)?|gamma|logit_scale|rel_pos_[hw]|(patch|pixel)_pos"
    r"|pos_embed(_\w+)?|position_embedding\w*(\.weight)?)$"
)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to biases, norms and other vectors, tokens, positions.

    These are the names that the networks of torchvision, timm and transformers give them; what
    timm's `no_weight_decay()` lists is in them, but for layers that compute positions.
    """
    if (not is_lazy(parameter) and parameter.ndim <= 1) or _NO_DECAY_NAMES.search(name):
        return False
    return "relative_position_bias_table" not in name and "pos_embedding" not in name


def parameter_groups(
    members: Sequence[Members],
    rates: Sequence[float],
    weight_decay: float,
) -> list[dict[str, Any]]:
    """Parameter groups for any torch optimizer.

    Args:
        members: for each layer group its name and its named parameters.
        rates: its learning rate.
        weight_decay: of the parameters that decay.

    Returns:
        For each layer group i two dicts with "params", "lr", "weight_decay", "layer_group" (i) and
        "name" ("head/decay", "head/no_decay").
    """
    made = []
    for i, (group, named) in enumerate(members):
        listed = list(named)
        for decaying in (True, False):
            made.append(
                {
                    "params": [p for n, p in listed if decays(n, p) == decaying],
                    "lr": rates[i],
                    "weight_decay": weight_decay if decaying else 0.0,
                    "layer_group": i,
                    "name": f"{group}/{'decay' if decaying else 'no_decay'}",
                }
            )
    return made


def check_attachable(optimizer: Optimizer, names: Sequence[str]) -> None:
    """An optimizer can be kept in step only if its groups say which layer group they are.

    Raises:
        GroupingError: it was not made from `groups.param_groups(...)`, or not of these groups.
    """
    made = getattr(optimizer, "param_groups", [{}])
    if any("layer_group" not in group for group in made):
        raise GroupingError(
            "this optimizer was not made from the layer groups; make it with "
            "torch.optim.AdamW(groups.param_groups(lr=1e-3, weight_decay=0.01))"
        )
    theirs = {str(group["name"]).rpartition("/")[0] for group in optimizer.param_groups}
    if not theirs <= set(names):
        raise GroupingError(
            f"this optimizer has the layer groups {sorted(theirs)}, these are {list(names)}; make "
            "one from them: torch.optim.AdamW(groups.param_groups(lr=1e-3))"
        )


def reconcile(optimizer: Optimizer, members: Sequence[Members]) -> None:
    """Give each parameter group the parameters it should hold now.

    Survivors keep their state, dead ones and their state are dropped, new ones start without any.
    Parameter groups that are of no layer group are left as they are.
    """
    wanted = {g["name"]: g["params"] for g in parameter_groups(members, [0.0] * len(members), 0.0)}
    alive: set[int] = set()
    for group in optimizer.param_groups:
        if "layer_group" in group:
            group["params"] = wanted[group["name"]]
        alive.update(id(p) for p in group["params"])
    for parameter in [p for p in optimizer.state if id(p) not in alive]:
        del optimizer.state[parameter]
    for group in optimizer.param_groups:
        if isinstance(optimizer, SGD) and group.get("fused") and group.get("momentum"):
            _fill_momentum(optimizer, group["params"])


def _fill_momentum(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Torch's fused SGD wants the momentum of all parameters of a group, or of none.

    New ones get zeros, from which the first step is what it would be (if `dampening` is 0).
    """
    memories = [optimizer.state[p] for p in parameters if p in optimizer.state]
    if not any(memory.get("momentum_buffer") is not None for memory in memories):
        return
    for parameter in parameters:
        if optimizer.state[parameter].get("momentum_buffer") is None:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def set_optimizer_rates(
    optimizer: Optimizer, rates: Sequence[float], multiplier: Callable[[int], float]
) -> None:
    """Set every parameter group's rate to its layer group's base rate times a multiplier."""
    for group in optimizer.param_groups:
        i = group["layer_group"]
        group["lr"] = rates[i] * multiplier(i)


def follow(
    optimizer: Optimizer,
    members: Sequence[Members],
    old: ModelSnapshot,
    now: ModelSnapshot,
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


def _refit(optimizer: Optimizer, parameter: nn.Parameter, was: TensorMeta) -> None:
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


def _refitted(value: Tensor, parameter: nn.Parameter, was: TensorMeta) -> Tensor:
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
