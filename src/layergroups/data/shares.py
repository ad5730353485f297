"""How several processes share the work on one batch: the batch stays whole in meaning.

`batch_size` is the number of items over all processes. Process r of w takes the items r, r + w,
r + 2 w, … of each batch, so that what is learned does not depend on the number of processes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class Share:
    """What one process takes of a batch.

    Attributes:
        batch: its items; those of another process where nothing is left for this one.
        own: how many of them count here; 0 where they are another's.
        items: items in the whole batch.
        positions: of its items in the whole batch.
        check: equal on all processes if they divide the same batch.
    """

    batch: Any
    own: int
    items: int
    positions: range
    check: int = 0

    @property
    def weight(self) -> float:
        """Its part of the whole batch, 0..1."""
        return self.own / self.items if self.items else 0.0


def part(n: int, rank: int, world: int, least: int = 1) -> tuple[range, int]:
    """Which of n items a process takes, and how many of them count.

    Args:
        n: items in the batch.
        rank: the process, 0..world - 1.
        world: number of processes.
        least: the fewest items that a process can work on; batch norm needs 2. A small batch is
            shared by fewer processes; the others go along with the items of the first, which do
            not count for them.
    """
    active = min(world, max(1, n // least))
    if rank < active:
        mine = range(rank, n, active)
        return mine, len(mine)
    return range(0, n, active), 0


def check_of(content: Sequence[Any]) -> int:
    """A number that tells two plans of a batch apart."""
    return zlib.crc32(repr(content).encode())


def planned(
    plan: Iterator[list[Any]], rank: int, world: int, least: int
) -> tuple[list[list[Any]], list[Share]]:
    """The items that a process prepares of each batch of a plan, and its shares, still empty."""
    work: list[list[Any]] = []
    shares: list[Share] = []
    for items in plan:
        mine, own = part(len(items), rank, world, least)
        work.append([items[i] for i in mine])
        shares.append(Share(None, own, len(items), mine, check_of(items)))
    return work, shares
