"""What one dry run of a model shows, as data: `read_anatomy(model)` -> `Anatomy`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import FunctionType
from typing import Any

import torch
from torch import nn

from layergroups._paths import join, leaves
from layergroups._torch import each_module, unwrap
from layergroups.anatomy._blocks import Block, find_blocks
from layergroups.anatomy._dataflow import Flow
from layergroups.anatomy._example_inputs import candidate_inputs
from layergroups.anatomy._head import Classifier, find_head, known_head
from layergroups.anatomy._leaks import LeakError
from layergroups.anatomy._restoring import differentiable, tensors_in
from layergroups.anatomy._splits import Boundary, find_boundaries
from layergroups.anatomy._trace import (
    ACTIVATION,
    INPUT,
    Call,
    Op,
    Trace,
    Value,
    refuse_lazy,
    refuse_packed,
    trace,
    training_trace,
)
from layergroups.errors import AnatomyError, ExampleInputError


def cannot_run(error: BaseException) -> bool:
    """True where a run failed for want of a kernel or a package, not for a wrong input.

    By the types of the error and its causes alone: torch raises NotImplementedError for an
    operator that has no kernel on this device, and Python ImportError for a missing package.
    """
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, (NotImplementedError, ImportError)):
        cause = cause.__cause__
    return cause is not None


def registration_trace(model: nn.Module) -> Trace:
    """A trace as if all modules ran one after the other, as they are registered.

    It is what is left where a model cannot be run at all: each module with parameters counts as one
    operation. Nothing is known of sizes, skips or repeated calls.
    """
    walk = _Walk()
    walk.visit(model, "")
    return Trace(
        ops=tuple(walk.ops),
        calls=tuple(sorted(walk.calls, key=lambda c: c.start)),
        values=tuple(walk.values),
        outputs=(len(walk.values) - 1,),
        returned=(),
        first_use=walk.first_use,
        shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
        source="registration order",
    )


class _Walk:
    def __init__(self) -> None:
        self.clock = 0
        self.ops: list[Op] = []
        self.calls: list[Call] = []
        self.values = [Value((2,), INPUT, -1)]
        self.first_use: dict[str, int] = {}
        self._seen: set[int] = set()
        self._inside: list[str] = []

    def _tick(self) -> int:
        self.clock += 1
        return self.clock

    def visit(self, module: nn.Module, path: str) -> None:
        """Go through a module: first its own parameters, then its children."""
        if id(module) in self._seen:
            return
        self._seen.add(id(module))
        start = self._tick()
        self._inside.append(path)
        own = [(join(path, n), p) for n, p in module.named_parameters(recurse=False)]
        new = {name: p for name, p in own if id(p) not in self._seen}
        self._seen.update(id(p) for p in new.values())
        if new:
            self._operate(module, new)
        for name, child in module.named_children():
            self.visit(child, join(path, name))
        self._inside.pop()
        self.calls.append(Call(path, start, self._tick(), self.values[-1].shape))

    def _operate(self, module: nn.Module, parameters: dict[str, nn.Parameter]) -> None:
        time = self._tick()
        weight = next((tuple(p.shape) for p in parameters.values() if p.ndim >= 2), ())
        width = weight[0] if weight else self.values[-1].shape[-1]
        shape = (2, width) if isinstance(module, nn.Linear) else (2, width, 2, 2)
        self.values.append(Value(shape, ACTIVATION, len(self.ops)))
        last = len(self.values) - 1
        self.ops.append(
            Op(
                name=type(module).__name__.lower(),
                time=time,
                inside=tuple(self._inside),
                reads=(last - 1,),
                read_shapes=(self.values[last - 1].shape,),
                writes=(last,),
                parameters=tuple(parameters),
                is_weight_op=bool(weight) and not any(module.children()),
                weight_shape=weight,
                flops=0,
            )
        )
        for name in parameters:
            self.first_use[name] = time


log = logging.getLogger("layergroups")


@dataclass(frozen=True)
class Anatomy:
    """The build of a model: blocks in the order of execution, its head, where it can be divided.

    Attributes:
        model: name of the model's class.
        blocks: in the order of execution; together they hold every used parameter once.
        classifiers: the final linear maps; empty for a headless network.
        head_reason: why the head begins where it does, or why there is none.
        boundaries: every place inside the body where it can be divided.
        layers: paths of the leaf modules that ran, with the index of their block, in order.
        unused: names of parameters that no run touched, in eval mode or in training mode.
        no_path_to_output: names of parameters that ran, but that no gradient reaches: the outputs
            do not depend on them, or `no_grad`, `detach`, NumPy or checkpointing stops it.
        tied: for each parameter that has several names, the other names.
        image: height and width of the image that was used, or None for other inputs.
        source: "fake run", "real run", or "registration order" where the model cannot be run here.
        written: names of parameters and buffers that a run in eval mode writes to.
        reentrant: whether it uses reentrant checkpointing, through which a gradient comes only if
            one comes to what is before.
    """

    model: str
    blocks: tuple[Block, ...]
    classifiers: tuple[Classifier, ...]
    head_reason: str
    boundaries: tuple[Boundary, ...]
    layers: Mapping[str, int]
    unused: tuple[str, ...]
    no_path_to_output: tuple[str, ...]
    tied: Mapping[str, tuple[str, ...]]
    image: tuple[int, int] | None
    source: str
    written: tuple[str, ...] = ()
    reentrant: bool = False

    @property
    def has_head(self) -> bool:
        """False for a network that gives features, and where the head's weights are the body's."""
        return any(b.in_head and b.parameters for b in self.blocks)

    @property
    def body(self) -> tuple[Block, ...]:
        """The blocks before the head."""
        return tuple(b for b in self.blocks if not b.in_head)

    @property
    def head(self) -> tuple[Block, ...]:
        """The blocks of the head."""
        return tuple(b for b in self.blocks if b.in_head)

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON-ready values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [f"{self.model}: {len(self.body)} blocks in the body, {len(self.head)} in the head"]
        for b in self.blocks:
            shape = "×".join(map(str, b.shape))
            part = "head" if b.in_head else "body"
            lines.append(
                f"  {b.index:3d}  {part}  {b.name:32s} {b.kind:24s} {b.n_parameters:>11,d}  {shape}"
            )
        lines.append(f"  head: {self.head_reason}")
        return "\n".join(lines)


def read_anatomy(
    model: nn.Module, example_input: Any = None, *, head: str | Sequence[str] | None = None
) -> Anatomy:
    """Look at a model with one dry run; nothing of it changes.

    Without an example input, a model that cannot be run here for want of a kernel or a package is
    read in the order in which its modules are registered; `Anatomy.source` and a warning say so.

    Args:
        model: any module; a compiled or distributed one is looked at without its wrapper.
        example_input: a tensor (N, ...), a tuple of arguments or a dict of keyword arguments; where
            it is left out, one is made from what the model tells of itself.
        head: path of the module that is the head, or several, where that is known; otherwise it is
            found.

    Raises:
        LazyModuleError: the model holds lazy layers that never ran.
        ExampleInputError: no example input was given, and none could be guessed.
        AnatomyError: the model could not be run, or it keeps tensors of the dry run in a place
            from which they cannot be removed.
    """
    model = unwrap(model)
    used, found = first_trace(model, example_input)
    flow = Flow(found)
    paths = [head] if isinstance(head, str) else head
    seen = find_head(flow) if paths is None else known_head(flow, paths)
    blocks, block_at = find_blocks(model, flow, seen)
    image = _image_size(used)
    unused = tuple(n for n, _ in model.named_parameters() if n not in found.first_use)
    idle = flow.no_path_to_output()
    look = unused or idle or found.cut or _may_checkpoint(model)
    training = (
        training_trace(model, used) if look and found.source != "registration order" else None
    )
    if training is not None:
        blocks = _with_auxiliary(model, blocks, {*unused, *idle}, training)
        unused = tuple(n for n in unused if n not in training.first_use)
        if training.gradients is not None:
            idle = tuple(
                n for n, p in model.named_parameters()
                if n not in training.gradients and n not in unused and differentiable(p)
            )  # fmt: skip
    return Anatomy(
        model=type(model).__name__,
        blocks=blocks,
        classifiers=seen.classifiers,
        head_reason=seen.reason,
        boundaries=find_boundaries(blocks, image),
        layers=_layers(model, found, block_at),
        unused=unused,
        no_path_to_output=idle,
        tied=_tied(model),
        image=image,
        source=found.source,
        written=found.written,
        reentrant=training is not None and training.reentrant,
    )


def _may_checkpoint(model: nn.Module) -> bool:
    """Whether the code of a model names activation checkpointing, and no flag turns it off."""
    for module in each_module(model):
        if type(module).__module__.startswith("torch.nn."):
            continue
        off = any(v is False and "checkpoint" in n for n, v in vars(module).items())
        functions = (*vars(type(module)).values(), *vars(module).values())
        code = [f.__code__.co_names for f in functions if isinstance(f, FunctionType)]
        called = {name for names in code for name in names if not name.endswith("checkpointing")}
        if not off and any("checkpoint" in name for name in called):  # not a flag of that name
            return True
    return False


def _with_auxiliary(
    model: nn.Module, blocks: tuple[Block, ...], idle: set[str], training: Trace
) -> tuple[Block, ...]:
    """With what answers in training mode alone, such as auxiliary classifiers, in the head.

    `idle` are the parameters on which no answer of eval mode depends.
    """
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    trains = training.gradients if training.gradients is not None else sizes
    extra = [n for n in training.first_use if n in idle and n in trains]
    if not extra or not blocks or not blocks[-1].in_head:
        return blocks
    held = [tuple(n for n in b.parameters if b.in_head or n not in extra) for b in blocks]
    held[-1] += tuple(n for n in extra if not any(n in names for names in held))
    return tuple(
        replace(b, parameters=names, n_parameters=sum(sizes[n] for n in names))
        for b, names in zip(blocks, held, strict=True)
    )


def first_trace(model: nn.Module, example_input: Any) -> tuple[Any, Trace]:
    """The example input that was used, and the trace of the run with it.

    Raises:
        LazyModuleError, ExampleInputError, AnatomyError: see `read_anatomy`.
    """
    refuse_lazy(model)
    refuse_packed(model)
    if example_input is not None:
        return example_input, trace(model, example_input)
    cause: AnatomyError | None = None
    for candidate in candidate_inputs(model):
        try:
            return candidate, trace(model, candidate)
        except LeakError:
            raise
        except AnatomyError as error:
            if cannot_run(error):
                log.warning("%s; its layers are taken in the order of registration", error)
                return candidate, registration_trace(model)
            cause = cause or error
    raise ExampleInputError(
        f"{type(model).__name__} does not tell what its input looks like. Give one: "
        "example_input=torch.randn(2, 3, 224, 224), a tuple of arguments or a dict of keyword "
        "arguments, with a batch of 2 or more."
    ) from cause


def _image_size(example_input: Any) -> tuple[int, int] | None:
    for tensor in tensors_in(example_input):
        if tensor.ndim >= 4 and tensor.dtype != torch.long:
            return int(tensor.shape[-2]), int(tensor.shape[-1])
    return None


def _layers(model: nn.Module, found: Trace, block_at: Callable[[int], int]) -> dict[str, int]:
    """Leaf modules in the order of their blocks, then of their first call, each with its block."""
    leaf_paths = set(leaves(model))
    layers: dict[str, int] = {}
    for call in found.calls:
        if call.path in leaf_paths:
            layers.setdefault(call.path, block_at(call.start))
    return dict(sorted(layers.items(), key=lambda item: item[1]))


def _tied(model: nn.Module) -> dict[str, tuple[str, ...]]:
    names: dict[int, list[str]] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    return {first: tuple(others) for first, *others in names.values() if others}
