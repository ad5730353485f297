"""Groups and rates -> an optimizer's parameter groups, and repair of an optimizer after surgery.

Two parameter groups for each layer group, with and without weight decay, always all of them: frozen
groups are in the optimizer from the first step, so that freezing never rebuilds it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim import SGD, Optimizer

from layergroups.errors import GroupingError

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
