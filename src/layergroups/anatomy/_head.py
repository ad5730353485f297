"""How the head of a network is found: from each output back, through the dataflow."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from layergroups._paths import is_within, layer_of
from layergroups.anatomy._dataflow import Flow
from layergroups.anatomy._trace import ACTIVATION, INPUT, Op, Value
from layergroups.errors import AnatomyError

_UNIT_LENGTH = ("linalg_vector_norm", "norm")
_NORMS = (
    "rsqrt", "native_layer_norm", "_fused_rms_norm", "native_batch_norm", "cudnn_batch_norm",
    "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "native_group_norm",
)  # fmt: skip
_ACTIVATIONS = (
    "relu", "gelu", "silu", "leaky_relu", "elu", "hardswish", "hardtanh", "prelu", "mish",
)  # fmt: skip
_DIRECTION = 4  # numbers at most in a unit vector that is an answer: an angle, a quaternion
_FEW = 16  # times fewer answers than features: no layer of a body is as narrow
_LAYERS_OF_A_BLOCK = 3  # at most, of a last block that answers by a sum
_NAMED_HEAD = re.compile(r"head|classif|logit|predict|(^|\.)(final|out)", re.IGNORECASE)
SEVERAL_DEPTHS = "the output joins several depths, as the end of a residual or dense body does"


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
        ops: times of its operations; empty where it has no weights of its own.
        reason: why it begins there, or why there is none, in words.
        known: True where the caller named the head.
    """

    classifiers: tuple[Classifier, ...]
    ops: frozenset[int]
    reason: str
    known: bool = False

    @property
    def present(self) -> bool:
        """False for a headless network: features come out of it, not answers."""
        return bool(self.classifiers)

    @property
    def start(self) -> int:
        """Time of its first operation; past the end where there is no head."""
        return min(self.ops, default=sys.maxsize)


@dataclass(frozen=True)
class _Output:
    """One tensor that a model returned: who made it, and the last weight layers on each path."""

    made_by: Op
    finals: tuple[Op, ...]
    after: tuple[Op, ...]


def find_head(flow: Flow) -> Head:
    """Find the head: from each output back to the first weight layer on every path, then further.

    Each returned tensor is judged by itself. One from which another is computed (features, hidden
    states) is no answer; the last layers of all that are make up the head, with what comes after
    them. A head of which each classifier takes one vector reaches back over all that works on one
    vector (VGG's three linears, BERT's pooler, a norm), as long as a single activation flows in.
    """
    outputs = _outputs(flow)
    last, features = _answers(flow, outputs)
    problems = [_why_headless(flow, output, features) for output in last]
    answers = [o for o, problem in zip(last, problems, strict=True) if not problem]
    answers += _mapped_answers(flow, [o for o in outputs if o not in last])
    if not answers:
        why = problems[0] if problems else "no layer with a weight matrix leads to the output"
        return Head((), frozenset(), f"{why}; if it has a head, say which: head='path'")
    finals = _last_layers(flow, answers, outputs)
    classifiers = tuple(
        {key: _classifier(flow, op) for op in finals if (key := _weight_of(op))}.values()
    )
    tied = {c.weight for c in classifiers} & _embedded(flow)
    own = [op for op in finals if _weight_of(op) not in tied]
    if tied:
        shared = (
            f"the classifier's weight is that of the embedding {layer_of(min(tied))}, so it "
            "belongs to the body: freezing the embedding freezes it, training it trains both"
        )
    if not own:
        return Head(classifiers, frozenset(), shared)
    ops = _with_what_follows(flow, own)
    ops |= _own_layers(flow, own, ops)
    back = _reach_back(flow, own, ops) if all(c.takes_vector for c in classifiers) else set()
    if back:
        kind = "image" if any(len(v.shape) == 4 for v in _inputs(flow)) else "item"
        reason = f"from here on each {kind} is one vector"
    elif _pools_after(flow, own, ops):
        reason = "the classifier comes before the pooling"
    else:
        reason = "the last layer" if len(classifiers) == 1 else "the last layers, one an output"
    return Head(classifiers, frozenset(ops | back), f"{reason}; {shared}" if tied else reason)


def known_head(flow: Flow, paths: Iterable[str]) -> Head:
    """The head that the caller names, by the paths of its modules.

    Raises:
        AnatomyError: one of them does not run.
    """
    listed = list(paths)
    inside = {
        op.time: path
        for op in flow.trace.ops
        for path in listed
        if any(is_within(place, path) for place in op.inside if place or not path)
    }
    for path in listed:
        if path not in inside.values():
            raise AnatomyError(f"the head {path!r} does not run when the model runs")
    ops = flow.downstream(inside)
    last = [op for op in flow.trace.ops if op.time in ops and op.is_weight_op]
    final = [op for op in last if not any(op.time in flow.upstream(o) for o in last if o != op)]
    classifiers = {_weight_of(op): _classifier(flow, op) for op in final}
    return Head(tuple(classifiers.values()), frozenset(ops), "the new head", known=True)


# -- what answers ----------------------------------------------------------------------------------


def _outputs(flow: Flow) -> list[_Output]:
    """The outputs of a model that are numbers made from its inputs."""
    values = flow.trace.returned or flow.trace.outputs
    made = [v for v in values if flow.trace.values[v].kind == ACTIVATION]
    floating = [v for v in made if flow.trace.values[v].floating]
    found = [_final_weight_ops(flow, v) for v in floating or made]
    return [output for output in found if output.finals]


def _final_weight_ops(flow: Flow, output: int) -> _Output:
    """The last weight layer on every path to an output, and the operations after them."""
    found: dict[int, Op] = {}
    seen: dict[int, Op] = {}
    todo = [output]
    while todo:
        op = flow.producer(todo.pop())
        if op is None or op.time in seen:
            continue
        seen[op.time] = op
        if op.is_weight_op:
            found[op.time] = op
        else:
            read = [v for v in op.reads if flow.trace.values[v].kind == ACTIVATION]
            todo.extend([v for v in read if flow.trace.values[v].floating] or read)
    after = [op for t, op in sorted(seen.items()) if t not in found]
    maker = flow.producer(output)
    assert maker is not None  # an activation
    return _Output(maker, tuple(found[t] for t in sorted(found)), tuple(after))


def _answers(flow: Flow, outputs: list[_Output]) -> tuple[list[_Output], bool]:
    """The outputs from which no other is computed, and whether there are such others."""
    behind: dict[int, set[str]] = {}  # time -> the layers that are computed from it
    for op in {op.time: op for output in outputs for op in output.finals}.values():
        for time in flow.upstream(op, floating=True):
            behind.setdefault(time, set()).add(_weight_of(op))

    def feeds_another(output: _Output) -> bool:
        own = {_weight_of(op) for op in output.finals}
        return all(behind.get(op.time, set()) - own for op in output.finals)

    answers = [output for output in outputs if not feeds_another(output)]
    features = len(answers) < len(outputs)
    used = set[int]().union(*(flow.upstream(o.made_by, floating=True) for o in answers))
    return [o for o in answers if o.made_by.time not in used] or answers or outputs, features


def _mapped_answers(flow: Flow, outputs: list[_Output]) -> list[_Output]:
    """Answers from which others are computed by a small fixed map: boxes as a mean over bins."""
    answers = [o for o in _answers(flow, outputs)[0] if not _why_headless(flow, o, False)]
    finals = {op.time: op for answer in answers for op in answer.finals}
    later = flow.downstream(finals) - finals.keys()
    names = {n for op in flow.trace.ops if op.time in later for n in op.parameters}
    size = sum(math.prod(flow.trace.shapes[n]) for n in names)
    width = max((_classifier(flow, op).out_features for op in finals.values()), default=0)
    return answers if 0 < size < width else []  # a layer on features has a number for each


# -- why an output is no answer --------------------------------------------------------------------


def _why_headless(flow: Flow, output: _Output, features: bool) -> str:
    """Why the last layers before an output are no classifier, or "" where they are."""
    finals, after = output.finals, output.after
    names = {op.name.removesuffix("_") for op in after}
    maps = [_classifier(flow, op) for op in finals]
    narrow = all(c.out_features < c.in_features for c in maps)
    by_time = {op.time: _weight_of(op) for op in finals}
    first = [op for op in finals if not any(
        by_time.get(t, _weight_of(op)) != _weight_of(op) for t in flow.upstream(op)
    )]  # fmt: skip
    by_hand = {"pow", "sum", "div"} <= names
    one_number = math.prod(flow.shape(output.made_by.writes[0])) <= 1  # as a loss is
    unit = not one_number and (by_hand or not names.isdisjoint(_UNIT_LENGTH))
    if unit and max(c.out_features for c in maps) > _DIRECTION:
        return "the output is normalised to unit length, as an embedding is"
    if len(first) < len(finals):  # one final layer is computed from another
        into = [_classifier(flow, op) for op in first]
        one_width = len({c.out_features for c in maps}) == 1
        few = len(flow.downstream(op.time for op in first)) < len(flow.trace.ops) / 2
        few &= len({_weight_of(op) for op in finals}) <= _LAYERS_OF_A_BLOCK
        if not (one_width and few and all(c.out_features < c.in_features / 2 for c in into)):
            return SEVERAL_DEPTHS
        later = flow.downstream(op.time for op in finals if op not in first)
        after = tuple(op for op in after if op.time in later)
        names = {op.name.removesuffix("_") for op in after}
        output, maps, narrow = replace(output, finals=tuple(first), after=after), into, True
    if all("embedding" in op.name for op in finals):
        return "the output is an embedding"
    if features and all(c.out_features == c.in_features for c in maps):
        return "the output is as wide as the features, as that of a pooler"
    # A norm of the answers themselves is usual; one of the last map, or of averaged tokens, is that
    # of an encoder.
    on_map = any(
        (op.name == "convolution" or "mean" in names) and not m.takes_vector
        for op, m in zip(output.finals, maps, strict=True)
    )
    as_features = not names.isdisjoint(_NORMS) and (on_map or not names.isdisjoint(_ACTIVATIONS))
    as_features &= not all(c.out_features * _FEW < c.in_features for c in maps)
    if not narrow or as_features:
        return _as_in_a_body(flow, output, names, maps)
    return ""


def _as_in_a_body(flow: Flow, output: _Output, names: set[str], maps: list[Classifier]) -> str:
    """Why a last layer that makes nothing narrower is one of a body; "" where it is not."""
    for op, made in zip(output.finals, maps, strict=True):
        if len(op.weight_shape) > 2 and max(op.weight_shape[2:]) > 1:
            same = made.out_features == made.in_features and not _NAMED_HEAD.search(made.path)
            if same or not names.isdisjoint((*_ACTIVATIONS, *_NORMS)):
                return "the last convolution looks at neighbourhoods, as feature layers do"
    homes = {layer_of(name) for op in output.finals for name in op.parameters}
    width = min(flow.shape(op.writes[0])[-1] for op in output.finals)
    for later, name in ((op, n) for op in output.after for n in op.parameters):
        layer = layer_of(name)
        if later.name in ("add", "add_") and len(flow.trace.shapes[name]) == 1:
            continue  # the bias of a layer whose weight is elsewhere
        outside = not any(is_within(home, layer) for home in homes)
        if outside and math.prod(flow.trace.shapes[name]) >= width:
            return f"after the last linear layer comes {layer or name}, as in a body"
    return "" if names.isdisjoint(_NORMS) else "the output is normalised, as features are"


# -- the last layers -------------------------------------------------------------------------------


def _last_layers(flow: Flow, answers: list[_Output], outputs: list[_Output]) -> list[Op]:
    """The last layers of the answers: all their calls, and boxes beside their classes."""
    finals = {op.time: op for answer in answers for op in answer.finals}
    read = {v for op in finals.values() for v in op.reads}
    beside = [op for output in outputs for op in output.finals if not read.isdisjoint(op.reads)]
    finals.update((op.time, op) for op in beside)
    weights = {_weight_of(op) for op in finals.values()}
    again = [op for op in flow.trace.ops if op.is_weight_op and _weight_of(op) in weights]
    finals.update((op.time, op) for op in again if "embedding" not in op.name)
    return [finals[time] for time in sorted(finals)]


def _classifier(flow: Flow, op: Op) -> Classifier:
    incoming = next((v for v in op.reads if flow.trace.values[v].kind == ACTIVATION), op.reads[0])
    outgoing = flow.shape(op.writes[0])
    weight = _weight_of(op)
    is_convolution = op.name == "convolution"
    out_features = outgoing[1] if is_convolution and len(outgoing) > 1 else outgoing[-1]
    sizes = op.weight_shape[-2:] if op.name in ("bmm", "baddbmm") else op.weight_shape[:2]
    size = [s for s in sizes if s != out_features] or [out_features]
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


def _embedded(flow: Flow) -> set[str]:
    """Names of the weights that an embedding layer uses."""
    return {name for op in flow.trace.ops if "embedding" in op.name for name in op.parameters}


def _takes_vectors(flow: Flow, op: Op) -> bool:
    """True where a map is flattened, or a token taken, so that one vector an item comes in."""
    return (
        op.name != "convolution"
        and len(flow.shape(op.writes[0])) == 2
        and flow.is_vector(op.writes[0])
    )


# -- what else belongs to the head -----------------------------------------------------------------


def _with_what_follows(flow: Flow, finals: list[Op]) -> set[int]:
    """Times of the last layers and of what depends on them.

    Of those whose answer other layers refine (boxes from one decoder layer to the next), the times
    of these alone.
    """
    times = {op.time for op in finals}
    before = set[int]().union(*(flow.upstream(op) for op in finals)) - times
    layers = {op.time for op in flow.trace.ops if op.is_weight_op and op.time in before}
    ends = [op.time for op in finals if layers.isdisjoint(flow.downstream([op.time]))]
    return flow.downstream(ends) | times


def _own_layers(flow: Flow, finals: list[Op], head: set[int]) -> set[int]:
    """Times of hidden layers of several heads that begin at the same activations.

    These are the layers of a head's own (of a box head with three linears); a head that begins at
    a depth (an early exit), or in a tower, of its own has none.
    """
    layers: dict[str, list[Op]] = {}
    for op in finals:
        layers.setdefault(_weight_of(op), []).append(op)
    upstream = [set[int]().union(*(flow.upstream(op) for op in ops)) for ops in layers.values()]
    by_time = {op.time: op for op in flow.trace.ops}
    begun: dict[frozenset[int], list[set[int]]] = {}
    for above, ops in zip(upstream, layers.values(), strict=True):
        private = above - set[int]().union(*(o for o in upstream if o is not above)) - head
        reads = {v for t in private | {op.time for op in ops} for v in by_time[t].reads}
        begin = frozenset(v for v in reads if flow.produced_at.get(v, -1) not in private)
        at_inputs = any(flow.trace.values[v].kind == INPUT for v in begin)
        if not at_inputs and len(ops) >= len(begin):  # on each of several maps, as in a detector
            begun.setdefault(begin, []).append(private)
    own = set[int]().union(
        *(p for privates in begun.values() if len(privates) > 1 for p in privates)
    )
    depth = sum(op.adds_depth for op in flow.trace.ops)
    taken = sum(op.adds_depth for op in flow.trace.ops if op.time in own | head)
    return own if taken <= depth / 2 else set()


def _reach_back(flow: Flow, finals: list[Op], head: set[int]) -> set[int]:
    """Times of the operations before the classifiers that work on the one vector of a map."""
    by_time = {op.time: op for op in flow.trace.ops}
    upstream = set[int]().union(*(flow.upstream(op) for op in finals)) - head
    again = {name for op in flow.trace.ops if op.repeats for name in op.parameters}
    of_map: set[int] = set()  # values that are maps, or made from a map
    for time in sorted(upstream):
        op = by_time[time]
        if any(v in of_map or not flow.is_vector(v) for v in op.reads):
            of_map.update(op.writes)
    back = [
        op
        for op in (by_time[time] for time in sorted(upstream, reverse=True))
        if _is_vector_op(flow, op)
        and of_map.issuperset(op.writes)
        and again.isdisjoint(op.parameters)
    ]
    back = _whole_layers(flow, _connected(flow, back, head), head)
    while back and _boundary(flow, back, head, by_time) > 1:
        back.pop()
    weight_ops = [op for op in flow.trace.ops if op.adds_depth]
    taken = sum(op.time in head for op in weight_ops) + sum(op.adds_depth for op in back)
    return {op.time for op in back} if taken <= len(weight_ops) / 2 else set()


def _connected(flow: Flow, back: list[Op], head: set[int]) -> list[Op]:
    """Those of which all that depends on them is among them, or in the head; latest first."""
    readers: dict[int, list[int]] = {}
    for op in flow.trace.ops:
        for v in op.reads:
            readers.setdefault(v, []).append(op.time)
    kept: list[Op] = []
    inside = set(head)
    for op in back:
        if all(t in inside for v in op.writes for t in readers.get(v, ()) if t != op.time):
            kept.append(op)
            inside.add(op.time)
    return kept


def _whole_layers(flow: Flow, back: list[Op], head: set[int]) -> list[Op]:
    """Those after the last that uses a part of a layer alone, such as the bias of a graph layer."""
    inside = {op.time for op in back} | head
    outside = {layer_of(n) for op in flow.trace.ops if op.time not in inside for n in op.parameters}
    for i, op in enumerate(back):
        layers = {layer_of(n) for n in op.parameters} - {""}
        if any(is_within(other, layer) for layer in layers for other in outside):
            return back[:i]
    return back


def _boundary(flow: Flow, back: list[Op], head: set[int], by_time: dict[int, Op]) -> int:
    """How many activations from outside flow into these operations and the head."""
    inside = {op.time for op in back} | head
    values = {v for t in inside for v in by_time[t].reads}
    return sum(flow.produced_at.get(v, min(inside)) not in inside for v in values)


def _is_vector_op(flow: Flow, op: Op) -> bool:
    made = next(flow.activations(op), None)  # a batch norm gives its statistics too
    return made is None or flow.is_vector(made)


def _pools_after(flow: Flow, finals: list[Op], head: set[int]) -> bool:
    """Whether what the classifiers give for each place is averaged to one vector an item."""
    mapped = all(not flow.is_vector(op.writes[0]) for op in finals)
    later = [op for op in flow.trace.ops if op.time in head]
    return mapped and any(flow.is_vector(v) for op in later[-1:] for v in flow.activations(op))


def _inputs(flow: Flow) -> list[Value]:
    return [v for v in flow.trace.values if v.producer == -1 and v.kind == INPUT]
