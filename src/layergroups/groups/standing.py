"""Where every parameter of a model stood when it was last looked at, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from layergroups.groups.places import leaf_paths
from layergroups.groups.surgery import Form, form_of


@dataclass(frozen=True)
class Standing:
    """A model as it was; holds its parameters, so that no identity is used twice.

    Attributes:
        names: all names of each parameter; the first is the one that torch lists it by.
        owners: by name, the module that holds it.
        forms: type, device and shape of each parameter.
        leaves: paths of the modules without children.
        adapted: whether it has adapters of peft.
    """

    names: Mapping[nn.Parameter, tuple[str, ...]]
    owners: Mapping[str, nn.Module]
    forms: Mapping[nn.Parameter, Form]
    leaves: tuple[str, ...]
    adapted: bool

    def first(self, parameter: nn.Parameter) -> str:
        """The name by which torch lists a parameter."""
        return self.names[parameter][0]

    def succeeded_by(self, heirs: Mapping[nn.Parameter, nn.Parameter]) -> Standing:
        """The same with heirs in the place of the parameters that they are conversions of."""
        if not heirs:
            return self
        new = {old: heir for heir, old in heirs.items()}
        return replace(
            self,
            names={new.get(p, p): names for p, names in self.names.items()},
            forms={new.get(p, p): form for p, form in self.forms.items()},
        )


def take_standing(model: nn.Module) -> Standing:
    """Look at a model as it is now."""
    names: dict[nn.Parameter, tuple[str, ...]] = {}
    owners: dict[str, nn.Module] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for key, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{path}.{key}" if path else key
                names[parameter] = (*names.get(parameter, ()), name)
                owners[name] = module
    forms = {p: form_of(p) for p in names}
    return Standing(names, owners, forms, tuple(leaf_paths(model)), has_adapters(model))


def has_adapters(model: nn.Module) -> bool:
    """Whether a model has layers of peft, which holds all other weights fixed on purpose."""
    return any(
        base.__name__ == "BaseTunerLayer" and base.__module__.startswith("peft.")
        for kind in {type(module) for module in model.modules()}
        for base in kind.__mro__
    )


def conversions(old: Standing, new: Standing) -> dict[nn.Parameter, nn.Parameter]:
    """New parameters that are old ones in another type or on another device -> the old ones.

    `model.to(...)` keeps the parameters, or makes others where torch cannot do so or has been told
    not to (`torch.__future__.set_overwrite_module_params_on_conversion`). Such a one stands in the
    same module at the same name, and has the same values.
    """
    at = {names[0]: p for p, names in old.names.items()}
    heirs: dict[nn.Parameter, nn.Parameter] = {}
    for parameter, names in new.names.items():
        before = at.get(names[0])
        if parameter in old.names or before is None or before in new.names:
            continue
        same_place = old.owners[names[0]] is new.owners[names[0]]
        if same_place and _is_conversion(before, parameter):
            heirs[parameter] = before
    return heirs


def _is_conversion(old: nn.Parameter, new: nn.Parameter) -> bool:
    was, now = form_of(old), form_of(new)
    if was.shape is None or was.shape != now.shape or was == now:
        return False
    if old.is_meta or new.is_meta:
        return True
    return torch.equal(old.detach().to(new), new.detach())
