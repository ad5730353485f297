"""How several processes share each batch.

`batch_size` is the number of items over all processes. Process r of w takes the items r, r + w,
r + 2 w, … of each batch, so the result of training does not depend on the number of processes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from layergroups._forward import count_items, split_batch
from layergroups._random import mixed
from layergroups._torch import tree_map_only
from layergroups.data._source import own_shards


class Rank(Protocol):
    """One of several processes that train together."""

    rank: int
    world: int


@dataclass(frozen=True, eq=False)
class Shard:
    batch: Any  # its items; those of a different process if none is left for this one
    n_counted: int  # how many of them count here; 0 if they belong to a different process
    n_items: int  # items in the whole batch
    positions: range  # of its items in the whole batch
    check: int = 0  # equal on all processes if they divide the same batch

    @property
    def weight(self) -> float:
        return self.n_counted / self.n_items if self.n_items else 0.0


def shard_positions(n: int, rank: int, world: int, min_items: int = 1) -> tuple[range, int]:
    """Which of n items a process takes, and how many of them count.

    A process can work on `min_items` at least; batch norm needs 2. A small batch is shared by fewer
    processes; the others run the items of the first, which do not count.
    """
    active = min(world, max(1, n // min_items))
    if rank < active:
        mine = range(rank, n, active)
        return mine, len(mine)
    return range(0, n, active), 0


def check_of(content: Sequence[Any]) -> int:
    """A number that distinguishes two plans of a batch."""
    return zlib.crc32(repr(content).encode())


def shards_of(
    batches: Iterable[Any], process: Rank, *, min_items: int = 1, separate_rng: bool = False
) -> Iterator[Shard]:
    """The shard of a process of each batch; the whole batch for a single process.

    Batches with `shards(rank, world, min_items)`, as those of `ImageDataLoaders`, load the items of
    the process only. Any others are loaded whole by every process, and cut. With `separate_rng`,
    each process draws its own random numbers after the first batch, as for dropout; until then
    they draw the same, so that a loader that shuffles has one order.
    """
    if process.world == 1:
        for batch in batches:
            n = count_items(batch)
            yield Shard(batch, n, n, range(n))
        return
    own = own_shards(batches, process.rank, process.world, min_items)
    shards = (_cut(batch, process, min_items) for batch in batches) if own is None else own
    for number, shard in enumerate(shards):
        if separate_rng and number == 0 and process.rank > 0:
            torch.manual_seed(mixed(int(torch.randint(1 << 62, ())), process.rank))
        yield shard


def _cut(batch: object, process: Rank, min_items: int) -> Shard:
    n = count_items(batch)
    mine, counted = shard_positions(n, process.rank, process.world, min_items)
    chosen = slice(mine.start, mine.stop, mine.step)

    def take(tensor: Tensor) -> Tensor:
        return tensor[chosen] if tensor.ndim and len(tensor) == n else tensor

    return Shard(tree_map_only(Tensor, take, batch), counted, n, mine, _checksum(batch))


def _checksum(batch: object) -> int:
    """Shows whether two processes cut the same batch; 0 on a device, to avoid a transfer."""
    targets = split_batch(batch)[1]
    if targets is None or targets.device.type != "cpu":
        return 0
    return zlib.crc32(targets.contiguous().flatten().view(torch.uint8).numpy().tobytes())
