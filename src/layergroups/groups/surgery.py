"""Notices that a model has changed since it was last looked at, and says what changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import Any

from torch import nn

from layergroups.groups.partition import some


@dataclass(frozen=True)
class Change:
    """What surgery did to a model, and what followed from it.

    Attributes:
        added: for each new parameter its name and the group that it joined.
        removed: names that the parameters which are gone had.
        renamed: for each surviving parameter that moved its old and new name.
        layers: whether layers without parameters came or went.
    """

    added: tuple[tuple[str, str], ...]
    removed: tuple[str, ...]
    renamed: tuple[tuple[str, str], ...]
    layers: bool

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        parts = []
        for group in dict.fromkeys(group for _, group in self.added):
            names = [name for name, g in self.added if g == group]
            parts.append(f"{len(names)} new in group {group!r} ({some(names, 3)})")
        if self.removed:
            parts.append(f"{len(self.removed)} dropped ({some(self.removed, 3)})")
        if self.renamed:
            old, new = self.renamed[0]
            parts.append(f"{len(self.renamed)} moved ({old} → {new})")
        if not parts:
            return "the model changed: layers without parameters"
        return f"the model changed: parameters: {'; '.join(parts)}"


def is_spread(tensor: object) -> bool:
    """Whether each process holds a part of a tensor only, as FSDP2 has it."""
    return hasattr(tensor, "full_tensor")


class Watch:
    """Remembers which objects a model is made of; comparing costs microseconds.

    What is compared are the identities of all modules and parameters in their places, read from the
    modules' own dictionaries, so a change by `setattr`, `del` or through `_modules` counts too.
    """

    def __init__(self, model: nn.Module) -> None:
        self._dicts: list[dict[str, Any]] = []
        for module in model.modules():
            self._dicts += (module._parameters, module._modules)
        self._held: Sequence[object] = list(self._objects())  # held, so that no id is used twice
        self._ids = list(map(id, self._held))

    def _objects(self) -> chain[object]:
        return chain.from_iterable(d.values() for d in self._dicts)

    def changed(self) -> bool:
        """Whether any parameter or module came, went or was exchanged."""
        return list(map(id, self._objects())) != self._ids
