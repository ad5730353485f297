"""Questions to a trace: what is still needed at a time, where a value comes from, its shape.

Where the classifier of a network is, and what comes into it, read from the dataflow.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from layergroups._paths import layer_of
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

    def live_values(self, time: int, start: int, end: int) -> int:
        """How many activations made before `time` are read in [start, end)."""
        return len(
            {
                v
                for op in self.between(start, end)
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

    def upstream(self, op: Op) -> set[int]:
        """Times of all operations that an operation depends on."""
        return self._before([op])

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

    def _before(self, ops: Iterable[Op]) -> set[int]:
        seen: set[int] = set()
        todo = list(ops)
        while todo:
            for value in todo.pop().reads:
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


_NORMALISING = ("rsqrt", "linalg_vector_norm", "norm", "native_layer_norm", "_fused_rms_norm")


@dataclass(frozen=True)
class Classifier:
    """One final linear map: from features to logits.

    Attributes:
        path: path of the module that holds its weight.
        weight: name of the weight.
        in_features: number of features that come in.
        out_features: number of classes, or of numbers, that go out.
        takes_vector: True where one vector an image comes in, so that nothing is left to be pooled.
        time: when it runs.
    """

    path: str
    weight: str
    in_features: int
    out_features: int
    takes_vector: bool
    time: int


@dataclass(frozen=True)
class Head:
    """The part of a network that answers the task.

    Attributes:
        classifiers: its final linear maps; empty for a network without a head.
        start: first time of the head on the clock of the trace; past the end where there is none.
        reason: why it begins there, in words.
        known: True where the caller said which module is the head.
    """

    classifiers: tuple[Classifier, ...]
    start: int
    reason: str
    known: bool = False

    @property
    def present(self) -> bool:
        """False for a headless network: features come out of it, not answers."""
        return bool(self.classifiers)


def find_head(flow: Flow) -> Head:
    """Find the head: from the outputs back to the first weight layer on every path, then further.

    A head whose classifier takes one vector reaches back over all that works on one vector (VGG's
    three linears, BERT's pooler, a norm), as long as a single activation flows in.
    """
    past_end = flow.trace.ops[-1].time + 1 if flow.trace.ops else 1
    finals, after = _final_weight_ops(flow)
    problem = _why_headless(flow, finals, after)
    if problem:
        return Head((), past_end, problem)
    classifiers = tuple(_classifier(flow, op) for op in finals)
    first = min(finals, key=lambda op: op.time)
    if not all(c.takes_vector for c in classifiers):
        return Head(classifiers, first.time, "the classifier comes before the pooling")
    start = _reach_back(flow, first)
    if start < first.time:
        return Head(classifiers, start, "from here on each image is one vector")
    return Head(classifiers, first.time, "the last layer")


def _final_weight_ops(flow: Flow) -> tuple[list[Op], list[Op]]:
    """The last weight layer on every path to the outputs, and the operations after them."""
    found: dict[int, Op] = {}
    seen: dict[int, Op] = {}
    todo = [v for v in flow.trace.outputs if flow.trace.values[v].kind == ACTIVATION]
    while todo:
        op = flow.producer(todo.pop())
        if op is None or op.time in seen:
            continue
        seen[op.time] = op
        if op.is_weight_op:
            found[op.time] = op
        else:
            todo.extend(v for v in op.reads if flow.trace.values[v].kind == ACTIVATION)
    after = [op for t, op in sorted(seen.items()) if t not in found]
    return [found[t] for t in sorted(found)], after


def _why_headless(flow: Flow, finals: list[Op], after: list[Op]) -> str:
    """Why the last weight_ops are no classifier, or "" where they are."""
    if not finals:
        return "no layer with a weight matrix leads to the output"
    times = {op.time for op in finals}
    if any(times & flow.upstream(op) for op in finals):
        return "the output is a sum of several depths, as at the end of a residual block"
    if any("embedding" in op.name for op in finals):
        return "the output is an embedding"
    if any(len(op.weight_shape) > 2 and max(op.weight_shape[2:]) > 1 for op in finals):
        return "the last convolution looks at neighbourhoods, as feature layers do"
    if any(op.name.removesuffix("_") in _NORMALISING for op in after):
        return "the output is normalised, as an embedding is"
    homes = {layer_of(name) for op in finals for name in op.parameters}
    widths = {flow.shape(v)[-1] for op in finals for v in op.writes[:1]}
    for name in (n for op in after for n in op.parameters):
        shape = flow.trace.shapes[name]
        if layer_of(name) not in homes and math.prod(shape) >= min(widths):
            return f"after the last linear layer comes {layer_of(name) or name}, as in a body"
    return ""


def _classifier(flow: Flow, op: Op) -> Classifier:
    incoming = next((v for v in op.reads if flow.trace.values[v].kind == ACTIVATION), op.reads[0])
    outgoing = flow.shape(op.writes[0])
    weight = op.parameters[0] if len(op.parameters) == 1 else _weight_of(op)
    is_convolution = op.name == "convolution"
    out_features = outgoing[1] if is_convolution else outgoing[-1]
    size = [s for s in op.weight_shape[:2] if s != out_features] or [out_features]
    return Classifier(
        path=layer_of(weight),
        weight=weight,
        in_features=size[0],
        out_features=out_features,
        takes_vector=flow.is_vector(incoming) or _takes_vectors(flow, op),
        time=op.time,
    )


def _weight_of(op: Op) -> str:
    named = [n for n in op.parameters if n.endswith(("weight", "original", "original1", "kernel"))]
    return (named or list(op.parameters))[0]


def _takes_vectors(flow: Flow, op: Op) -> bool:
    """True where a map is flattened, or a token taken, so that one vector an item comes in."""
    return (
        op.name != "convolution"
        and len(flow.shape(op.writes[0])) == 2
        and flow.is_vector(op.writes[0])
    )


def _reach_back(flow: Flow, first: Op) -> int:
    ops = flow.trace.ops
    last = bisect_left(flow.times, first.time)
    index = last
    while index > 0 and _is_vector_op(flow, ops[index - 1]):
        index -= 1
    if index == 0:
        return first.time
    end = ops[-1].time + 1
    while index < last and flow.live_values(ops[index].time, ops[index].time, end) > 1:
        index += 1
    weight_ops = [op for op in ops if op.is_weight_op]
    taken = sum(op.time >= ops[index].time for op in weight_ops)
    return ops[index].time if taken <= len(weight_ops) / 2 else first.time


def _is_vector_op(flow: Flow, op: Op) -> bool:
    return all(flow.is_vector(v) for v in flow.activations(op))
