"""What surgery did to a model, as data and in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from layergroups.groups.partition import some


@dataclass(frozen=True, kw_only=True)
class Tie:
    """One parameter that stands at several places.

    Attributes:
        names: all its names; the first is the one that the groups use.
        group: the group it is counted in, the first that runs it.
        others: groups of its other places.
        frozen: whether it is frozen, as its group is.
        conflict: True where a group of its other places is not as its own is.
    """

    names: tuple[str, ...]
    group: str
    others: tuple[str, ...] = ()
    frozen: bool = False
    conflict: bool = False


@dataclass(frozen=True, kw_only=True)
class Change:
    """What surgery did to a model, and what followed from it.

    Attributes:
        added: for each new parameter its name and the group that it joined.
        removed: names that the parameters which are gone had.
        renamed: for each surviving parameter that moved its old and new name.
        layers: whether layers without parameters came or went.
        tied: parameters that stand at more places than before.
        untied: names of parameters that stand at fewer places than before.
        cast: name, old and new dtype of each parameter of another dtype.
        moved: name, old and new device of each parameter on another device.
        reshaped: name, old and new shape; the optimizer's state of these starts afresh.
        fixed: names of parameters that somebody else set to `requires_grad=False`, as peft does
            with all that is not an adapter: they stay fixed whatever the groups say.
        released: names of parameters that were fixed so, and follow their groups again.
    """

    added: tuple[tuple[str, str], ...] = ()
    removed: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    layers: bool = False
    tied: tuple[Tie, ...] = ()
    untied: tuple[str, ...] = ()
    cast: tuple[tuple[str, str, str], ...] = ()
    moved: tuple[tuple[str, str, str], ...] = ()
    reshaped: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...] = ()
    fixed: tuple[str, ...] = ()
    released: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        parts = [*self._came_and_went(), *self._became(), *self._hands()]
        return f"the model changed: {'; '.join(parts) or 'layers without parameters'}"

    def _came_and_went(self) -> Iterator[str]:
        parts = []
        for group in dict.fromkeys(group for _, group in self.added):
            names = [name for name, g in self.added if g == group]
            parts.append(f"{len(names)} new in group {group!r} ({some(names, 3)})")
        if self.removed:
            parts.append(f"{len(self.removed)} dropped ({some(self.removed, 3)})")
        if self.renamed:
            old, new = self.renamed[0]
            parts.append(f"{len(self.renamed)} moved ({old} → {new})")
        if parts:
            yield f"parameters: {'; '.join(parts)}"

    def _became(self) -> Iterator[str]:
        yield from (_tie_in_words(tie) for tie in self.tied)
        if self.untied:
            yield f"{some(self.untied, 3)} no longer tied"
        for what, between in ((self.cast, ""), (self.moved, "on ")):
            for (old, new), n in Counter((old, new) for _, old, new in what).items():
                verb = "is" if n == 1 else "are"
                yield f"{_count(n)} {verb} {between}{new} now, {_was(n)} {between}{old}"
        for name, old_shape, new_shape in self.reshaped[:3]:
            yield f"{name} has shape {new_shape} now, had {old_shape}: its optimizer state restarts"
        if len(self.reshaped) > 3:
            yield f"{len(self.reshaped) - 3} more with another shape: their state restarts too"

    def _hands(self) -> Iterator[str]:
        if self.fixed:
            yield (
                f"{_count(len(self.fixed))} found with requires_grad=False, fixed by hand in "
                f"every group ({some(self.fixed, 2)})"
            )
        if self.released:
            yield f"{_count(len(self.released))} no longer fixed ({some(self.released, 2)})"


def _count(n: int) -> str:
    return f"{n} parameter" if n == 1 else f"{n} parameters"


def _was(n: int) -> str:
    return "was" if n == 1 else "were"


def _tie_in_words(tie: Tie) -> str:
    text = f"{' and '.join(tie.names)} are tied now: one parameter, in group {tie.group!r}"
    if not tie.conflict:
        return text
    others = " and ".join(map(repr, tie.others))
    return text + (
        f" that is frozen, though {others} is not"
        if tie.frozen
        else f" that trains, though {others} is frozen"
    )
