"""Which group a place in the module tree belongs to.

Most parameters and layers get their group from the dry run. What did not run, and what surgery
brings in later, gets it from where it stands: from the nearest module whose contents are all of one
group, otherwise from the neighbour registered before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from torch import nn


class Places:
    """For every path in a module tree the groups of what stands below it."""

    def __init__(self, homes: Mapping[str, int]) -> None:
        self.below: dict[str, set[int]] = {}
        for path, group in homes.items():
            for above in (path, *ancestors(path)):
                self.below.setdefault(above, set()).add(group)

    def groups(self, path: str) -> set[int]:
        """The groups of all that stands at or below a path; empty where nothing is known."""
        return self.below.get(path, set())

    def locate(self, path: str, model: nn.Module) -> int:
        """The group that a new parameter or layer at `path` joins."""
        child = path
        for above in ancestors(path):
            known = self.groups(above)
            if len(known) == 1:
                return next(iter(known))
            if known:
                return self._beside(child, above, model)
            child = above
        return 0

    def _beside(self, child: str, above: str, model: nn.Module) -> int:
        if self.groups(child):
            return max(self.groups(child))
        siblings = list(_children(above, model))
        at = siblings.index(child) if child in siblings else len(siblings)
        for sibling in reversed(siblings[:at]):
            if self.groups(sibling):
                return max(self.groups(sibling))
        for sibling in siblings[at + 1 :]:
            if self.groups(sibling):
                return min(self.groups(sibling))
        return max(self.groups(above))


def ancestors(path: str) -> Iterator[str]:
    """The paths above a path, nearest first, ending with the root ""."""
    while path:
        path = path.rpartition(".")[0]
        yield path


def _children(path: str, model: nn.Module) -> Iterator[str]:
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return
    names: Iterable[str] = [*module._parameters, *module._modules]
    yield from (f"{path}.{name}" if path else name for name in names)


def leaf_paths(model: nn.Module) -> list[str]:
    """Paths of the modules without children, in the order of registration."""
    return [path for path, m in model.named_modules() if not any(m.children())]
