"""Where the body of a network ends: a plan, read from the dataflow or given by hand."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from layergroups.anatomy import Classifier, Flow, Head, Op, is_flat
from layergroups.models.side_by_side import whole_path

_MEANS = ("mean", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "avg_pool2d")
_POOLS = (*_MEANS, "max_pool2d_with_indices", "max_pool2d", "adaptive_max_pool2d")
_COPIES = ("clone", "_to_copy", "contiguous", "_unsafe_view", "reshape", "dropout")


@dataclass(frozen=True)
class Cut:
    """How a body is cut from a network.

    Attributes:
        kind: "chain": the body is a `Sequential` of `children`. "whole": the body is the network
            itself with `removed` taken out. "by hand": as the caller's `cut` says.
        children: names of the network's children that make up a chain.
        removed: paths of modules that are taken out and hold parameters, the old classifier first.
        reason: why it is cut there, in words.
        path: of the module before which it is cut by hand, where that stands inside a child.
    """

    kind: str
    children: tuple[str, ...]
    removed: tuple[str, ...]
    reason: str
    path: str = ""

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        if self.kind == "whole":
            taken = f" without {', '.join(self.removed)}" if self.removed else ""
            return f"the body is the whole network{taken}: {self.reason}"
        span = self.children[0] + (f" … {self.children[-1]}" if len(self.children) > 1 else "")
        taken = f"; taken out: {', '.join(self.removed)}" if self.removed else ""
        return f"the body is {span}{taken}: {self.reason}"


def plan_cut(network: nn.Module, flow: Flow, head: Head) -> Cut:
    """Decide how to cut a body so that no pretrained layer is bypassed.

    A plain chain of children is cut before its pooling (or before linear layers that read a
    flattened map, which fit one image size only). Anything else keeps its own forward and loses
    its classifier alone.
    """
    if not head.present:
        return Cut("whole", (), (), f"it has no classifier ({head.reason})")
    ends, reason = _ends_of_map(flow, head)
    for op in ends:
        children = chain_before(network, flow, op)
        if children:
            gone = _owners(o for o in flow.trace.ops if o.time >= op.time)
            return Cut("chain", children, tuple(reversed(gone)), reason)
    paths = tuple(dict.fromkeys(whole_path(network, c.path) for c in head.classifiers))
    return Cut("whole", (), paths, "its own forward runs, so that nothing before is bypassed")


def _ends_of_map(flow: Flow, head: Head) -> tuple[list[Op], str]:
    """Operations from which on nothing pretrained is worth keeping, earliest first."""
    ops = flow.trace.ops
    if len(head.classifiers) > 1:
        return [], ""
    classifier = _op_at(flow, head.classifiers[0])
    inside = [o for o in ops if o.time >= head.start and o.contraction]
    flattening = next((o for o in inside if _reads_flattened_map(flow, o)), None)
    if flattening is not None:
        return _with_pools(flow, flattening), "after it a map is flattened for one image size"
    if not head.classifiers[0].flat and classifier.name == "convolution":
        return [classifier], "after it comes the classifier, pooled afterwards"
    pool = _plain_mean_before(flow, classifier)
    if pool is not None:
        return [pool], "after it the map is averaged for the classifier"
    return [], ""


def _op_at(flow: Flow, classifier: Classifier) -> Op:
    return flow.trace.ops[bisect_left(flow.times, classifier.time)]


def _source(flow: Flow, op: Op) -> int | None:
    return op.reads[0] if len(op.reads) == 1 else None


def _reads_flattened_map(flow: Flow, op: Op) -> bool:
    value = _source(flow, op)
    if value is None or op.name == "convolution":
        return False
    shape = flow.shape(value)
    return len(shape) == 4 and not flow.flat(value) and math.prod(shape[1:]) in op.weight_shape


def _with_pools(flow: Flow, op: Op) -> list[Op]:
    """An operation, and before it the poolings and copies that lead to it."""
    found = [op]
    while True:
        value = _source(flow, found[0])
        before = flow.producer(value) if value is not None else None
        if before is None or before.parameters or before.name not in _POOLS + _COPIES:
            return found
        found.insert(0, before)


def _plain_mean_before(flow: Flow, classifier: Op) -> Op | None:
    """The global average that feeds a classifier, if nothing but views and copies lies between."""
    op = classifier
    while True:
        value = _source(flow, op)
        before = flow.producer(value) if value is not None else None
        if before is None or before.parameters:
            return None
        if before.name in _MEANS:
            given = math.prod(flow.shape(before.writes[0])[1:])
            return before if len(before.reads) == 1 and _is_map(before, given) else None
        if before.name not in _COPIES:
            return None
        op = before


def _is_map(op: Op, channels: int) -> bool:
    """True where a map (N, channels, H, W) is read; one with its channels last is none."""
    shape = op.read_shapes[0]
    return len(shape) == 4 and shape[1] == channels and not is_flat(shape)


def chain_before(network: nn.Module, flow: Flow, op: Op) -> tuple[str, ...]:
    """Names of the children that run, one after the other, before an operation; () if no chain.

    It is a chain if the network itself does nothing between its children and calls each once.
    """
    children = {name for name, _ in network.named_children()}
    calls = [c for c in flow.trace.calls if c.path in children]
    end = next((c.start for c in calls if c.start <= op.time < c.end), op.time)
    before = [c for c in calls if c.start < end]
    outside = [o for o in flow.between(0, end) if not children.intersection(o.inside)]
    once = len({c.path for c in calls}) == len(calls)
    chained = all(
        flow.needed(c.start, c.start, end) <= 1 and not flow.needed(c.start, c.end, end)
        for c in before
    )
    return tuple(c.path for c in before) if once and chained and not outside else ()


def _owners(ops: Iterable[Op]) -> list[str]:
    """Paths of the modules whose parameters operations use, in order."""
    return list(dict.fromkeys(n.rpartition(".")[0] for op in ops for n in op.parameters))
