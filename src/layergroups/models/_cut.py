"""Cut the body from a network, where the dataflow shows its end, and attach a new head."""

from __future__ import annotations

import copy
import logging
import math
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from types import MethodType
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from layergroups._paths import parent
from layergroups._torch import NormBase
from layergroups.anatomy import (
    Flow,
    Head,
    Op,
    Trace,
    find_head,
    is_vector,
    output_shape,
    trace,
    unwrap,
)
from layergroups.errors import AnatomyError, CutError, InputSizeError
from layergroups.groups import LayerGroups, Split
from layergroups.input_spec import InputSpec
from layergroups.models._catalog import LoadedModel
from layergroups.models._depths import DepthFeatures, find_depths
from layergroups.models._feature_maps import Encoder, FeatureMap
from layergroups.models._heads import ConcatLinear, HeadOptions, create_head, whole_path

log = logging.getLogger("layergroups")
CutGiven = int | str | Callable[[nn.Module], nn.Module]
_SIDES = (64, 96, 128, 160, 192, 224, 240, 256, 288, 299, 320, 384, 448, 512)
_MEANS = ("mean", "adaptive_avg_pool2d", "_adaptive_avg_pool2d", "avg_pool2d")
_POOLS = (*_MEANS, "max_pool2d_with_indices", "max_pool2d", "adaptive_max_pool2d")
_COPIES = ("clone", "_to_copy", "contiguous", "_unsafe_view", "reshape", "dropout")


@dataclass(frozen=True)
class Cut:
    """How a body is cut from a network."""

    # "chain": the body is a `Sequential` of `children`. "whole": the body is the network without
    # `removed`. "reset": likewise, by the network's own `reset_classifier`. "by hand": the caller's
    # `cut`
    kind: str
    children: tuple[str, ...]  # names of the network's children in a chain
    removed: tuple[str, ...]  # paths of the removed modules with parameters, the classifier first
    reason: str  # why the body ends there
    path: str = ""  # of the first module to leave out, if the caller's cut is inside a child
    idle: tuple[str, ...] = ()  # paths of modules that stay in the body but no longer run
    maps: tuple[FeatureMap, ...] = ()  # that a decoder reads
    depths: tuple[FeatureMap, ...] = ()  # whose statistics follow the body's output
    unread: tuple[str, ...] = ()  # removed from the body, because they come after these maps

    def __str__(self) -> str:
        if self.kind in ("whole", "reset"):
            without = f" without {', '.join(self.removed)}" if self.removed else ""
            return f"the body is the whole network{without}: {self.reason}"
        span = self.children[0] + (f" … {self.children[-1]}" if len(self.children) > 1 else "")
        removed = f"; removed: {', '.join(self.removed)}" if self.removed else ""
        return f"the body is {span}{removed}: {self.reason}"


def _plan(network: nn.Module, found: Trace) -> Cut:
    """Decide how to cut a body so that no pretrained layer is bypassed.

    A plain chain of children is cut before its pooling (or before linear layers that read a
    flattened map, which fit one image size only). Any other network keeps its forward and loses
    only its classifier.
    """
    flow = Flow(found)
    if not found.outputs or not flow.is_vector(found.outputs[0]):
        return Cut("whole", (), (), "its output is a map or tokens, not classes")
    head = find_head(flow)
    if not head.present:
        return Cut("whole", (), (), f"it has no classifier ({head.reason})")
    ends, reason = _ends_of_map(flow, head)
    for op in ends:
        children = _chain_before(network, flow, op)
        if children:
            names = [n for o in flow.trace.ops if o.time >= op.time for n in o.parameters]
            gone = list(dict.fromkeys(map(parent, names)))
            return Cut("chain", children, tuple(reversed(gone)), reason)
    return _without_classifiers(network, head, "its own forward runs, so no layer is bypassed")


def _without_classifiers(network: nn.Module, head: Head, reason: str) -> Cut:
    paths = dict.fromkeys(whole_path(network, c.path) for c in head.classifiers)
    return Cut("whole", (), tuple(paths), reason)


def _ends_of_map(flow: Flow, head: Head) -> tuple[list[Op], str]:
    """Operations after which no pretrained layer is worth keeping, earliest first."""
    ops = flow.trace.ops
    if len(head.classifiers) > 1:
        return [], ""
    classifier = ops[bisect_left(flow.times, head.classifiers[0].time)]
    inside = [o for o in ops if o.time >= head.start and o.is_weight_op]
    flattening = next((o for o in inside if _reads_flattened_map(flow, o)), None)
    if flattening is not None:
        return _with_pools(flow, flattening), "after it a map is flattened for one image size"
    if not head.classifiers[0].takes_vector and classifier.name == "convolution":
        return [classifier], "after it comes the classifier, pooled afterwards"
    pool = _plain_mean_before(flow, classifier)
    return ([], "") if pool is None else ([pool], "after it the map is averaged for the classifier")


def _reads_flattened_map(flow: Flow, op: Op) -> bool:
    if len(op.reads) != 1 or op.name == "convolution":
        return False
    shape = flow.shape(op.reads[0])
    return (
        len(shape) == 4
        and not flow.is_vector(op.reads[0])
        and math.prod(shape[1:]) in op.weight_shape
    )


def _before(flow: Flow, op: Op) -> Op | None:
    """The only producer of an operation's input, if it has no parameters."""
    before = flow.producer(op.reads[0]) if len(op.reads) == 1 else None
    return None if before is None or before.parameters else before


def _with_pools(flow: Flow, op: Op) -> list[Op]:
    found = [op]
    while (before := _before(flow, found[0])) and before.name in _POOLS + _COPIES:
        found.insert(0, before)
    return found


def _plain_mean_before(flow: Flow, classifier: Op) -> Op | None:
    """The global average that feeds a classifier directly, or through views and copies."""
    mean = _before(flow, classifier)
    while mean is not None and mean.name in _COPIES:
        mean = _before(flow, mean)
    if mean is None or mean.name not in _MEANS or len(mean.reads) != 1:
        return None
    shape, channels = mean.read_shapes[0], math.prod(flow.shape(mean.writes[0])[1:])
    is_map = len(shape) == 4 and shape[1] == channels  # not one with its channels last
    return mean if is_map and not is_vector(shape) else None


def _chain_before(network: nn.Module, flow: Flow, op: Op) -> tuple[str, ...]:
    """Children that run before an operation; () unless the network only calls each in turn."""
    children = {name for name, _ in network.named_children()}
    calls = [c for c in flow.trace.calls if c.path in children]
    end = next((c.start for c in calls if c.start <= op.time < c.end), op.time)
    before = [c for c in calls if c.start < end]
    outside = [o for o in flow.between(0, end) if not children.intersection(o.inside)]
    once = len({c.path for c in calls}) == len(calls)
    chained = all(
        flow.live_values(c.start, c.start, end) <= 1 and not flow.live_values(c.start, c.end, end)
        for c in before
    )
    return tuple(c.path for c in before) if once and chained and not outside else ()


@dataclass(frozen=True)
class Assembled:
    """A body with a new head: `model` is `Sequential(body, head)`."""

    model: nn.Sequential
    cut: Cut
    features: int  # channels of the body's output
    pooled: bool  # whether the body returns one vector per image, so the head has no pooling
    network: str  # class of the original network
    input: InputSpec  # the images that the body's weights expect
    example: Tensor  # zeros of shape (2, C, H, W)

    def layer_groups(self, split: Split = "auto") -> LayerGroups:
        """The layer groups of the model; its last child is the head.

        A list of paths may use the names of the original network, "layer2" for "0.body.layer2".
        """
        if isinstance(split, (list, tuple)):
            paths = dict(self.model.named_modules())
            prefixes = ("", "0.", "0.body.")
            split = [next((b + p for b in prefixes if b + p in paths), p) for p in split]
        return LayerGroups(
            self.model, split, example_input=self.example, head="1", network=self.network
        )


class TokensAsMap(nn.Module):
    """Reshape tokens (N, T, C) to a map (N, C, T, 1) for a pooling head."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2).unsqueeze(-1)


def assemble(
    loaded: LoadedModel,
    n_out: int,
    *,
    size: int | tuple[int, int],
    cut: CutGiven | None = None,
    custom_head: nn.Module | None = None,
    depths: bool = False,
    **options: Unpack[HeadOptions],
) -> Assembled:
    """Attach a new head, see `create_head`, to the body of a network, see `create_body`.

    With `depths` the head reads `DepthFeatures` of the body.
    """
    example = images_of(loaded.input.channels, size)
    body, planned, found = cut_body(loaded, example, cut)
    shape = output_shape(found)
    if depths and (deep := _with_depths(body, found, example)):
        body, shape = deep
        planned = replace(planned, depths=body.maps)
    lost = planned.removed[1:] + planned.idle
    if lost:
        log.warning("removed together with the classifier: %s", ", ".join(lost))
    pooled, features = len(shape) == 2, shape[-1] if len(shape) == 3 else shape[1]
    head = custom_head
    if head is None:
        inner = 2 * sum(each.channels for each in planned.depths)
        head = create_head(features, n_out, pool=not pooled, inner=inner, **options)
        if len(shape) == 3:
            head = nn.Sequential(TokensAsMap(), *head)
    where = next(body.parameters(), example).device
    return Assembled(
        model=nn.Sequential(body, head.to(where)),
        cut=planned,
        features=features,
        pooled=pooled,
        network=type(loaded.model).__name__,
        input=loaded.input,
        example=example,
    )


def _with_depths(
    body: nn.Module, found: Trace, example: Tensor
) -> tuple[DepthFeatures, tuple[int, ...]] | None:
    """The body with features of several depths, and their shape; None if it gives none."""
    maps = find_depths(found, body)
    if not maps:
        log.info("The head reads the output of the body alone: no inner feature maps were found.")
        return None
    made = DepthFeatures(body, maps)
    try:
        return made, output_shape(trace(made, example))
    except AnatomyError as error:
        log.warning("The head reads the output of the body alone, not of several depths: %s", error)
        return None


def create_body(
    network: nn.Module,
    cut: CutGiven | None = None,
    *,
    size: int | tuple[int, int] = 224,
    example_input: Tensor | None = None,
) -> nn.Module:
    """The body of a network: everything but its classifier.

    The network does not change. The body is a new container of the same layers, so both share
    their weights: training one trains the other. For separate weights, pass a copy:
    `create_body(copy.deepcopy(network))`.

    Args:
        network: a network for images.
        cut: where the body ends, instead of where the dataflow shows: an index into the children
            (`cut=-2` leaves the last two out), the path of the first module to leave out, or a
            function from the network to a body.
        size: side, or height and width, of the images, in pixels.
        example_input: images (N, C, H, W), instead of `size`. Without it, the number of channels
            is found by running the network.

    Raises:
        CutError: the body cannot be cut there.
        InputSizeError: the network cannot take images of this size.
        AnatomyError: the network cannot be run.
    """
    network = unwrap(network)
    name, spec = f"module:{type(network).__name__}", InputSpec()
    loaded = LoadedModel(model=network, name=name, input=spec, pretrained=False, weights="")
    if example_input is None:  # three channels, or as many as one of the convolutions takes
        convolutions = [m.in_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
        tried = [images_of(channels, size) for channels in dict.fromkeys([3, *convolutions])]
        example_input = next((each for each in tried if runs_on(network, each)), tried[0])
    return cut_body(loaded, example_input, cut)[0]


def images_of(channels: int, size: int | tuple[int, int]) -> Tensor:
    height, width = (size, size) if isinstance(size, int) else size
    return torch.zeros(2, channels, height, width)


def apply_cut(network: nn.Module, cut: Cut) -> nn.Module:
    """Apply a cut: the body shares its layers with the network, which does not change.

    Raises:
        CutError: the network has no such children or modules.
    """
    body = _body(network, cut)
    if cut.maps:
        return Encoder(_without(body, cut.unread), cut.maps)
    return DepthFeatures(body, cut.depths) if cut.depths else body


def _body(network: nn.Module, cut: Cut) -> nn.Module:
    if cut.kind == "whole":
        return _without(network, cut.removed)
    if cut.kind == "reset":
        # copy all modules but share the tensors: reset_classifier may change any of the modules
        tensors = [*network.parameters(), *network.buffers()]
        body: Any = copy.deepcopy(network, {id(tensor): tensor for tensor in tensors})
        body.reset_classifier(0)
        return body  # type: ignore[no-any-return] # a module
    if cut.path:
        return _body_before(network, cut.path)
    children = dict(network.named_children())
    missing = [name for name in cut.children if name not in children]
    if missing:
        raise CutError(f"no child is named {', '.join(missing)}; {_children(network)}.")
    return nn.Sequential(OrderedDict((name, children[name]) for name in cut.children))


def _without(network: nn.Module, removed: Sequence[str]) -> nn.Module:
    """The network in new containers, with an Identity in place of each removed module."""
    for path in removed:
        _check_removable(network, path)
    gone = {network.get_submodule(path) for path in removed}
    body = _new_container(network) if removed else network
    renewed = {""}
    for path, module in network.named_modules(remove_duplicate=False):
        if module not in gone:
            continue
        above, _, name = path.rpartition(".")
        for place in accumulate(above.split("."), lambda outer, inner: f"{outer}.{inner}"):
            if place not in renewed:
                body.set_submodule(place, _new_container(body.get_submodule(place)))
                renewed.add(place)
        setattr(body.get_submodule(above), name, nn.Identity())
    return body


def _new_container(module: nn.Module) -> nn.Module:
    """A shallow copy that shares parameters and children, like the replicas of DataParallel."""
    copied = object.__new__(type(module))
    own = vars(nn.Module())  # children, parameters, buffers and hooks are registered in these
    for name, value in vars(module).items():
        if name in own and isinstance(value, (dict, set)):
            value = value.copy()
        elif isinstance(value, MethodType) and value.__self__ is module:
            value = MethodType(value.__func__, copied)
        copied.__dict__[name] = value
    return copied


def _check_removable(network: nn.Module, path: str) -> None:
    layer = network.get_submodule(path)
    # a batch norm of timm has its activation inside
    whole = not any(layer.children()) or isinstance(layer, (ConcatLinear, NormBase))
    if not path or not (whole or hasattr(layer, "parametrizations")):
        raise CutError(
            f"the classifier of {type(network).__name__} is not a separate layer but part of "
            f"{path or 'the network'} ({type(layer).__name__}). Choose where the body ends: "
            f"cut={path!r}, or a function, cut=lambda network: network.features"
        )


def cut_body(
    loaded: LoadedModel, example: Tensor, cut: CutGiven | None
) -> tuple[nn.Module, Cut, Trace]:
    """The body of a network, how it was cut, and the trace of the body."""
    network = loaded.model
    if cut is not None:
        body, planned = _by_hand(network, cut)
        return body, planned, _trace_body(body, example, planned)
    found = _trace_at(loaded, example)
    planned, seen, seen_at = _plan_at_full_size(loaded, found, example)
    if planned.kind == "chain":
        body = apply_cut(network, planned)
        if _same_function(seen, body, seen_at):
            return body, planned, _trace_body(body, example, planned)
        planned = _without_classifiers(
            network, find_head(Flow(found)), "its children do not run as a plain chain"
        )
    try:
        body = apply_cut(network, planned)
        now = _trace_body(body, example, planned)
    except CutError:
        if not planned.removed or not hasattr(network, "reset_classifier"):
            raise
        planned = replace(planned, kind="reset")
        body = apply_cut(network, planned)
        now = _trace_body(body, example, planned)
    inside = tuple(f"{path}." for path in planned.removed)
    lost = [n for n in found.first_use if n not in now.first_use and not n.startswith(inside)]
    idle = tuple(dict.fromkeys(parent(n) or n for n in lost))
    return body, replace(planned, idle=idle), now


def _plan_at_full_size(
    loaded: LoadedModel, found: Trace, example: Tensor
) -> tuple[Cut, Trace, Tensor]:
    """A plan for the cut, its trace, and the input of that trace.

    On small images the last map may be a single pixel, which looks like a vector. Then the network
    is traced at the size that its weights were trained with.
    """
    planned = _plan(loaded.model, found)
    full = images_of(example.shape[1], loaded.input.size)
    if planned.kind == "whole" and full.shape[-1] > example.shape[-1]:
        try:
            larger = trace(loaded.model, full)
        except AnatomyError:
            return planned, found, example
        at_full_size = _plan(loaded.model, larger)
        if at_full_size.kind == "chain":
            return at_full_size, larger, full
    return planned, found, example


def _same_function(found: Trace, body: nn.Module, example: Tensor) -> bool:
    """Whether a chain runs the same operations on the same weights."""
    try:
        theirs = trace(body, example)
    except AnatomyError:
        return False
    names = [(op.name, op.parameters, op.weight_shape) for op in theirs.ops]
    start = [(op.name, op.parameters, op.weight_shape) for op in found.ops[: len(names)]]
    return names == start


def _trace_at(loaded: LoadedModel, example: Tensor) -> Trace:
    try:
        return trace(loaded.model, example)
    except AnatomyError as error:
        known = sorted({*_SIDES, max(loaded.input.size)})
        sizes = [s for s in known if runs_on(loaded.model, images_of(example.shape[1], s))]
        side, given = "×".join(map(str, example.shape[2:])), tuple(example.shape[2:])
        if not sizes:
            raise
        hint = f"it takes {', '.join(map(str, sizes))}: pass size={sizes[-1]} to the data"
        if loaded.name.startswith("timm:"):
            size = given[0] if given[0] == given[1] else given
            hint += f", or img_size={size} to the learner if the architecture has it"
        raise InputSizeError(
            f"{loaded.name} cannot take images of {side} pixels; {hint}"
        ) from error


def runs_on(network: nn.Module, images: Tensor) -> bool:
    """Whether a dry run on these images succeeds."""
    try:
        return trace(network, images).source == "fake run"
    except AnatomyError:
        return False


def _trace_body(body: nn.Module, example: Tensor, planned: Cut) -> Trace:
    """The trace of a body whose output is checked."""
    try:
        found = trace(body, example)
    except AnatomyError as error:
        raise CutError(
            f"the body cannot run: {planned}; {_children(body)}. Leave cut= out to find the end by "
            f"a dry run, or try cut=-1, all but the last child. Cause: {error}"
        ) from error
    shape = output_shape(found)
    if len(shape) not in (2, 3, 4) or shape[0] != Flow(found).batch:
        raise CutError(
            f"the body returns a tensor of shape {shape}, not (N, features), (N, tokens, features) "
            f"or (N, channels, height, width): {planned}. Pass a function: cut=lambda network: …"
        )
    return found


def _by_hand(network: nn.Module, cut: CutGiven) -> tuple[nn.Module, Cut]:
    if callable(cut):
        made = _called(cut, network)
        inside = tuple(name for name, _ in made.named_children())
        return made, Cut("by hand", inside or (type(made).__name__,), (), "given by a function")
    if isinstance(cut, str) and "." in cut:
        body = _body_before(network, cut)
        inside = tuple(name for name, _ in body.named_children())
        return body, Cut("by hand", inside, (), f"given by cut={cut!r}", path=cut)
    if isinstance(cut, bool) or not isinstance(cut, (int, str)):
        raise CutError(
            f"cut={cut!r} is not a place in {type(network).__name__}; {_children(network)}. Pass "
            "the index or name of a child, a path, or a function: cut=-1"
        )
    names = [name for name, _ in network.named_children()]
    index = _index_of(network, cut) if isinstance(cut, str) else cut
    kept = names[:index]
    if not kept or (len(kept) == len(names) and index != len(names)):
        raise CutError(
            f"cut={index} leaves nothing of {type(network).__name__}; {_children(network)}. "
            "cut=-1 keeps all but the last, cut=1 only the first"
        )
    rest = [
        n for n in names[index:] if next(network.get_submodule(n).parameters(), None) is not None
    ]
    planned = Cut("by hand", tuple(kept), tuple(rest), f"given by cut={index}")
    return apply_cut(network, planned), planned


def _called(cut: Callable[[nn.Module], nn.Module], network: nn.Module) -> nn.Module:
    call = "A cut is a function from the network to its body, such as cut=lambda network: "
    try:
        made: object = cut(network)
    except Exception as cause:
        raise CutError(
            f"cut= failed on {type(network).__name__}: {type(cause).__name__}: {cause}. {call}"
            f"network.features; {_children(network)}."
        ) from cause
    if not isinstance(made, nn.Module):
        raise CutError(
            f"cut= returned a {type(made).__name__}, not a module. {call}network.features"
        )
    return made


def _body_before(network: nn.Module, path: str) -> nn.Sequential:
    """The modules before a path, which may lead into nested Sequentials."""
    name, _, rest = path.partition(".")
    kept = list(network.named_children())[: _index_of(network, name)]
    if rest:
        inner = network.get_submodule(name)
        if not isinstance(inner, nn.Sequential):
            raise CutError(
                f"cut inside {name!r}, a {type(inner).__name__}: only a Sequential can be split. "
                "Pass a function that returns the body: cut=lambda network: …"
            )
        part = _body_before(inner, rest)
        kept += [(name, part)] if len(part) else []
    return nn.Sequential(OrderedDict(kept))


def _index_of(network: nn.Module, name: str) -> int:
    names = [child for child, _ in network.named_children()]
    if name not in names:
        raise CutError(
            f"cut={name!r}: no child has this name; {_children(network)}. Pass the name or index "
            "of the first child to leave out"
        )
    return names.index(name)


def _children(network: nn.Module) -> str:
    names = (f"{i}: {name}" for i, (name, _) in enumerate(network.named_children()))
    return f"the children of {type(network).__name__} are {', '.join(names)}"
