"""The blocks of a network: the smallest segments that are never split, in the order of execution.

From the root down a module is opened when it is a chain: at the start of each child at most one
earlier activation is still needed inside it, and after the child none of them. So a chain of
residual blocks is opened and a residual block stays whole. Opened too: plain containers, and
classes that hold more than about a third of all weight_ops and repeat one kind of part (dense
blocks).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os.path import commonprefix

from torch import nn

from layergroups._paths import ancestors, is_within, layer_of, parent
from layergroups.anatomy._dataflow import Flow, is_vector
from layergroups.anatomy._head import Head
from layergroups.anatomy._trace import Call

_LARGE = 1 / 3
_PART = 1 / 6  # of all weight ops: a chain as large as this is opened wherever it stands


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
    in_head: bool
    unit: str = ""


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

    def __init__(self, model: nn.Module, flow: Flow, root: Node, head: frozenset[int]) -> None:
        self.flow = flow
        self.modules = dict(model.named_modules())
        self.head = head
        self.forced: set[str] = set()
        self.uses = list(flow.trace.first_use.values())
        self.total = max(1, sum(op.adds_depth for op in flow.trace.ops))
        below = [node for node in walk(root) if node is not root]
        self.closed_kinds = {self.kind(node) for node in below if not self.is_chain(node)}
        self.large_kinds = {
            self.kind(node)
            for node in below
            if self.weight_ops(node) > self.total * _LARGE and self._repeats(node)
        }

    def kind(self, node: Node) -> str:
        return type(self.modules[node.call.path]).__name__

    def unit(self, path: str) -> str:
        """The container of a list, itself never called, whose parts make up one block.

        That are parts of different classes, such as attention and feed-forward layers.
        """
        for place in ancestors(path):
            held, above = self.modules.get(place), self.modules.get(parent(place))
            in_list = isinstance(above, (nn.ModuleList, nn.Sequential)) and len(above) > 1
            if place and in_list and isinstance(held, (nn.ModuleList, nn.ModuleDict)):
                kinds = [type(c) for c in held.children() if any(True for _ in c.parameters())]
                return place if len(set(kinds)) == len(kinds) else ""
        return ""

    def first_use(self, start: int, end: int) -> bool:
        """Whether a parameter is used there that was not used before."""
        return bisect_left(self.uses, start) < bisect_left(self.uses, end)

    def is_container(self, node: Node) -> bool:
        return isinstance(self.modules[node.call.path], (nn.Sequential, nn.ModuleList))

    def weight_ops(self, node: Node) -> int:
        return sum(op.adds_depth for op in self.flow.between(node.call.start, node.call.end))

    def in_head(self, start: int, end: int) -> bool:
        """Whether a stretch belongs to the head; what does nothing goes with what comes next."""
        inside = self.flow.between(start, end)
        own = [op.time in self.head for op in inside if op.parameters]
        if own or inside:
            return any(own) if own else inside[-1].time in self.head
        at = bisect_left(self.flow.times, end)
        return bool(self.head) and (at == len(self.flow.times) or self.flow.times[at] in self.head)

    def opened(self, node: Node, inside_chain: bool) -> bool:
        """True where the node's children become segments of their own."""
        if not node.children:
            return False
        if self.straddles(node) or self.is_container(node):
            return True
        if self.weight_ops(node) < 2:
            return False
        open_kind = self.kind(node) not in self.closed_kinds
        large = self.weight_ops(node) > self.total * _LARGE  # an encoder beside a decoder
        if (open_kind and inside_chain) or ((open_kind or large) and self.is_long_chain(node)):
            return True
        return self.kind(node) in self.large_kinds or node.call.path in self.forced

    def is_chain(self, node: Node) -> bool:
        """True where data goes from child to child and nothing goes around one.

        Children without parameters count as little as operations of the node itself.
        """
        if self.is_container(node):
            return True
        end, live = node.call.end, self.flow.live_values
        head = self.head if self.straddles(node) else frozenset()
        return all(
            live(c.call.start, c.call.start, end, head) <= 1
            and not live(c.call.start, c.call.end, end, head)
            for c in node.children
            if any(
                op.parameters and op.time not in head
                for op in self.flow.between(c.call.start, c.call.end)
            )
        )

    def is_long_chain(self, node: Node) -> bool:
        """True for a chain of three layers or more that makes up much of the network."""
        large = self.weight_ops(node) > self.total * _PART
        return large and self.is_chain(node) and self.n_parts(node) > 2

    def n_parts(self, node: Node) -> int:
        """How many layers or blocks a chain has, also inside the chains that it consists of."""
        if not self.weight_ops(node) or not node.children or not self.is_chain(node):
            return int(self.weight_ops(node) > 0)
        return sum(map(self.n_parts, node.children))

    def straddles(self, node: Node) -> bool:
        """True where a part of the node belongs to the body and a part to the head."""
        inside = self.flow.between(node.call.start, node.call.end)
        return len({op.time in self.head for op in inside if op.parameters}) == 2

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


def find_segments(model: nn.Module, flow: Flow, head: Head) -> list[Segment]:
    """Cut the run into segments, in the order of time."""
    root = call_tree(flow.trace.calls)
    splitter = _Splitter(model, flow, root, head.ops)
    while True:
        segments = _segments(root, splitter)
        closed = _too_large(root, segments, splitter)
        if not closed:
            return segments
        splitter.forced.add(closed)


def _too_large(root: Node, segments: list[Segment], splitter: _Splitter) -> str:
    """Path of a segment that holds more than half of the body's depth and has parts, or ""."""
    body = [p for p in segments if p.weight_ops and not p.in_head]
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
    weight_ops = [op for op in splitter.flow.between(start, end) if op.adds_depth]
    embedding = bool(weight_ops) and all("embedding" in op.name for op in weight_ops)
    return Segment(
        path, kind, start, end, len(weight_ops), shape, embedding,
        first_use=splitter.first_use(start, end), in_head=splitter.in_head(start, end),
        unit=splitter.unit(path),
    )  # fmt: skip


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
        tower: of the body, the index of the first block of the input branch that it belongs to (of
            two towers each has its own); -1 where several branches have been joined.
        side: length of the longest side that its last convolution gives; 0 without one.
        begins_decoder: whether from here on each block reads what the blocks before give (an
            encoder's output, by cross-attention), or, as in a U-Net, maps grow again and join
            earlier ones.
        embeds: whether it begins with a table of vectors, one for each token.
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
    tower: int = 0
    side: int = 0
    begins_decoder: bool = False
    embeds: bool = False


def group_segments(segments: list[Segment]) -> list[list[Segment]]:
    """Join segments to blocks: what has no weight layer of its own joins the block before it."""
    runs: list[list[Segment]] = []
    for segment in segments:
        if not runs or _begins_block(runs[-1], segment):
            runs.append([])
        runs[-1].append(segment)
    return runs


def _begins_block(run: list[Segment], segment: Segment) -> bool:
    if segment.in_head != run[-1].in_head:
        return any(p.weight_ops for p in run) or segment.in_head
    if not segment.first_use or not segment.weight_ops or not any(p.weight_ops for p in run):
        return False
    if segment.unit and segment.unit == main_segment(run).unit:
        return False
    return not (segment.embedding and all(p.embedding for p in run if p.weight_ops))


def main_segment(run: list[Segment]) -> Segment:
    """The segment that a block is named after."""
    return next((p for p in run if p.weight_ops), run[0])


def _with_stem(runs: list[list[Segment]], total: int) -> list[list[Segment]]:
    """Join what comes before the first consecutive run of blocks of one class."""
    kinds = [main_segment(run).kind for run in runs]
    first = next((i for i in range(len(runs) - 1) if kinds[i] == kinds[i + 1]), 0)
    if first == 0 or sum(p.weight_ops for run in runs[:first] for p in run) > total * _LARGE:
        return runs
    return [[p for run in runs[:first] for p in run], *runs[first:]]


def has_stem(runs: list[list[Segment]]) -> bool:
    """Whether the first block is a stem: another class than the run of blocks after it."""
    kinds = [main_segment(run).kind for run in runs]
    return len(runs) > 2 and kinds[0] != kinds[1] and kinds[1] == kinds[2]


def find_blocks(
    model: nn.Module, flow: Flow, head: Head
) -> tuple[tuple[Block, ...], Callable[[int], int]]:
    """The blocks of a model, those of the head last, and which block runs at a time."""
    segments = find_segments(model, flow, head)
    parts = [[s for s in segments if s.in_head == in_head] for in_head in (False, True)]
    weight = sum(s.weight_ops for s in segments)
    body = _with_stem(group_segments(parts[0]), weight)
    runs = [*body, *group_segments(parts[1])]
    starts = [segment.start for segment in segments]
    index_of = {id(segment): i for i, run in enumerate(runs) for segment in run}

    def block_at(time: int) -> int:
        at = max(bisect_right(starts, time) - 1, 0)
        return index_of[id(segments[at])] if segments else 0

    sizes = {name: p.numel() for name, p in model.named_parameters()}
    counts = Counter(call.path for call in flow.trace.calls)
    used: list[list[str]] = [[] for _ in runs]
    flops = [0] * len(runs)
    for name, time in flow.trace.first_use.items():
        if runs:
            used[block_at(time)].append(name)
    for op in flow.trace.ops if runs else ():
        flops[block_at(op.time)] += op.flops
    towers = _towers(flow, block_at, len(body))
    sides = [0] * len(runs)
    for op in flow.trace.ops:
        made = flow.shape(op.writes[0])
        if op.name == "convolution" and not is_vector(made):
            sides[block_at(op.time)] = max(made[2:], default=0)
    decoder = _decoder(flow, block_at, body)
    if decoder is None:
        decoder = _decoder_of_maps(flow, block_at, body, sides)
    stem = has_stem(runs)
    blocks = []
    for i, run in enumerate(runs):
        main = main_segment(run)
        blocks.append(
            Block(
                index=i,
                name="stem" if i == 0 and stem else main.path or "(root)",
                kind=main.kind,
                start=run[0].start,
                modules=tuple(dict.fromkeys(p.path for p in run)),
                parameters=tuple(used[i]),
                n_parameters=sum(sizes[n] for n in used[i]),
                weight_ops=sum(p.weight_ops for p in run),
                flops=flops[i] // max(1, flow.batch),
                shape=_core_shape(run),
                in_head=run[0].in_head,
                calls=counts[main.path] or 1,
                tower=towers[i] if i < len(body) else 0,
                side=sides[i],
                begins_decoder=i == decoder,
                embeds=main.embedding,
            )
        )
    return tuple(blocks), block_at


def _towers(flow: Flow, block_at: Callable[[int], int], n: int) -> list[int]:
    """For each block of the body the input branch that it alone is computed from.

    A block that reads from two branches joins them: it and all that follows have the number -1.
    """
    reads: list[set[int]] = [set() for _ in range(n)]
    sources: dict[int, set[int]] = {}  # value -> blocks of the body that it is computed from
    for op in flow.trace.ops:
        at = block_at(op.time)
        found = {block for v in op.reads for block in sources.get(v, ())}
        if at < n and op.is_weight_op:
            reads[at] |= found - {at}
            found = {at}
        sources.update(dict.fromkeys(op.writes, found))
    towers: list[int] = []
    for i in range(n):
        joined = {towers[before] for before in reads[i] if before < i}
        towers.append(i if not joined else joined.pop() if len(joined) == 1 else -1)
    return towers


def _decoder(flow: Flow, block_at: Callable[[int], int], body: list[list[Segment]]) -> int | None:
    """The index of the first block of a decoder: all from there on read one activation.

    Its embeddings, which do not, belong to it; a pooler after the encoder does not.
    """
    depth = [sum(s.weight_ops for s in run) for run in body]
    embeds = {i for i, run in enumerate(body) if all(s.embedding for s in run if s.weight_ops)}
    readers: dict[int, set[int]] = {}
    for op in flow.trace.ops:
        at = block_at(op.time)
        for v in op.reads if op.is_weight_op and at < len(body) else ():
            readers.setdefault(v, set()).add(at)
    for value, found in readers.items():
        maker = flow.producer(value)
        at = 0 if maker is None else block_at(maker.time) + 1
        later = {i for i in range(at, len(body)) if depth[i] > 1 and i not in embeds}
        if not at or len(later) < 2 or not later <= found or min(found) < at:
            continue
        first = min(later)
        while first - 1 in embeds and first - 1 >= at:
            first -= 1
        fifth = sum(depth) / 5
        if fifth <= sum(depth[:first]) <= sum(depth) - fifth:
            return first
    return None


def _decoder_of_maps(
    flow: Flow, block_at: Callable[[int], int], body: list[list[Segment]], sides: list[int]
) -> int | None:
    """The index of the first block of a decoder: it enlarges maps and joins earlier ones.

    Blocks before it in the same module belong to it. A decoder has a twentieth of the weight layers
    of the body at least, and its encoder a fifth.
    """
    last = {block_at(op.time): op.time for op in flow.trace.ops if op.is_weight_op}
    joins: dict[int, set[int]] = {}  # block -> longest sides of the maps of earlier blocks it reads
    for op in flow.trace.ops:
        at = block_at(op.time)
        makers = {v: block_at(made.time) for v in op.reads if (made := flow.producer(v))}
        # After the weight layers of a block, what reads no map of its own prepares one for others.
        if at < len(body) and (op.time <= last.get(at, -1) or at in makers.values()):
            maps = [v for v, maker in makers.items() if maker < at - 1 and len(flow.shape(v)) == 4]
            joins.setdefault(at, set()).update(max(flow.shape(v)[2:]) for v in maps)
    joins = {at: found for at, found in joins.items() if found}
    depth = [sum(s.weight_ops for s in run) for run in body]
    first = min(joins, default=0)
    before, after = ([s for s in part if s] for part in (sides[:first], sides[first : len(body)]))
    smallest, total = min(before, default=0), sum(depth)
    if not before or not after or after[-1] <= smallest:
        return None
    least = total / 5
    if not least <= sum(depth[:first]) <= total * 0.95:
        return None
    if not any(side > smallest for found in joins.values() for side in found):
        return None
    own, start = _outermost_apart(main_segment(body[first]).path, main_segment(body[0]).path), first
    while start > 1 and is_within(main_segment(body[start - 1]).path, own):
        start -= 1
    return start if sum(depth[:start]) >= least else first


def _outermost_apart(path: str, other: str) -> str:
    """The outermost module that holds the first path and not the other one."""
    parts = path.split(".")
    shared = commonprefix([parts, other.split(".")])  # noqa: RUF071 # of lists, so of whole names
    return ".".join(parts[: len(shared) + 1])


def _core_shape(run: list[Segment]) -> tuple[int, ...]:
    """Shape of one item after the last segment with a weight layer."""
    last = [p for p in run if p.weight_ops][-1:] or run[-1:]
    return last[0].shape[1:]
