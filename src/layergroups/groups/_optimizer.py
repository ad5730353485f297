"""An optimizer of layer groups: its parameter groups, and how it follows the model after surgery.

Each layer group, also a frozen one, has two parameter groups, with and without weight decay, so
freezing never rebuilds the optimizer. Parameter groups without the key "layer_group" belong to the
user and are never changed.
"""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.hooks import RemovableHandle

from layergroups._formatting import first_few
from layergroups._torch import is_sharded
from layergroups.errors import GroupingError
from layergroups.groups._surgery import ModelSnapshot, TensorMeta, meta_of

_log = logging.getLogger("layergroups")
Members = tuple[str, Sequence[tuple[str, nn.Parameter]]]  # a group's name, its named parameters
StepHook = Callable[[Optimizer, Any, Any], None]
Decays = Callable[[str, nn.Parameter], bool]  # whether weight decay applies to a parameter

# names in networks of torchvision, timm and transformers, with all of timm's `no_weight_decay()`
# except those of layers that compute positions
_NO_DECAY_NAMES = re.compile(
    r"(^|\.|_)(bias|biases|tokens?(_?\d+)?|gamma|logit_scale|rel_pos_[hw]|(patch|pixel)_pos"
    r"|pos_embed(_\w+)?|position_embedding\w*(\.weight)?)$"
)


def decays(name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: not to vectors (biases, norms), tokens and positions."""
    if (not is_lazy(parameter) and parameter.ndim <= 1) or _NO_DECAY_NAMES.search(name):
        return False
    return "relative_position_bias_table" not in name and "pos_embedding" not in name


def parameter_groups(
    members: Sequence[Members],
    rates: Sequence[float],
    weight_decay: float,
    has_decay: Decays = decays,
) -> list[dict[str, Any]]:
    """Two for each layer group, with its index and a name such as "head/decay".

    Empty ones wait for parameters that are added later, but not with FSDP2: torch does not load
    the state of an optimizer that has more than one.
    """
    sharded = any(is_sharded(p) for _, named in members for _, p in named)
    made = [
        {
            "params": [p for n, p in named if has_decay(n, p) == decaying],
            "lr": rates[i],
            "weight_decay": weight_decay if decaying else 0.0,
            "layer_group": i,
            "name": f"{group}/{'decay' if decaying else 'no_decay'}",
        }
        for i, (group, named) in enumerate(members)
        for decaying in (True, False)
    ]
    return [group for group in made if group["params"] or not sharded]


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """The optimizer itself, inside the wrapper that accelerate puts around it."""
    inner = getattr(optimizer, "optimizer", None)
    while isinstance(inner, Optimizer):
        optimizer, inner = inner, getattr(inner, "optimizer", None)
    return optimizer


def share_state(optimizer: Optimizer) -> None:
    """Let a wrapper such as timm's Lookahead have the state of the optimizer that it steps."""
    inner = _stepped(optimizer)
    if inner is not optimizer and not optimizer.state:
        optimizer.state = inner.state


def _stepped(optimizer: Optimizer) -> Optimizer:
    """The optimizer inside of a wrapper such as Lookahead, which calls no hooks itself."""
    inner = getattr(optimizer, "_base_optimizer", None)
    return inner if isinstance(inner, Optimizer) else optimizer


def own_param_groups(optimizer: Optimizer) -> list[dict[str, Any]]:
    """The parameter groups of an optimizer that belong to layer groups."""
    return [group for group in optimizer.param_groups if "layer_group" in group]


def check_attachable(optimizer: Optimizer, names: Sequence[str]) -> None:
    if not isinstance(optimizer, Optimizer) or not own_param_groups(optimizer):
        raise GroupingError(
            "this optimizer was not made from the layer groups; make it with "
            "torch.optim.AdamW(groups.param_groups(lr=1e-3, weight_decay=0.01))"
        )
    found = {str(group["name"]).rpartition("/")[0] for group in own_param_groups(optimizer)}
    if not found <= set(names):
        raise GroupingError(
            f"this optimizer has the layer groups {sorted(found)}, these are {list(names)}; make "
            "one from them: torch.optim.AdamW(groups.param_groups(lr=1e-3))"
        )


def add_missing_groups(
    optimizer: Optimizer,
    members: Sequence[Members],
    rates: Sequence[float],
    has_decay: Decays = decays,
) -> None:
    """Add missing parameter groups of the layer groups that an optimizer has.

    People leave out empty ones, but parameters that are added later may need them. A missing group
    that has parameters now was left out on purpose: a different optimizer may hold them.
    """
    ours = own_param_groups(optimizer)
    present, held = {g["name"] for g in ours}, {g["layer_group"] for g in ours}
    decaying = (g["weight_decay"] for g in ours if str(g["name"]).endswith("/decay"))
    weight_decay = next(decaying, optimizer.defaults.get("weight_decay", 0.0))
    left_out: list[str] = []
    for made in parameter_groups(members, rates, weight_decay, has_decay):
        if made["layer_group"] not in held or made["name"] in present:
            continue
        if made["params"]:
            left_out.append(made["name"])
            continue
        if "initial_lr" in ours[0]:
            raise GroupingError(
                f"the optimizer lacks the parameter group {made['name']!r}, and has a scheduler "
                "already; call groups.attach(optimizer) before you make the scheduler"
            )
        optimizer.add_param_group({**made, "params": []})
    if left_out:
        _log.warning(
            "The optimizer lacks %s: these parameters train only if a different one has them.",
            first_few(left_out),
        )


def reconcile(optimizer: Optimizer, members: Sequence[Members], has_decay: Decays = decays) -> None:
    """Give each parameter group the parameters it should have now; survivors retain their state."""
    made = parameter_groups(members, [0.0] * len(members), 0.0, has_decay)
    wanted = {group["name"]: group["params"] for group in made}
    others = [group for group in optimizer.param_groups if "layer_group" not in group]
    theirs = {id(p) for group in others for p in group["params"]}
    for group in own_param_groups(optimizer):
        group["params"] = [p for p in wanted.get(group["name"], ()) if id(p) not in theirs]
    present = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in [p for p in optimizer.state if id(p) not in present]:
        del optimizer.state[parameter]
    for group in own_param_groups(optimizer):
        if isinstance(optimizer, SGD) and group.get("fused") and group.get("momentum"):
            _fill_momentum(optimizer, group["params"])


def _fill_momentum(optimizer: Optimizer, parameters: Iterable[nn.Parameter]) -> None:
    # fused SGD needs the momentum of all parameters of a group, or of none; zeros give new ones
    # the same first step as no momentum if `dampening` is 0
    states = [optimizer.state[p] for p in parameters if p in optimizer.state]
    if not any(state.get("momentum_buffer") is not None for state in states):
        return
    for parameter in parameters:
        if optimizer.state[parameter].get("momentum_buffer") is None:
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)


def change_rates(optimizer: Optimizer, before: Sequence[float], rates: Sequence[float]) -> None:
    """Apply new base rates; a scheduler of torch retains its current multiplier."""
    ours = own_param_groups(optimizer)
    own = any("max_lr" in group for group in ours)  # OneCycleLR: its initial_lr is not the base
    if any("initial_lr" in group for group in ours):
        for scheduler in _schedulers(optimizer):
            own |= _change_base_rates(scheduler, before, rates)
    for group, multiplier in [(group, _multiplier(group, ours)) for group in ours]:
        old, new = before[group["layer_group"]], rates[group["layer_group"]]
        if own and old:
            for key in ("lr", "initial_lr", "max_lr", "min_lr"):
                if key in group:
                    _write(group, key, float(group[key]) * (new / old))
            continue
        _write(group, "lr", new * multiplier)
        if "initial_lr" in group:
            _write(group, "initial_lr", new)


def _schedulers(optimizer: Optimizer) -> list[LRScheduler]:
    # an optimizer does not know its schedulers; each refers to it by an attribute
    found = gc.get_referrers(optimizer)
    found += gc.get_referrers(*(d for d in found if isinstance(d, dict) and "optimizer" in d))
    return [s for s in found if isinstance(s, LRScheduler) and s.optimizer is optimizer]


def _change_base_rates(
    scheduler: LRScheduler, before: Sequence[float], rates: Sequence[float]
) -> bool:
    """Change the base rates that a scheduler stores itself, which `LambdaLR` and others use.

    Returns whether they are its own, not those of the groups, as in `CyclicLR`.
    """
    bases = getattr(scheduler, "base_lrs", [])
    peaks = getattr(scheduler, "max_lrs", None)
    for i, group in enumerate(scheduler.optimizer.param_groups[: len(bases)]):
        if "layer_group" in group:
            old, new = before[group["layer_group"]], rates[group["layer_group"]]
            if peaks and old:
                bases[i] *= new / old
                peaks[i] *= new / old
            else:
                bases[i] = new
    return peaks is not None


def _multiplier(group: Mapping[str, Any], ours: Sequence[Mapping[str, Any]]) -> float:
    """What a scheduler makes of the base rate; for a rate of 0, what it makes of other rates."""
    for known in (group, *ours):
        base = float(known.get("initial_lr", 0.0))
        if base:
            return float(known["lr"]) / base
    return 1.0


def _write(group: dict[str, Any], key: str, value: float) -> None:
    if isinstance(group[key], Tensor):  # a compiled or captured step reads this very tensor
        group[key].fill_(value)
    else:
        group[key] = value


def follow(
    optimizer: Optimizer,
    members: Sequence[Members],
    has_decay: Decays,
    old: ModelSnapshot,
    now: ModelSnapshot,
    converted: Mapping[nn.Parameter, nn.Parameter],
) -> None:
    """Update an optimizer after surgery; `old` has `converted` parameters (new -> old)."""
    for new, source in converted.items():
        if source in optimizer.state:
            optimizer.state[new] = optimizer.state.pop(source)
    reconcile(optimizer, members, has_decay)
    for parameter, was in old.metas.items():
        if now.metas.get(parameter, was) != was:
            _convert_state(optimizer, parameter, was)
    place_steps(optimizer)


def _convert_state(optimizer: Optimizer, parameter: nn.Parameter, was: TensorMeta) -> None:
    """Convert the state of a parameter to its type and device, as `load_state_dict` would.

    A tensor of a type unlike the parameter's retains it, and step counts stay exact. The state is
    deleted if the shape differs, or if it is lost on the meta device.
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
    """Move step counts of fused and capturable optimizers to the devices of the parameters."""
    for group in optimizer.param_groups:
        if not (group.get("fused") or group.get("capturable")):
            continue
        for parameter in group["params"]:
            step = optimizer.state.get(parameter, {}).get("step")
            if isinstance(step, Tensor) and not parameter.is_meta:
                optimizer.state[parameter]["step"] = step.to(parameter.device)


# -- the hook before each step -------------------------------------------------------------------

# outside the optimizer, so that its copies and pickles do not have the hook
_BOUND: WeakKeyDictionary[Optimizer, tuple[StepHook, RemovableHandle]] = WeakKeyDictionary()


def bind(optimizer: Optimizer, before_step: StepHook) -> None:
    """Call this before each step of an optimizer, instead of any function bound before."""
    if optimizer in _BOUND:
        _BOUND.pop(optimizer)[1].remove()
    _BOUND[optimizer] = before_step, _stepped(optimizer).register_step_pre_hook(before_step)


def bound_to(before_step: StepHook) -> Iterator[Optimizer]:
    """Optimizers that call this before each step."""
    for optimizer, (hook, _) in list(_BOUND.items()):
        if hook == before_step:
            yield optimizer
