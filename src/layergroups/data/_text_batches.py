"""Batches of texts of similar length, whose order depends only on explicit seeds."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, Final

import torch
from torch import Tensor

from layergroups._random import derived_seed
from layergroups.data._batches import weighted_order
from layergroups.data._samples import Samples
from layergroups.data._shards import Shard, check_of, shard_positions
from layergroups.data.text import Encoded, TextTransform

_POOL: Final = 8  # batches' worth of texts of similar length, from which batches are drawn


class TextSet:
    """Texts with their labels, as tokens; they are tokenized once, when they are first needed."""

    def __init__(self, samples: Samples, transform: TextTransform) -> None:
        self.samples = samples
        self.transform = transform

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def encoded(self) -> list[Encoded]:
        return self.transform.encode(self.samples.files)

    @property
    def n_cut(self) -> int:
        """How many texts are longer than the model, and are truncated."""
        return sum(each.cut for each in self.encoded)

    @property
    def highest_token(self) -> int:
        """The largest number of a token, that of padding included."""
        row, padding = self.transform.inputs.index("input_ids"), self.transform.padding
        return max(padding, *(int(w[row].max()) for each in self.encoded for w in each.windows))

    @cached_property
    def lengths(self) -> Tensor:
        """Tokens of each text, in all its windows, int64 (N,)."""
        return torch.tensor([each.length * len(each.windows) for each in self.encoded])

    def batch(self, positions: Sequence[int]) -> Any:
        """Inputs and targets of the texts at these positions; inputs alone without labels."""
        inputs = self.transform.collate([self.encoded[i] for i in positions])
        if self.samples.labels is None:
            return inputs
        targets = [torch.as_tensor(self.samples.target(i)) for i in positions]
        return inputs, torch.stack(targets)


class _TextLoader:
    def __init__(self, items: TextSet, batch_size: int, max_tokens: int) -> None:
        self.items = items
        self.batch_size = batch_size
        self.max_tokens = max_tokens

    @property
    def samples(self) -> Samples:
        return self.items.samples

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts, in their own order."""
        return self.samples.files

    @property
    def n_items(self) -> int:
        """How many texts there are."""
        return len(self.items)

    def _size(self, longest: int) -> int:
        """Texts in a batch whose longest one has so many tokens."""
        return max(1, min(self.batch_size, self.max_tokens // max(1, longest)))

    def _shards(
        self, plan: Iterable[list[int]], rank: int, world: int, min_items: int
    ) -> Iterator[Shard]:
        for chosen in plan:
            mine, counted = shard_positions(len(chosen), rank, world, min_items)
            batch = self.items.batch([chosen[i] for i in mine])
            yield Shard(batch, counted, len(chosen), mine, check_of(chosen))


class TextEvalLoader(_TextLoader):
    """All texts, any number of times: (inputs, targets), or inputs alone without labels.

    With `by_length` similar lengths are together, and `order` has the positions of the texts; else
    they come in their own order.
    """

    def __init__(
        self, items: TextSet, batch_size: int, max_tokens: int, *, by_length: bool = False
    ) -> None:
        super().__init__(items, batch_size, max_tokens)
        self._by_length = by_length

    @cached_property
    def order(self) -> list[int]:
        """Positions of the texts in the order of the batches."""
        if not self._by_length:
            return list(range(self.n_items))
        order: list[int] = self.items.lengths.argsort(stable=True).tolist()
        return order

    @cached_property
    def _plan(self) -> list[list[int]]:
        plan: list[list[int]] = []
        longest, lengths = 0, self.items.lengths.tolist()
        for i in self.order:
            length = lengths[i]
            longest = max(longest, length)
            if not plan or len(plan[-1]) >= self._size(longest):
                plan.append([])
                longest = length
            plan[-1].append(i)
        return plan

    def __len__(self) -> int:
        return len(self._plan)

    def __iter__(self) -> Iterator[Any]:
        return map(self.items.batch, self._plan)

    def at(self, positions: Sequence[int]) -> Any:
        """One batch of the texts at these positions, in that order."""
        return self.items.batch(positions)

    def shards(self, rank: int, world: int, min_items: int = 1) -> Iterator[Shard]:
        """The shard of one process of each batch."""
        return self._shards(self._plan, rank, world, min_items)


class TextTrainLoader(_TextLoader):
    """Shuffled batches of texts of similar length, each of `max_tokens` at most, padding included.

    Batches of one text are avoided, even if two are beyond a limit, unless batch_size is 1.

    Every epoch has the same number of batches: texts are sorted by length and divided into pools
    with a size of batch each, and an epoch shuffles the texts within each pool, and the batches of
    all pools. With `weights` the texts of a batch have any length. The texts at the positions
    `left_out` are in no batch.
    """

    def __init__(
        self,
        items: TextSet,
        batch_size: int,
        max_tokens: int,
        seed: int,
        weights: Tensor | None = None,
        left_out: Collection[int] = (),
    ) -> None:
        super().__init__(items, batch_size, max_tokens)
        self.seed = seed
        self.weights = weights
        self.epoch = 0
        self._used = torch.ones(len(items), dtype=torch.bool)
        self._used[list(left_out)] = False

    def set_epoch(self, epoch: int) -> None:
        """Set which epoch the next pass is."""
        self.epoch = epoch

    @cached_property
    def _pools(self) -> list[tuple[Tensor, int]]:
        """Positions of the texts of each pool, and into how many batches they are divided."""
        used = self._used.nonzero().flatten()
        order = used[self.items.lengths[used].argsort(stable=True)]
        if self.weights is not None:
            size = self._size(int(self.items.lengths.max()))
            return [(order, self._count(len(order), size))]
        lengths, pools, end = self.items.lengths[order].tolist(), [], len(order)
        while end:  # from the longest texts down
            size = self._size(lengths[end - 1])
            start = max(0, end - _POOL * size)
            start = 0 if start < 2 * size else start
            pools.append((order[start:end], self._count(end - start, size)))
            end = start
        return pools

    def _count(self, n: int, size: int) -> int:
        """Into how many batches n texts are divided: of two at least, which batch norm needs."""
        return min(math.ceil(n / size), max(1, n // min(2, self.batch_size)))

    def __len__(self) -> int:
        return sum(count for _, count in self._pools)

    def __iter__(self) -> Iterator[Any]:
        return self.starting_at(0)

    def starting_at(self, batch: int) -> Iterator[Any]:
        """A pass without its first batches, which are not made."""
        return map(self.items.batch, islice(self._next_plan(), batch, None))

    def shards(self, rank: int, world: int, min_items: int = 1) -> Iterator[Shard]:
        """The shard of one process of each batch."""
        return self._shards(self._next_plan(), rank, world, min_items)

    def positions(self, epoch: int) -> list[list[int]]:
        """Which texts are in each batch of an epoch."""
        seed = derived_seed(self.seed, epoch)
        generator = torch.Generator().manual_seed(seed)
        batches: list[list[int]] = []
        for pool, count in self._pools:
            if self.weights is not None:
                weights = self.weights * self._used
                drawn = weighted_order(weights, self.samples.labels, seed)[: len(pool)]
            else:
                drawn = pool[torch.randperm(len(pool), generator=generator)]
            batches += [part.tolist() for part in drawn.tensor_split(count)]
        order = torch.randperm(len(batches), generator=generator).tolist()
        return [batches[i] for i in order]

    def _next_plan(self) -> list[list[int]]:
        plan = self.positions(self.epoch)
        self.epoch += 1
        return plan
