"""Split items into training and validation, each with its share of every class or label.

Source of `multilabel_split`: Sechidis, Tsoumakas and Vlahavas 2011, "On the Stratification of
Multi-Label Data": one label after another, the rarest first, each item to the part that
lacks the label most.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

TRAIN, VALID = 0, 1


def stratified_split(
    labels: Sequence[int], valid_pct: float, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Positions for training and validation, ascending, so that each has its share of every class.

    The choice within a class depends on the seed, the class and its number of items only.
    A class with two or more items has at least one in each part; a single item is for training.
    """
    chosen: set[int] = set()
    for label, positions in members_of(labels).items():
        n_valid = _share(len(positions), valid_pct)
        chosen.update(random.Random(f"{seed}/{label}").sample(positions, n_valid))
    train = tuple(i for i in range(len(labels)) if i not in chosen)
    return train, tuple(sorted(chosen))


def random_split(n: int, valid_pct: float, seed: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Divide n positions into train and valid by chance; each has at least one if n allows it."""
    return stratified_split([0] * n, valid_pct, seed)


def members_of(labels: Sequence[int]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for position, label in enumerate(labels):
        members.setdefault(label, []).append(position)
    return members


def multilabel_split(
    labels: Sequence[Sequence[float]], valid_pct: float, seed: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Positions for training and validation, ascending, of items with any number of labels.

    Each label that an item has is in train at least once, unless every item has a unique label.
    A label of two or more items is in valid too, unless rarer labels of its items need them all in
    train. Each part has an item if there are two.
    """
    dealing = _Dealing(labels, valid_pct)
    order = random.Random(f"{seed}/labels").sample(range(len(labels)), len(labels))
    members: dict[float, list[int]] = {}
    for position in order:
        for label in labels[position]:
            members.setdefault(label, []).append(position)
    while dealing.left:
        rarest = min(dealing.left, key=lambda label: (dealing.left[label], label))
        for position in members[rarest]:
            dealing.deal(position, rarest)
    for position in order:
        dealing.deal(position, None)
    parts = dealing.parts
    if len(parts) > 1 and VALID not in parts.values():
        # Else nothing could be measured: an item with the fewest labels that no other item has.
        singles = {label for label, positions in members.items() if len(positions) == 1}
        fewest = min(order, key=lambda position: sum(each in singles for each in labels[position]))
        parts[fewest] = VALID
    train, valid = (tuple(i for i in range(len(labels)) if parts[i] == p) for p in (TRAIN, VALID))
    return train, valid


class _Dealing:
    """The state of a split: what each part still needs, and the part of each item."""

    def __init__(self, labels: Sequence[Sequence[float]], valid_pct: float) -> None:
        self.labels = labels
        self.parts: dict[int, int] = {}
        self.left: Counter[float] = Counter(label for own in labels for label in own)
        self._counts = dict(self.left)
        self._got: tuple[Counter[float], Counter[float]] = (Counter(), Counter())
        wanted = {label: _share(n, valid_pct) for label, n in self.left.items()}
        self._wants = ({label: n - wanted[label] for label, n in self.left.items()}, wanted)
        n_valid = _share(len(labels), valid_pct)
        self._room = [len(labels) - n_valid, n_valid]

    def deal(self, position: int, label: float | None) -> None:
        """Assign an item to a part, unless it has one; `label` decides, if any, which."""
        if position in self.parts:
            return
        own = self.labels[position]
        part = self._part(own, label)
        self.parts[position] = part
        self._room[part] -= 1
        for each in own:
            self._wants[part][each] -= 1
            self._got[part][each] += 1
            self.left[each] -= 1
            if not self.left[each]:
                del self.left[each]

    def _part(self, own: Sequence[float], label: float | None) -> int:
        """The part for an item: where a label would else be missing, or that lacks most."""
        for part, least in ((TRAIN, 1), (VALID, 2)):
            if any(self._last_chance(each, part) and self._counts[each] >= least for each in own):
                return part
        train, valid = (
            (0 if label is None else self._wants[part][label], self._room[part])
            for part in (TRAIN, VALID)
        )
        return VALID if valid > train else TRAIN

    def _last_chance(self, label: float, part: int) -> bool:
        return self.left[label] == 1 and not self._got[part][label]


def _share(n: int, valid_pct: float) -> int:
    """The number of validation items of n: at least one, and not all."""
    return min(max(1, round(n * valid_pct)), n - 1) if n else 0
