"""The blocks of a network: the smallest segments that are never split, in the order of execution.

From the root down a module is opened when it is a chain: at the start of each child at most one
earlier activation is still needed inside it, and after the child none of them. So a chain of
residual blocks is opened and a residual block stays whole. Opened too: plain containers, and
classes that hold more than about a third of all weight_ops and repeat one kind of part (dense
blocks).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from layergroups._paths import layer_of
from layergroups.anatomy._dataflow import Flow, Head
from layergroups.anatomy._trace import Call

_LARGE = 1 / 3


@dataclass(frozen=True)
class Segment:
    """One stretch of the run that is not divided further: a whole call, or one operation."""

    path: str
    kind: str
    start: int
    end: int
    weight_ops: int
    shape: tuple[int, ...]
    embedding: bool
    first_use: bool


@dataclass
class Node:
    """A call with the calls inside it."""

    call: Call
    children: list[Node] = field(default_factory=list)


def call_tree(calls: tuple[Call, ...]) -> Node:
    """Nest calls by their intervals; the first is the root."""
    root = Node(calls[0])
    stack = [root]
    for call in calls[1:]:
        while call.start > stack[-1].call.end:
            stack.pop()
        node = Node(call)
        stack[-1].children.append(node)
        stack.append(node)
    return root


class _Splitter:
    """Decides which modules are opened."""

    def __init__(self, model: nn.Module, flow: Flow, root: Node, head_start: int) -> None:
        self.flow = flow
        self.modules = dict(model.named_modules())
        self.head_start = head_start
        before = flow.between(0, head_start)
        self.body_end = before[-1].time if before else 0
        self.forced: set[str] = set()
        self.uses = list(flow.trace.first_use.values())
        self.total = max(1, sum(op.is_weight_op for op in flow.trace.ops))
        below = [node for node in walk(root) if node is not root]
        self.closed_kinds = {self.kind(node) for node in below if not self.is_chain(node)}
        self.large_kinds = {
            self.kind(node)
            for node in below
            if self.weight_ops(node) > self.total * _LARGE and self._repeats(node)
        }

    def kind(self, node: Node) -> str:
        return type(self.modules[node.call.path]).__name__

    def first_use(self, start: int, end: int) -> bool:
        """Whether a parameter is used there that was not used before."""
        return bisect_left(self.uses, start) < bisect_left(self.uses, end)

    def is_container(self, node: Node) -> bool:
        return isinstance(self.modules[node.call.path], (nn.Sequential, nn.ModuleList))

    def weight_ops(self, node: Node) -> int:
        return sum(op.is_weight_op for op in self.flow.between(node.call.start, node.call.end))

    def opened(self, node: Node, inside_chain: bool) -> bool:
        """True where the node's children become segments of their own."""
        if not node.children:
            return False
        if self.straddles(node) or self.is_container(node):
            return True
        if self.weight_ops(node) < 2:
            return False
        if inside_chain and self.kind(node) not in self.closed_kinds:
            return True
        return self.kind(node) in self.large_kinds or node.call.path in self.forced

    def is_chain(self, node: Node) -> bool:
        """True where data goes from child to child and nothing goes around one."""
        if self.is_container(node):
            return True
        end = min(node.call.end, self.head_start) if self.straddles(node) else node.call.end
        return all(
            self.flow.live_values(c.call.start, c.call.start, end) <= 1
            and not self.flow.live_values(c.call.start, c.call.end, end)
            for c in node.children
            if self.flow.between(c.call.start, min(c.call.end, end))
        )

    def straddles(self, node: Node) -> bool:
        """True where a part of the node belongs to the body and a part to the head."""
        return node.call.start <= self.body_end and self.head_start < node.call.end

    def _repeats(self, node: Node) -> bool:
        kinds = Counter(self.kind(n) for n in _flatten_containers(node, self) if n.children)
        return any(count >= 2 for count in kinds.values())


def _flatten_containers(node: Node, splitter: _Splitter) -> Iterator[Node]:
    for child in node.children:
        if splitter.is_container(child):
            yield from _flatten_containers(child, splitter)
        else:
            yield child


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it."""
    yield node
    for child in node.children:
        yield from walk(child)


def find_segments(model: nn.Module, flow: Flow, head_start: int) -> list[Segment]:
    """Cut the run into segments, in the order of time."""
    root = call_tree(flow.trace.calls)
    splitter = _Splitter(model, flow, root, head_start)
    while True:
        segments = _segments(root, splitter)
        closed = _too_large(root, segments, splitter)
        if not closed:
            return segments
        splitter.forced.add(closed)


def _too_large(root: Node, segments: list[Segment], splitter: _Splitter) -> str:
    """Path of a segment that holds more than half of the body's depth and has parts, or ""."""
    body = [p for p in segments if p.weight_ops and p.start <= splitter.body_end]
    half = sum(p.weight_ops for p in body) / 2
    large = {p.start: p.path for p in body if p.weight_ops > half}
    nodes = {n.call.start: n for n in walk(root) if n.call.start in large}
    for start, node in nodes.items():
        parts = sum(splitter.weight_ops(c) > 0 for c in _flatten_containers(node, splitter))
        if parts > 1 and node is not root and large[start] not in splitter.forced:
            return large[start]
    return ""


def _segments(root: Node, splitter: _Splitter) -> list[Segment]:
    segments: list[Segment] = []

    def visit(node: Node, inside_chain: bool) -> None:
        if node is not root and not splitter.opened(node, inside_chain):
            segments.append(_whole(node, splitter))
            return
        chain = inside_chain and splitter.is_chain(node)
        time = node.call.start
        for child in node.children:
            segments.extend(_loose_ops(node, time, child.call.start, splitter))
            visit(child, chain)
            time = child.call.end
        segments.extend(_loose_ops(node, time, node.call.end, splitter))

    visit(root, True)
    return segments


def _whole(node: Node, splitter: _Splitter) -> Segment:
    call = node.call
    kind = splitter.kind(node)
    return _segment(call.path, kind, call.start, call.end, call.shape, splitter)


def _loose_ops(node: Node, start: int, end: int, splitter: _Splitter) -> Iterator[Segment]:
    """Operations that a module runs itself, between its children."""
    kind, flow = splitter.kind(node), splitter.flow
    for op in flow.between(start, end):
        if op.parameters:
            path, shape = layer_of(op.parameters[-1]), flow.shape(op.writes[0])
            yield _segment(path, kind, op.time, op.time + 1, shape, splitter)


def _segment(
    path: str, kind: str, start: int, end: int, shape: tuple[int, ...], splitter: _Splitter
) -> Segment:
    weight_ops = [op for op in splitter.flow.between(start, end) if op.is_weight_op]
    embedding = bool(weight_ops) and all("embedding" in op.name for op in weight_ops)
    first_use = splitter.first_use(start, end)
    return Segment(path, kind, start, end, len(weight_ops), shape, embedding, first_use)


@dataclass(frozen=True)
class Block:
    """The smallest part of a network that is never split.

    Attributes:
        index: its place in the order of execution.
        name: "stem", or the path of its first module with a weight matrix.
        kind: class of that module, "BasicBlock".
        start: first time on the clock of the trace; it lasts until the next block starts.
        modules: paths of the modules that make it up, in order.
        parameters: names of its parameters, in the order of first use.
        n_parameters: number of scalars in them.
        weight_ops: how many linear maps by a weight it runs: its share of the depth.
        flops: of one image, as far as torch has formulas.
        shape: of what its main part gives, for one image.
        in_head: whether it belongs to the head.
        calls: how often it runs in one pass.
    """

    index: int
    name: str
    kind: str
    start: int
    modules: tuple[str, ...]
    parameters: tuple[str, ...]
    n_parameters: int
    weight_ops: int
    flops: int
    shape: tuple[int, ...]
    in_head: bool
    calls: int


def group_segments(segments: list[Segment], head_start: int) -> list[list[Segment]]:
    """Join segments to blocks: what has no weight layer of its own joins the block before it."""
    runs: list[list[Segment]] = []
    for segment in segments:
        if not runs or _begins_block(runs[-1], segment, head_start):
            runs.append([])
        runs[-1].append(segment)
    return _with_stem([run for run in runs if run])


def _begins_block(run: list[Segment], segment: Segment, head_start: int) -> bool:
    if (segment.start >= head_start) != (run[-1].start >= head_start):
        return any(p.weight_ops for p in run) or segment.start >= head_start
    if not segment.first_use or not segment.weight_ops or not any(p.weight_ops for p in run):
        return False
    return not (segment.embedding and all(p.embedding for p in run if p.weight_ops))


def main_segment(run: list[Segment]) -> Segment:
    """The segment that a block is named after."""
    return next((p for p in run if p.weight_ops), run[0])


def _with_stem(runs: list[list[Segment]]) -> list[list[Segment]]:
    """Join what comes before the first consecutive run of blocks of one class."""
    kinds = [main_segment(run).kind for run in runs]
    first = next((i for i in range(len(runs) - 1) if kinds[i] == kinds[i + 1]), 0)
    weight = [sum(p.weight_ops for p in run) for run in runs]
    if first == 0 or sum(weight[:first]) > sum(weight) * _LARGE:
        return runs
    return [[p for run in runs[:first] for p in run], *runs[first:]]


def has_stem(runs: list[list[Segment]]) -> bool:
    """Whether the first block is a stem: another class than the run of blocks after it."""
    kinds = [main_segment(run).kind for run in runs]
    return len(runs) > 2 and kinds[0] != kinds[1] and kinds[1] == kinds[2]


def find_blocks(model: nn.Module, flow: Flow, head: Head) -> tuple[Block, ...]:
    """The ordered blocks of a model."""
    segments = find_segments(model, flow, head.start)
    start = _first_of_head(flow, segments, head)
    runs = group_segments(segments, start)
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    counts = Counter(call.path for call in flow.trace.calls)
    names = list(flow.trace.first_use)
    times = [flow.trace.first_use[n] for n in names]
    stem = has_stem(runs)
    blocks = []
    for i, run in enumerate(runs):
        begin = 0 if i == 0 else run[0].start
        end = runs[i + 1][0].start if i + 1 < len(runs) else flow.trace.calls[0].end + 1
        used = tuple(names[bisect_left(times, begin) : bisect_left(times, end)])
        main = main_segment(run)
        blocks.append(
            Block(
                index=i,
                name="stem" if i == 0 and stem else main.path or "(root)",
                kind=main.kind,
                start=begin,
                modules=tuple(dict.fromkeys(p.path for p in run)),
                parameters=used,
                n_parameters=sum(sizes[n] for n in used),
                weight_ops=sum(p.weight_ops for p in run),
                flops=sum(op.flops for op in flow.between(begin, end)) // max(1, flow.batch),
                shape=_core_shape(run),
                in_head=run[0].start >= start,
                calls=counts[main.path] or 1,
            )
        )
    return tuple(blocks)


def _first_of_head(flow: Flow, segments: list[Segment], head: Head) -> int:
    """The time after the last segment of the body has ended.

    What does nothing in a dry run (dropout) and stands before a head that was found is counted to
    the head.
    """
    before = flow.between(0, head.start)
    if len(before) == len(flow.trace.ops):
        return flow.trace.calls[0].end + 1
    if head.known or not before:
        return head.start
    return max((p.end for p in segments if p.start <= before[-1].time), default=0)


def _core_shape(run: list[Segment]) -> tuple[int, ...]:
    """Shape of one item after the last segment with a weight layer."""
    last = [p for p in run if p.weight_ops][-1:] or run[-1:]
    return last[0].shape[1:]
