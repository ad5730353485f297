"""An optimizer of layer groups: its parameter groups, and how it follows the model after surgery.

Two parameter groups for each layer group, with and without weight decay, always all of them: frozen
groups are in the optimizer from the first step, so that freezing never rebuilds it. Parameter
groups without the key "layer_group" are the user's own, and are never touched.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import SGD, Optimizer
from torch.utils.hooks import RemovableHandle

from layergroups.errors import GroupingError
from layergroups.groups._surgery import ModelSnapshot, TensorMeta, meta_of

Members = tuple[str, Sequence[tuple[str, nn.Parameter]]]  # a group's name, its named parameters
StepHook = Callable[[Optimizer, Any, Any], None]

# the names that the networks of torchvision, timm and transformers give them; what timm's
# `no_weight_decay()` lists is in them, but for layers that compute positions
_NO_DECAY_NAMES = re.compile(
    r"(^|\.|_)(bias|biases|tokens?(_?\d+)?|gamma|logit_scale|rel_pos_[hw]|(patch|pixel)_pos"
    r"|pos_embed(_\w+)?|position_embedding\w*(\.weight)?)$"
)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to biases, norms and other vectors, tokens, positions."""
    if (not is_lazy(parameter) and parameter.ndim <= 1) or _NO_DECAY_NAMES.search(name):
        return False
    return "relative_position_bias_table" not in name and "pos_embedding" not in name


def parameter_groups(
    members: Sequence[Members], rates: Sequence[float], weight_decay: float
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
    return [
        {
            "params": [p for n, p in named if decays(n, p) == decaying],
            "lr": rates[i],
            "weight_decay": weight_decay if decaying else 0.0,
            "layer_group": i,
            "name": f"{group}/{'decay' if decaying else 'no_decay'}",
        }
        for i, (group, named) in enumerate(members)
        for decaying in (True, False)
    ]


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer itself, inside the wrapper that accelerate puts around it."""
    inner = getattr(optimizer, "optimizer", None)
    while isinstance(inner, Optimizer):
        optimizer, inner = inner, getattr(inner, "optimizer", None)
    return optimizer


def _ours(optimizer: Optimizer) -> list[dict[str, Any]]:
    return [group for group in optimizer.param_groups if "layer_group" in group]


def check_attachable(optimizer: Optimizer, names: Sequence[str]) -> None:
    """An optimizer can follow layer groups only if its parameter groups say which they are.

    Raises:
        GroupingError: it was not made from `groups.param_groups(...)`, or not of these groups.
    """
    if not isinstance(optimizer, Optimizer) or not _ours(optimizer):
        raise GroupingError(
            "this optimizer was not made from the layer groups; make it with "
            "torch.optim.AdamW(groups.param_groups(lr=1e-3, weight_decay=0.01))"
        )
    theirs = {str(group["name"]).rpartition("/")[0] for group in _ours(optimizer)}
    if not theirs <= set(names):
        raise GroupingError(
            f"this optimizer has the layer groups {sorted(theirs)}, these are {list(names)}; make "
            "one from them: torch.optim.AdamW(groups.param_groups(lr=1e-3))"
        )


def add_missing_groups(
    optimizer: Optimizer, members: Sequence[Members], rates: Sequence[float]
) -> None:
    """Add the parameter groups that an optimizer lacks of the layer groups that it has.

    People leave out empty ones, but parameters that come later may need them.

    Raises:
        GroupingError: one is missing, and a scheduler counts the parameter groups already.
    """
    ours = _ours(optimizer)
    present, held = {g["name"] for g in ours}, {g["layer_group"] for g in ours}
    own = optimizer.defaults.get("weight_decay", 0.0)
    weight_decay = next((g["weight_decay"] for g in ours if str(g["name"]).endswith("/decay")), own)
    for made in parameter_groups(members, rates, weight_decay):
        if made["layer_group"] not in held or made["name"] in present:
            continue
        if "initial_lr" in ours[0]:
            raise GroupingError(
                f"the optimizer lacks the parameter group {made['name']!r}, and its scheduler "
                "counts those that it has; call groups.attach(optimizer) before the scheduler is "
                "made"
            )
        optimizer.add_param_group({**made, "params": []})


def reconcile(optimizer: Optimizer, members: Sequence[Members]) -> None:
    """Give each parameter group the parameters it should hold now.

    Survivors keep their state, dead ones and their state are dropped, new ones start without any.
    """
    wanted = {g["name"]: g["params"] for g in parameter_groups(members, [0.0] * len(members), 0.0)}
    own = [group for group in optimizer.param_groups if "layer_group" not in group]
    theirs = {id(p) for group in own for p in group["params"]}
    for group in _ours(optimizer):
        group["params"] = [p for p in wanted[group["name"]] if id(p) not in theirs]
    alive = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in [p for p in optimizer.state if id(p) not in alive]:
        del optimizer.state[parameter]
    for group in _ours(optimizer):
        if isinstance(optimizer, SGD) and group.get("fused") and group.get("momentum"):
            _fill_momentum(optimizer, group["params"])


def _fill_momentum(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    """Torch's fused SGD wants the momentum of all parameters of a group, or of none.

    New ones get zeros, from which the first step is what it would be (if `dampening` is 0).
    """
    states = [optimizer.state[p] for p in parameters if p in optimizer.state]
    if not any(state.get("momentum_buffer") is not None for state in states):
        return
    for parameter in parameters:
        if optimizer.state[parameter].get("momentum_buffer") is None:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


# -- rates ---------------------------------------------------------------------------------------


def begin_with_rates(optimizer: Optimizer, rates: Sequence[float]) -> None:
    """The base rates of the layer groups, where no scheduler has begun to multiply them."""
    for group in _ours(optimizer):
        if "initial_lr" not in group:
            _write(group, "lr", rates[group["layer_group"]])


def change_rates(optimizer: Optimizer, before: Sequence[float], rates: Sequence[float]) -> None:
    """Follow a change of base rates; the multiplier that a scheduler has reached stays.

    What torch's schedulers keep in the parameter groups changes in the same proportion.
    """
    for group in _ours(optimizer):
        old, new = before[group["layer_group"]], rates[group["layer_group"]]
        for key in ("lr", "initial_lr", "max_lr", "min_lr"):
            if key not in group or old == new:
                continue
            value = float(group[key])
            if value == old or old == 0:
                _write(group, key, new)
            else:
                _write(group, key, value * (new / old))


def _write(group: dict[str, Any], key: str, value: float) -> None:
    if isinstance(group[key], Tensor):  # a compiled or captured step reads this very tensor
        group[key].fill_(value)
    else:
        group[key] = value


# -- after surgery -------------------------------------------------------------------------------


def follow(
    optimizer: Optimizer,
    members: Sequence[Members],
    old: ModelSnapshot,
    now: ModelSnapshot,
    converted: Mapping[nn.Parameter, nn.Parameter],
) -> None:
    """Bring an optimizer in step with a model after surgery.

    Args:
        optimizer: made from the layer groups.
        members: for each layer group its name and its named parameters, as they are now.
        old: the model before, `converted` parameters in the place of those that they come from.
        now: the model as it is.
        converted: new parameter -> the old one that it is in another type or on another device.
    """
    for new, source in converted.items():
        if source in optimizer.state:
            optimizer.state[new] = optimizer.state.pop(source)
    reconcile(optimizer, members)
    for parameter, was in old.metas.items():
        if now.metas.get(parameter, was) != was:
            _convert_state(optimizer, parameter, was)
    place_steps(optimizer)


def _convert_state(optimizer: Optimizer, parameter: nn.Parameter, was: TensorMeta) -> None:
    """Bring the state of a parameter to the type and device that the parameter has now.

    As `Optimizer.load_state_dict` has it; what had another type than the parameter keeps its own,
    and counts of steps stay exact. For another shape, or where the moments are lost because they
    were on the meta device, the state starts afresh.
    """
    state = optimizer.state.get(parameter)
    if not state:
        return
    lost = any(isinstance(v, Tensor) and v.is_meta for v in state.values())
    if meta_of(parameter).shape != was.shape or (lost and not parameter.is_meta):
        del optimizer.state[parameter]
        return
    for key, value in state.items():
        if isinstance(value, Tensor) and key != "step":
            state[key] = _converted(value, parameter, was)


def _converted(value: Tensor, parameter: nn.Parameter, was: TensorMeta) -> Tensor:
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


# -- the hook before each step -------------------------------------------------------------------

# an optimizer that is copied or pickled leaves the hook behind
_BOUND: WeakKeyDictionary[Optimizer, tuple[StepHook, RemovableHandle]] = WeakKeyDictionary()


def bind(optimizer: Optimizer, before_step: StepHook) -> None:
    """Call this before each step of an optimizer from now on, and what was bound before no more."""
    if optimizer in _BOUND:
        _BOUND.pop(optimizer)[1].remove()
    _BOUND[optimizer] = before_step, optimizer.register_step_pre_hook(before_step)


def bound_to(before_step: StepHook) -> Iterator[Optimizer]:
    """The living optimizers that call this before each step."""
    for optimizer, (hook, _) in list(_BOUND.items()):
        if hook == before_step:
            yield optimizer
