"""Notices that a model has changed since it was last looked at."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from operator import is_, itemgetter
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

_PARAMETERS, _MODULES = itemgetter("_parameters"), itemgetter("_modules")
_BOTH = itemgetter("_parameters", "_modules")


@dataclass(frozen=True)
class Form:
    """What of a tensor may change while its parameter stays the same object.

    Attributes:
        dtype: of its numbers.
        device: where they are.
        shape: None for a lazy parameter that has none yet.
    """

    dtype: torch.dtype
    device: torch.device
    shape: tuple[int, ...] | None


def form_of(parameter: nn.Parameter) -> Form:
    """The form of a parameter as it is now."""
    shape = None if is_lazy(parameter) else tuple(parameter.shape)
    return Form(parameter.dtype, parameter.device, shape)


def is_spread(tensor: object) -> bool:
    """Whether each process holds a part of a tensor only, as FSDP2 has it."""
    return hasattr(tensor, "full_tensor")


class Watch:
    """Remembers which objects a model is made of; comparing costs microseconds.

    Compared are the identities of all modules and parameters in their places, read from the
    dictionaries of the modules, so a change by `setattr`, `del` or through `_modules` counts too;
    and the type, device and shape of every parameter, for `model.half()`, `model.to(device)` and
    `p.data = ...` leave the parameter itself in its place.

    `gc.get_referents` gives the values of many dictionaries in one call. A dictionary that holds
    something is looked up in its module each time, for torch itself exchanges whole dictionaries.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        inside = [module.__dict__ for module in model.modules()]
        self._with_parameters = [d for d in inside if _PARAMETERS(d)]
        self._with_modules = [d for d in inside if _MODULES(d)]
        self._empty = [d for pair in map(_BOTH, inside) for d in pair if not d]
        self._held = self._objects()  # held, so that no identity is used twice
        self._names = self._keys()
        self._parameters = list(model.parameters())
        self._forms = list(map(form_of, self._parameters))
        self._same_forms = _quick_check(self._parameters)

    def changed(self, *, names: bool = True) -> bool:
        """Whether a parameter or module came, went or was exchanged, or a tensor changed form.

        Args:
            names: also compare names; one that alone is another matters to no step of an optimizer.
        """
        now = self._objects()
        if len(now) != len(self._held) or not all(map(is_, now, self._held)):
            return True
        if names and self._keys() != self._names:
            return True
        return not self._same_forms() and self._other_forms()

    def __reduce__(self) -> tuple[type[Watch], tuple[nn.Module]]:
        """A copy watches the copied model."""
        return Watch, (self._model,)

    def _objects(self) -> Sequence[object]:
        return gc.get_referents(
            *map(_PARAMETERS, self._with_parameters),
            *map(_MODULES, self._with_modules),
            *self._empty,
        )

    def _keys(self) -> list[str]:
        own = map(_PARAMETERS, self._with_parameters)
        return list(chain(chain.from_iterable(own), *map(_MODULES, self._with_modules)))

    def _other_forms(self) -> bool:
        """The exact comparison, for the quick one also looks at what may change freely."""
        if list(map(form_of, self._parameters)) != self._forms:
            return True
        self._same_forms = _quick_check(self._parameters)
        return False


def _quick_check(parameters: Sequence[nn.Parameter]) -> Callable[[], bool]:
    """A call that is True only if no parameter has changed its form since now.

    torch compares the forms of many tensors in one call for `torch.compile`; where that does not
    work with these parameters, it is never True, and each is compared by itself.
    """
    try:
        from torch._C._dynamo.guards import TensorGuards

        sizes: list[Any] = [list(p.shape) for p in parameters]
        strides: list[Any] = [[None] * p.ndim for p in parameters]
        guards = TensorGuards(*parameters, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
        if parameters and guards.check(*parameters):
            return partial(guards.check, *parameters)
    except Exception:
        pass
    return lambda: False
