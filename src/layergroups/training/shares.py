"""Batches, as one of several processes takes its share of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from layergroups.data.shares import Share, part
from layergroups.errors import TrainingError
from layergroups.training.checks import split_batch
from layergroups.training.distributed import Processes
from layergroups.training.seeds import mixed


def shares_of(
    batches: Iterable[Any], processes: Processes, *, least: int = 1, apart: bool = False
) -> Iterator[Share]:
    """What this process takes of each batch; all of it where there is one process.

    Data that have `shares(rank, world, least)`, as `ImageDataLoaders`, prepare the share only.
    Any other batches are loaded whole by every process, and cut.

    Args:
        batches: the same on every process.
        processes: who shares them.
        least: the fewest items that a process can work on.
        apart: after the first batch, let each process draw its own random numbers, as for dropout;
            until then they draw the same, so that a loader that shuffles has one order.

    Raises:
        TrainingError: the loader hands out shares already.
    """
    if not processes.several:
        for batch in batches:
            items = count_items(batch)
            yield Share(batch, items, items, range(items))
        return
    _refuse_shared(batches)
    own = getattr(batches, "shares", None)
    made: Iterator[Share] = (
        (cut(batch, processes, least) for batch in batches)
        if own is None
        else own(processes.rank, processes.world, least)
    )
    for number, share in enumerate(made):
        if apart and number == 0 and processes.rank > 0:
            torch.manual_seed(mixed(int(torch.randint(1 << 62, ())), processes.rank))
        yield share


def cut(batch: object, processes: Processes, least: int) -> Share:
    """The share of this process in a loaded batch, a view of it."""
    n = count_items(batch)
    mine, own = part(n, processes.rank, processes.world, least)
    chosen = slice(mine.start, mine.stop, mine.step)

    def take(tensor: Tensor) -> Tensor:
        return tensor[chosen] if tensor.ndim and len(tensor) == n else tensor

    share = tree_map_only(Tensor, take, batch)
    return Share(share, own, n, mine, _check(split_batch(batch)[1]))


def count_items(batch: object) -> int:
    """Items in a batch: its targets, or its inputs where it has none."""
    inputs, targets = split_batch(batch)
    if targets is not None:
        return len(targets)
    tensors = [leaf for leaf in tree_leaves(inputs) if isinstance(leaf, Tensor)]
    return len(tensors[0]) if tensors else len(inputs)


def _check(targets: Tensor | None) -> int:
    """Shows whether two processes cut the same batch; not worth waiting for another device."""
    if targets is None or targets.device.type != "cpu":
        return 0
    return zlib.crc32(targets.contiguous().flatten().view(torch.uint8).numpy().tobytes())


def _refuse_shared(batches: object) -> None:
    for held in (batches, *(getattr(batches, key, None) for key in ("sampler", "batch_sampler"))):
        if type(held).__name__ in {"DistributedSampler", "BatchSamplerShard", "DataLoaderShard"}:
            raise TrainingError(
                f"These batches are shared out already, by {type(held).__name__}. Give every "
                "process the whole data, with batch_size the number of items over all processes: "
                "the Learner shares them out."
            )
