"""From a name or a class to an optimizer over the layer groups, and its rates at each step."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import torch
from torch.optim import Optimizer

from layergroups._checks import number
from layergroups._formatting import name_of
from layergroups._torch import is_sharded
from layergroups.errors import TrainingError
from layergroups.groups import own_param_groups

OptFunc = str | type[Optimizer] | Callable[..., Optimizer]
Groups = list[dict[str, Any]]
_NAMED_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "sgd": {"momentum": 0.9},
    "nadam": {"decoupled_weight_decay": True},
    "radam": {"decoupled_weight_decay": True},
}
_TIMM: Final = "timm:"


def build_optimizer(opt_func: OptFunc, param_groups: Groups, lr: float) -> Optimizer:
    """Make an optimizer; the fused implementation where torch has one for these parameters.

    Args:
        opt_func: a name from torch.optim in any case ("adamw", "SGD", "RAdam"), one from timm.optim
            ("lamb", "lion"; "timm:adamw" if torch has that name too), a class, or a callable that
            takes parameter groups. By name, SGD has momentum 0.9, and the weight decay of RAdam and
            NAdam is decoupled. timm's Lamb clips the gradient at norm 1 by itself.
        param_groups: what `LayerGroups.param_groups` returns; each has its own rate and decay.
        lr: the default rate, for parameters that join later without one.
    """
    factory, options = factory_of(opt_func)
    options |= _speed_options(factory, param_groups)
    if "lr" in _argument_names(factory):
        options["lr"] = lr
    try:
        optimizer = factory(param_groups, **options)
    except (TypeError, ValueError) as cause:
        raise TrainingError(
            f"opt_func={name_of(opt_func)} could not make an optimizer: {cause}. It is called "
            "with a list of parameter groups; to set options, use "
            f"opt_func=functools.partial(torch.optim.SGD, momentum=0.9).{_other(opt_func)}"
        ) from cause
    if not isinstance(optimizer, Optimizer):
        raise TrainingError(
            f"opt_func={name_of(opt_func)} returned a {type(optimizer).__name__}, not an "
            "optimizer. Give a name or a class, such as opt_func=torch.optim.SGD."
        )
    if not all("layer_group" in group for group in optimizer.param_groups):
        raise TrainingError(
            f"opt_func={name_of(opt_func)} dropped the layer groups. It must hand the list of "
            "groups that it is given to the optimizer as it is."
        )
    return optimizer


def checked_decay(weight_decay: float) -> float:
    return number("weight_decay", weight_decay, 0, math.inf, 0.01)


def checked_clip(clip: float | None) -> float | None:
    return None if clip is None else number("clip", clip, 0, math.inf, 1.0, open_ends=True)


def set_rates(optimizer: Optimizer, rates: Sequence[float], multiplier: float) -> None:
    """Give every parameter group `base rate of its layer group * multiplier`.

    Parameter groups that the user added, without the key "layer_group", are left as they are.
    """
    for group in own_param_groups(optimizer):
        group["lr"] = rates[group["layer_group"]] * multiplier


def set_momentum(optimizer: Optimizer, momentum: float | None) -> None:
    """Set momentum (or the first beta); None puts the optimizer's own value back."""
    for key in ("betas", "momentum"):
        own = optimizer.defaults.get(key)
        if own is None or own == 0:
            continue
        for group in own_param_groups(optimizer):
            if momentum is None:
                group[key] = own
            else:
                group[key] = (momentum, *own[1:]) if isinstance(own, tuple) else momentum


def rates_in_use(optimizer: Optimizer, count: int) -> tuple[float, ...]:
    """The rate of each of `count` layer groups in the optimizer; 0 for one without parameters."""
    lrs = [0.0] * count
    for group in own_param_groups(optimizer):
        lrs[group["layer_group"]] = float(group["lr"])
    return tuple(lrs)


def factory_of(opt_func: OptFunc) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    if not isinstance(opt_func, str):
        if not callable(opt_func):
            raise TrainingError(
                f"opt_func={opt_func!r} is not a name, an optimizer class or a callable. Use for "
                'example opt_func="adamw" or opt_func=torch.optim.SGD.'
            )
        return opt_func, {}
    name = opt_func.lower()
    known = _of_torch()
    if name in known:
        return known[name], dict(_NAMED_OPTIONS.get(name, {}))
    return _of_timm(name.removeprefix(_TIMM), known)


def _of_torch() -> dict[str, type[Optimizer]]:
    return {
        name.lower(): value
        for name, value in vars(torch.optim).items()
        if inspect.isclass(value) and issubclass(value, Optimizer) and value is not Optimizer
    }


def _of_timm(name: str, of_torch: Iterable[str]) -> tuple[Callable[..., Optimizer], dict[str, Any]]:
    from timm.optim import get_optimizer_class, get_optimizer_info, list_optimizers

    if name not in list_optimizers():
        near = difflib.get_close_matches(name, {*of_torch, *list_optimizers()}, 3)
        hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
        raise TrainingError(
            f"No optimizer is called {name!r}.{hint} torch.optim has {sorted(of_torch)}; for those "
            "of timm see timm.optim.list_optimizers()."
        )
    info = get_optimizer_info(name)
    if info.second_order:
        raise TrainingError(
            f'opt_func="timm:{name}" needs gradients of gradients, which no fit computes. Use one '
            'of the first order, such as opt_func="lamb".'
        )
    try:
        made: Callable[..., Optimizer] = get_optimizer_class(name)
    except (ImportError, AssertionError) as cause:
        raise TrainingError(f'opt_func="timm:{name}" cannot be used here: {cause}.') from cause
    return made, {"momentum": 0.9} if info.has_momentum else {}


def _speed_options(factory: Callable[..., Optimizer], param_groups: Groups) -> dict[str, Any]:
    """`fused=True` for a class of torch.optim that has it, if every parameter allows it.

    Not for SGD: its fused form fails if some parameters of a group have no momentum yet.
    """
    of_torch = inspect.isclass(factory) and factory.__module__.split(".")[0] == "torch"
    if factory is torch.optim.SGD or not of_torch or "fused" not in _argument_names(factory):
        return {}
    parameters = [parameter for group in param_groups for parameter in group["params"]]
    for p in parameters:
        if not p.is_floating_point() or p.device.type not in ("cpu", "cuda") or is_sharded(p):
            return {}
    return {"fused": True}


def _other(opt_func: OptFunc) -> str:
    from timm.optim import list_optimizers

    if isinstance(opt_func, str) and opt_func.lower() in list_optimizers():
        return f' timm has one of this name too: opt_func="timm:{opt_func.lower()}".'
    return ""


def _argument_names(factory: Callable[..., object]) -> set[str]:
    try:
        return set(inspect.signature(factory).parameters)
    except (TypeError, ValueError):
        return set()
