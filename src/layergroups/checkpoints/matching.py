"""Which layer of one model goes to which layer of another: by name, then by a module that moved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

Layers = Mapping[str, "Layer"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A module that has tensors of its own.

    Attributes:
        path: where it stands.
        tensors: its own parameters and saved buffers, by their names in it.
        whole: True for a module without children: its tensors go together or not at all.
    """

    path: str
    tensors: Mapping[str, Tensor]
    whole: bool

    def name(self, tensor: str) -> str:
        """The full name of one of its tensors."""
        return f"{self.path}.{tensor}" if self.path else tensor

    def fits(self, other: Layer) -> bool:
        """Whether tensors can go from here to there; all that both have, if it is whole."""
        same = [other.tensors[n].shape == t.shape for n, t in self.tensors.items() if n in other]
        return bool(same) and (all(same) if self.whole and other.whole else any(same))

    def __contains__(self, tensor: str) -> bool:
        return tensor in self.tensors


@dataclass(frozen=True)
class Match:
    """A layer of the source, the layer of the target that it goes to, and why."""

    source: str
    target: str
    reason: str


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """Every module that has tensors of its own, by path; a shared one under all its paths."""
    found = {}
    for path, module in model.named_modules(remove_duplicate=False):
        tensors: dict[str, Tensor] = {n: p for n, p in module._parameters.items() if p is not None}
        for name, buffer in module._buffers.items():
            if buffer is not None and name not in module._non_persistent_buffers_set:
                tensors[name] = buffer
        if tensors:
            found[path] = Layer(path, tensors, not any(module.children()))
    return found


def match_layers(source: Layers, target: Layers) -> list[Match]:
    """Pairs of layers that fit; each layer is in one pair at most.

    A module that stands at another path is found by counting: each two layers of one name and one
    shape vote for the two places above them. The places with the most votes are taken first, then
    what has the same full name. Further places are taken only if two layers or more, and most of
    those below the old place, go from one to the other. Last comes a layer that stands one step
    deeper on one side, as in a wrapper or in a head that was grown.
    """
    left, free = dict(source), dict(target)
    matches: list[Match] = []
    places = _places(left, free)
    if places != ("", "") and places is not None:
        matches += _take(left, free, *places)
    matches += _take(left, free, "", "")
    while (places := _places(left, free)) is not None:
        matches += _take(left, free, *places)
    for path, goal in _wrapped(left, free):
        matches.append(Match(path, goal, f"wrapped: now at .{goal.rpartition('.')[2]}"))
        del left[path], free[goal]
    for goal, path in _wrapped(free, left):
        matches.append(Match(path, goal, f"unwrapped: was at .{path.rpartition('.')[2]}"))
        del left[path], free[goal]
    return matches


def _take(left: dict[str, Layer], free: dict[str, Layer], old: str, new: str) -> list[Match]:
    """The pairs of layers below two places; they are taken out of what is left and free."""
    reason = "same name" if old == new else _moved(old, new)
    taken = []
    for path in [p for p in left if _below(p, old)]:
        goal = _join(new, path[len(old) :].removeprefix("."))
        if goal in free and left[path].fits(free[goal]):
            taken.append(Match(path, goal, reason))
            del left[path], free[goal]
    return taken


def _wrapped(outer: Layers, inner: Layers) -> list[tuple[str, str]]:
    """Each layer with the first one of the same tensors and shapes just below its path."""
    pairs: dict[str, str] = {}
    for path, layer in inner.items():
        above = path.rpartition(".")[0]
        if path and above in outer and _shapes(outer[above]) == _shapes(layer):
            pairs.setdefault(above, path)
    return list(pairs.items())


def _moved(old: str, new: str) -> str:
    return f"moved: {old or 'the root'} → {new or 'the root'}"


def _places(left: Layers, free: Layers) -> tuple[str, str] | None:
    """The two places with the most votes; None where no module can be said to have moved."""
    votes = Counter(_votes(left, free))
    ranked = sorted(votes, key=lambda v: (-votes[v], v[0] != v[1], len(v[0]) + len(v[1]), v))
    for old, new in ranked:
        below = sum(_below(path, old) for path in left)
        if votes[old, new] >= 2 and votes[old, new] * 2 > below:
            return old, new
    return None


def _votes(left: Layers, free: Layers) -> Iterator[tuple[str, str]]:
    alike: dict[object, list[Layer]] = {}
    for layer in free.values():
        alike.setdefault(_kind(layer), []).append(layer)
    for layer in left.values():
        for other in alike.get(_kind(layer), ()):
            yield _above(layer.path, other.path)


def _kind(layer: Layer) -> object:
    """What two layers must share to vote: the last part of the name, and all shapes."""
    return layer.path.rpartition(".")[2], _shapes(layer)


def _shapes(layer: Layer) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, tuple(t.shape)) for name, t in layer.tensors.items()))


def _above(path: str, other: str) -> tuple[str, str]:
    """Two paths without the longest end that they share."""
    ours, theirs = path.split("."), other.split(".")
    while ours and theirs and ours[-1] == theirs[-1]:
        ours.pop()
        theirs.pop()
    return ".".join(ours), ".".join(theirs)


def _below(path: str, place: str) -> bool:
    return not place or path == place or path.startswith(f"{place}.")


def _join(place: str, rest: str) -> str:
    return f"{place}.{rest}" if place and rest else place or rest
