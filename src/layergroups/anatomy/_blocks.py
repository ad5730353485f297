"""The blocks of a network: the smallest pieces that are never split, in the order of execution.

From the root down a module is opened when it is a chain: at the start of each child at most one
earlier activation is still needed inside it, and after the child none of them. So a chain of
residual blocks is opened and a residual block stays whole. Opened too: plain containers, and
classes that hold more than about a third of all contractions and repeat one kind of part (dense
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
from layergroups.anatomy._trace import Call, Op

_LARGE = 1 / 3


@dataclass(frozen=True)
class Piece:
    """One stretch of the run that is not divided further: a whole call, or one operation."""

    path: str
    kind: str
    start: int
    end: int
    contractions: int
    shape: tuple[int, ...]
    embedding: bool
    fresh: bool


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


class _Opener:
    """Decides which modules are opened."""

    def __init__(self, model: nn.Module, flow: Flow, root: Node, head_start: int) -> None:
        self.flow = flow
        self.modules = dict(model.named_modules())
        self.head_start = head_start
        before = flow.between(0, head_start)
        self.body_end = before[-1].time if before else 0
        self.forced: set[str] = set()
        self.uses = list(flow.trace.first_use.values())
        self.total = max(1, sum(op.contraction for op in flow.trace.ops))
        below = [node for node in walk(root) if node is not root]
        self.closed_kinds = {self.kind(node) for node in below if not self.is_chain(node)}
        self.large_kinds = {
            self.kind(node)
            for node in below
            if self.contractions(node) > self.total * _LARGE and self._repeats(node)
        }

    def kind(self, node: Node) -> str:
        return type(self.modules[node.call.path]).__name__

    def fresh(self, start: int, end: int) -> bool:
        """Whether a parameter is used there that was not used before."""
        return bisect_left(self.uses, start) < bisect_left(self.uses, end)

    def is_container(self, node: Node) -> bool:
        return isinstance(self.modules[node.call.path], (nn.Sequential, nn.ModuleList))

    def contractions(self, node: Node) -> int:
        return sum(op.contraction for op in self.flow.between(node.call.start, node.call.end))

    def opened(self, node: Node, inside_chain: bool) -> bool:
        """True where the node's children become pieces of their own."""
        if not node.children:
            return False
        if self.straddles(node) or self.is_container(node):
            return True
        if self.contractions(node) < 2:
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
            self.flow.needed(c.call.start, c.call.start, end) <= 1
            and not self.flow.needed(c.call.start, c.call.end, end)
            for c in node.children
            if self.flow.between(c.call.start, min(c.call.end, end))
        )

    def straddles(self, node: Node) -> bool:
        """True where a part of the node belongs to the body and a part to the head."""
        return node.call.start <= self.body_end and self.head_start < node.call.end

    def _repeats(self, node: Node) -> bool:
        kinds = Counter(self.kind(n) for n in _flatten_containers(node, self) if n.children)
        return any(count >= 2 for count in kinds.values())


def _flatten_containers(node: Node, opener: _Opener) -> Iterator[Node]:
    for child in node.children:
        if opener.is_container(child):
            yield from _flatten_containers(child, opener)
        else:
            yield child


def walk(node: Node) -> Iterator[Node]:
    """A node and all below it."""
    yield node
    for child in node.children:
        yield from walk(child)


def find_pieces(model: nn.Module, flow: Flow, head_start: int) -> list[Piece]:
    """Cut the run into pieces, in the order of time."""
    root = call_tree(flow.trace.calls)
    opener = _Opener(model, flow, root, head_start)
    while True:
        pieces = _pieces(root, opener)
        closed = _too_large(root, pieces, opener)
        if not closed:
            return pieces
        opener.forced.add(closed)


def _too_large(root: Node, pieces: list[Piece], opener: _Opener) -> str:
    """Path of a piece that holds more than half of the body's depth and has parts, or ""."""
    body = [p for p in pieces if p.contractions and p.start <= opener.body_end]
    half = sum(p.contractions for p in body) / 2
    large = {p.start: p.path for p in body if p.contractions > half}
    nodes = {n.call.start: n for n in walk(root) if n.call.start in large}
    for start, node in nodes.items():
        parts = sum(opener.contractions(c) > 0 for c in _flatten_containers(node, opener))
        if parts > 1 and node is not root and large[start] not in opener.forced:
            return large[start]
    return ""


def _pieces(root: Node, opener: _Opener) -> list[Piece]:
    pieces: list[Piece] = []

    def visit(node: Node, inside_chain: bool) -> None:
        if node is not root and not opener.opened(node, inside_chain):
            pieces.append(_whole(node, opener))
            return
        chain = inside_chain and opener.is_chain(node)
        moment = node.call.start
        for child in node.children:
            pieces.extend(_own(node, moment, child.call.start, opener))
            visit(child, chain)
            moment = child.call.end
        pieces.extend(_own(node, moment, node.call.end, opener))

    visit(root, True)
    return pieces


def _whole(node: Node, opener: _Opener) -> Piece:
    ops = opener.flow.between(node.call.start, node.call.end)
    return Piece(
        path=node.call.path,
        kind=opener.kind(node),
        start=node.call.start,
        end=node.call.end,
        contractions=sum(op.contraction for op in ops),
        shape=node.call.shape,
        embedding=_only_embeddings(ops),
        fresh=opener.fresh(node.call.start, node.call.end),
    )


def _own(node: Node, start: int, end: int, opener: _Opener) -> Iterator[Piece]:
    """Operations that a module runs itself, between its children."""
    for op in opener.flow.between(start, end):
        if op.parameters:
            yield Piece(
                path=layer_of(op.parameters[-1]),
                kind=opener.kind(node),
                start=op.time,
                end=op.time + 1,
                contractions=int(op.contraction),
                shape=opener.flow.shape(op.writes[0]),
                embedding=_only_embeddings((op,)),
                fresh=opener.fresh(op.time, op.time + 1),
            )


def _only_embeddings(ops: tuple[Op, ...]) -> bool:
    contractions = [op for op in ops if op.contraction]
    return bool(contractions) and all("embedding" in op.name for op in contractions)


@dataclass(frozen=True)
class Block:
    """The smallest part of a network that is never split.

    Attributes:
        index: its place in the order of execution.
        name: "stem", or the path of its first module with a weight matrix.
        kind: class of that module, "BasicBlock".
        start: first moment on the clock of the trace; it lasts until the next block starts.
        modules: paths of the modules that make it up, in order.
        parameters: names of its parameters, in the order of first use.
        n_parameters: number of scalars in them.
        contractions: how many linear maps by a weight it runs: its share of the depth.
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
    contractions: int
    flops: int
    shape: tuple[int, ...]
    in_head: bool
    calls: int


def group_pieces(pieces: list[Piece], head_start: int) -> list[list[Piece]]:
    """Join pieces to blocks: what has no contraction of its own joins the block before it."""
    runs: list[list[Piece]] = []
    for piece in pieces:
        if not runs or _begins_block(runs[-1], piece, head_start):
            runs.append([])
        runs[-1].append(piece)
    return _with_stem([run for run in runs if run])


def _begins_block(run: list[Piece], piece: Piece, head_start: int) -> bool:
    if (piece.start >= head_start) != (run[-1].start >= head_start):
        return any(p.contractions for p in run) or piece.start >= head_start
    if not piece.fresh or not piece.contractions or not any(p.contractions for p in run):
        return False
    return not (piece.embedding and all(p.embedding for p in run if p.contractions))


def main_piece(run: list[Piece]) -> Piece:
    """The piece that a block is named after."""
    return next((p for p in run if p.contractions), run[0])


def _with_stem(runs: list[list[Piece]]) -> list[list[Piece]]:
    """Join what comes before the first consecutive run of blocks of one class."""
    kinds = [main_piece(run).kind for run in runs]
    first = next((i for i in range(len(runs) - 1) if kinds[i] == kinds[i + 1]), 0)
    weight = [sum(p.contractions for p in run) for run in runs]
    if first == 0 or sum(weight[:first]) > sum(weight) * _LARGE:
        return runs
    return [[p for run in runs[:first] for p in run], *runs[first:]]


def has_stem(runs: list[list[Piece]]) -> bool:
    """Whether the first block is a stem: another class than the run of blocks after it."""
    kinds = [main_piece(run).kind for run in runs]
    return len(runs) > 2 and kinds[0] != kinds[1] and kinds[1] == kinds[2]


def find_blocks(model: nn.Module, flow: Flow, head: Head) -> tuple[Block, ...]:
    """The ordered blocks of a model."""
    pieces = find_pieces(model, flow, head.start)
    start = _first_of_head(flow, pieces, head)
    runs = group_pieces(pieces, start)
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
        main = main_piece(run)
        blocks.append(
            Block(
                index=i,
                name="stem" if i == 0 and stem else main.path or "(root)",
                kind=main.kind,
                start=begin,
                modules=tuple(dict.fromkeys(p.path for p in run)),
                parameters=used,
                n_parameters=sum(sizes[n] for n in used),
                contractions=sum(p.contractions for p in run),
                flops=sum(op.flops for op in flow.between(begin, end)) // max(1, flow.batch),
                shape=_core_shape(run),
                in_head=run[0].start >= start,
                calls=counts[main.path] or 1,
            )
        )
    return tuple(blocks)


def _first_of_head(flow: Flow, pieces: list[Piece], head: Head) -> int:
    """The moment after the last piece of the body has ended.

    What does nothing in a dry run (dropout) and stands before a head that was found is counted to
    the head.
    """
    before = flow.between(0, head.start)
    if len(before) == len(flow.trace.ops):
        return flow.trace.calls[0].end + 1
    if head.known or not before:
        return head.start
    return max((p.end for p in pieces if p.start <= before[-1].time), default=0)


def _core_shape(run: list[Piece]) -> tuple[int, ...]:
    """Shape of one item after the last piece with a contraction."""
    last = [p for p in run if p.contractions][-1:] or run[-1:]
    return last[0].shape[1:]
