"""Questions to a trace: what is still needed at a time, where a value comes from, its shape."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from functools import cached_property

from layergroups.anatomy._trace import ACTIVATION, Op, Trace


class Flow:
    """The dataflow of one trace, indexed for questions about time."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.times = [op.time for op in trace.ops]

    @cached_property
    def produced_at(self) -> dict[int, int]:
        """For each activation the time at which it was produced."""
        return {
            v: self.trace.ops[value.producer].time
            for v, value in enumerate(self.trace.values)
            if value.kind == ACTIVATION and value.producer >= 0
        }

    @cached_property
    def batch(self) -> int:
        """Number of items in the example input."""
        shapes = [v.shape for v in self.trace.values if v.producer == -1 and v.shape]
        return shapes[0][0] if shapes else 1

    def live_values(
        self, time: int, start: int, end: int, without: frozenset[int] = frozenset()
    ) -> int:
        """How many activations made before `time` are read in [start, end), `without` these ops."""
        return len(
            {
                v
                for op in self.between(start, end)
                if op.time not in without
                for v in op.reads
                if self.produced_at.get(v, time) < time
            }
        )

    def between(self, start: int, end: int) -> tuple[Op, ...]:
        """The operations with start <= time < end."""
        return self.trace.ops[bisect_left(self.times, start) : bisect_left(self.times, end)]

    def producer(self, value: int) -> Op | None:
        """The operation that made a value, or None for an input."""
        index = self.trace.values[value].producer
        return self.trace.ops[index] if index >= 0 else None

    def is_vector(self, value: int) -> bool:
        """True where a value holds one vector for each item of the batch."""
        shape = self.shape(value)
        return is_vector(shape) and shape[0] == self.batch

    def shape(self, value: int) -> tuple[int, ...]:
        """The shape of a value when it was made."""
        return self.trace.values[value].shape

    def activations(self, op: Op) -> Iterator[int]:
        """The activations that an operation wrote."""
        return (v for v in op.writes if self.trace.values[v].kind == ACTIVATION)

    def upstream(self, op: Op, *, floating: bool = False) -> set[int]:
        """Times of all operations that an operation depends on; `floating`: not by an index."""
        return self._before([op], floating)

    def downstream(self, times: Iterable[int]) -> set[int]:
        """These times and those of all operations that depend on the operations then."""
        found = set(times)
        values: set[int] = set()
        for op in self.trace.ops:
            if op.time in found or not values.isdisjoint(op.reads):
                found.add(op.time)
                values.update(op.writes)
        return found

    def no_path_to_output(self) -> tuple[str, ...]:
        """Names of used parameters on which nothing depends that the model returned."""
        values = [self.trace.values[v] for v in self.trace.returned]
        if not values:
            return ()  # not known
        last = [self.trace.ops[value.producer] for value in values if value.producer >= 0]
        live = self._before(last) | {op.time for op in last}
        reached = {name for value in values for name in value.parameters}
        reached.update(name for op in self.trace.ops if op.time in live for name in op.parameters)
        used = (name for name in self.trace.shapes if name in self.trace.first_use)
        return tuple(name for name in used if name not in reached)

    def _before(self, ops: Iterable[Op], floating: bool = False) -> set[int]:
        seen: set[int] = set()
        todo = list(ops)
        while todo:
            for value in todo.pop().reads:
                if floating and not self.trace.values[value].floating:
                    continue
                maker = self.producer(value)
                if maker is not None and maker.time not in seen:
                    seen.add(maker.time)
                    todo.append(maker)
        return seen


def is_vector(shape: tuple[int, ...]) -> bool:
    """True where each item is one vector: (N, C), (N, C, 1, 1), (N, 1, C)."""
    return len(shape) >= 2 and math.prod(shape[1:]) == max(shape[1:])


def spatial_size(shape: tuple[int, ...], aspect: float = 1.0) -> tuple[float, float] | None:
    """Height and width of a feature map, or None for a vector.

    Args:
        shape: (N, C, H, W), (N, H, W, C) or (N, tokens, C); of the first two the one is meant whose
            sides have the image's aspect; tokens are taken as a square map.
        aspect: height over width of the image.
    """
    if is_vector(shape):
        return None
    if len(shape) == 5:
        return float(shape[3]), float(shape[4])
    if len(shape) == 4:
        choices = [(shape[2], shape[3]), (shape[1], shape[2])]
        h, w = min(choices, key=lambda s: abs(math.log(s[0] / s[1] / aspect)))
        return float(h), float(w)
    if len(shape) == 3:
        side = math.sqrt(shape[1])
        return side, side
    return None
