"""One layer group: a part of the view that `LayerGroups` is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import nn

from layergroups.anatomy import Block
from layergroups.errors import GroupIndexError, GroupingError
from layergroups.groups.freezing import Freezing

if TYPE_CHECKING:
    from layergroups.groups.layer_groups import LayerGroups


@dataclass(frozen=True)
class LayerGroup:
    """Consecutive blocks that are trained as a unit; always shows the model as it is now.

    Attributes:
        groups: the layer groups that it is one of.
        index: its place; 0 is nearest the input.
    """

    groups: LayerGroups
    index: int

    @property
    def name(self) -> str:
        """Its name, "early" or "head"."""
        return self.groups.names[self.index]

    @property
    def reason(self) -> str:
        """Why it begins where it does."""
        return self.groups.reasons[self.index]

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Its blocks, in the order of execution."""
        return self.groups._blocks_of(self.index)

    @property
    def layers(self) -> list[nn.Module]:
        """Its leaf modules, in the order of execution."""
        model = self.groups.model
        return [model.get_submodule(path) for path in self.groups._layers_of(self.index)]

    @property
    def frozen(self) -> bool:
        """Whether it is frozen."""
        return self.groups.frozen[self.index]

    @property
    def lr(self) -> float:
        """Its base learning rate, which a schedule multiplies."""
        return self.groups.rates[self.index]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names as in the model, and parameters."""
        return self.groups._members(self.index)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Its parameters."""
        return (p for _, p in self.named_parameters())

    def freeze(self) -> Freezing:
        """Freeze this group alone; with `with`, until the end of the block."""
        return self.groups._set_frozen({self.index: True})

    def unfreeze(self) -> Freezing:
        """Let this group train; with `with`, until the end of the block."""
        return self.groups._set_frozen({self.index: False})

    def __repr__(self) -> str:
        n = sum(p.numel() for p in self.parameters())
        state = "frozen" if self.frozen else f"trains at {self.lr:g}"
        return f"LayerGroup({self.index}, {self.name!r}, {n:,d} parameters, {state})"


def index_of(which: int | str, names: Sequence[str]) -> int:
    """The place, from 0, of the group that a name or an index means; -1 is the last.

    Raises:
        GroupingError: there is no such name, or it is neither.
        GroupIndexError: there is no such index.
    """
    if isinstance(which, str):
        if which not in names:
            raise GroupingError(f"no layer group is called {which!r}; there are {tuple(names)}")
        return names.index(which)
    n = len(names)
    if not isinstance(which, int):
        raise GroupingError(f"a layer group is chosen by name or index, not by {which!r}")
    if not -n <= which < n:
        raise GroupIndexError(
            f"there is no layer group {which} with {n} groups ({', '.join(names)}); give "
            f"{-n} to {n - 1}, or a name"
        )
    return which % n
