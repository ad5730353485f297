"""One dry run of a model on fake tensors: which operation ran when, on what, with which weights.

The run happens under `FakeTensorMode`: shapes flow, no memory is taken and nothing is computed. A
recorder at dispatch level sees every operation, so weights that are used directly (`cls_token`,
`F.linear(x, self.weight)`) and functional operations are seen as well as modules. Where a fake run
cannot go (control flow that depends on values), the same recorder runs on real tensors.

Values are followed by storage, not by tensor: a view is the same value, and an in-place operation
gives the storage a new value.

What goes into a model and what comes out of it, in the forms that models take and give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.utils.flop_counter import flop_registry

from layergroups._forward import as_call, logits_of
from layergroups._torch import (
    FakeTensorMode,
    StorageWeakRef,
    TorchDispatchMode,
    is_view,
    op_name,
    op_packet,
    storage_key,
    tree_leaves,
    tree_map_only,
)
from layergroups.anatomy._leaks import Namespaces, take_out_leaks
from layergroups.anatomy._restoring import restoring
from layergroups.errors import AnatomyError, LazyModuleError


def describe_input(example_input: Any) -> str:
    """The shapes of an example input, for messages."""
    shapes = [
        tuple(t.shape) if isinstance(t, Tensor) else type(t).__name__
        for t in tree_leaves(example_input)
    ]
    return f"of shape {shapes[0]}" if len(shapes) == 1 else f"of shapes {shapes}"


_WEIGHT_OPS = (
    "convolution", "mm", "bmm", "baddbmm", "addmm", "linear", "embedding", "_embedding_bag",
    "_native_multi_head_attention", "_transformer_encoder_layer_fwd", "lstm", "gru", "rnn_tanh",
    "mkldnn_rnn_layer", "_cudnn_rnn", "_trilinear", "addmv", "mv", "dot",
)  # fmt: skip
INPUT, WEIGHT, ACTIVATION = "input", "weight", "activation"


@dataclass(frozen=True)
class Value:
    """What one operation produced.

    Attributes:
        shape: its shape, batch first.
        kind: "input" (made from the inputs alone), "weight" (from parameters and constants alone)
            or "activation" (from both).
        producer: position of the producing op in `Trace.ops`, or -1 for an input of the model.
        parameters: names of the parameters that a "weight" was made from.
        floating: False for indices and masks, through which no gradient flows.
    """

    shape: tuple[int, ...]
    kind: str
    producer: int
    parameters: tuple[str, ...] = ()
    floating: bool = True


@dataclass(frozen=True)
class Op:
    """One operation of the run.

    Attributes:
        name: its aten name, "convolution".
        time: when it ran, on the clock that calls share.
        inside: paths of the modules that were running, outermost first.
        reads: positions in `Trace.values` of the inputs and activations that it read.
        read_shapes: their shapes as they were read, which views may have changed.
        writes: likewise of what it produced.
        parameters: names of the parameters it used, also through values made from them alone.
        is_weight_op: True for a linear map of data by a weight of two or more dimensions.
        weight_shape: shape of that weight, or ().
        flops: multiply-adds times two, 0 where torch has no formula.
    """

    name: str
    time: int
    inside: tuple[str, ...]
    reads: tuple[int, ...]
    read_shapes: tuple[tuple[int, ...], ...]
    writes: tuple[int, ...]
    parameters: tuple[str, ...]
    is_weight_op: bool
    weight_shape: tuple[int, ...]
    flops: int


@dataclass(frozen=True)
class Call:
    """One call of one module: its path, when it began and ended on the clock, what it gave."""

    path: str
    start: int
    end: int
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Trace:
    """All that one dry run showed.

    Attributes:
        ops: the operations that touch data, in order.
        calls: the calls of modules, ordered by their start; the first is the model itself.
        values: what `Op.reads` and `Op.writes` point to.
        outputs: positions in `values` of the tensors that answer the task.
        returned: likewise of all tensors that the model returned; empty where it gave things in
            which tensors cannot be found.
        first_use: when each used parameter was used first; in order of time.
        shapes: the shape of every parameter.
        source: "fake run", "real run" or "registration order".
    """

    ops: tuple[Op, ...]
    calls: tuple[Call, ...]
    values: tuple[Value, ...]
    outputs: tuple[int, ...]
    returned: tuple[int, ...]
    first_use: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    source: str


def output_shape(found: Trace) -> tuple[int, ...]:
    """Shape of the first tensor that the model returned, as it was returned."""
    return found.calls[0].shape


class Recorder(TorchDispatchMode):
    """Writes down every operation between the inputs and the outputs of a model."""

    def __init__(self, model: nn.Module, *, dry: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch has no types here
        self.clock = 0
        self.stack: list[tuple[str, int]] = []
        self.calls: list[Call] = []
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self.first_use: dict[str, int] = {}
        self._paths = {id(m): path for path, m in model.named_modules()}
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        self._current: dict[int, int] = {}
        # Held, so that no key is used twice: of a real run weakly, for their memory; of a dry run
        # strongly, for torch before 2.8 crashes if a storage that it knows weakly dies and returns.
        self._storages: dict[int, torch.UntypedStorage | StorageWeakRef] = {}
        self._dry = dry
        self._given: set[int] = set()

    def tick(self) -> int:
        """The next time of the clock that calls and operations share."""
        self.clock += 1
        return self.clock

    @contextmanager
    def watching_modules(self) -> Iterator[None]:
        """Know which modules run, by hooks that are gone afterwards."""

        def enter(module: nn.Module, args: object) -> None:
            if id(module) in self._paths:
                self.stack.append((self._paths[id(module)], self.tick()))

        def leave(module: nn.Module, args: object, output: object) -> None:
            if id(module) in self._paths and self.stack:
                path, start = self.stack.pop()
                given = [t for t in tree_leaves(output) if isinstance(t, Tensor)]
                shape = tuple(given[0].shape) if given else ()
                self.calls.append(Call(path, start, self.tick(), shape))

        handles = [
            module_hooks.register_module_forward_pre_hook(enter),
            module_hooks.register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def mark_input(self, tensor: Tensor) -> None:
        """Say that a tensor is an input of the model."""
        self._store(tensor, Value(tuple(tensor.shape), INPUT, -1))

    def value_of(self, tensor: Tensor) -> int | None:
        """Position in `values` of what a tensor holds now, or None if it was never seen."""
        return self._current.get(storage_key(tensor))

    def alive(self) -> set[int]:
        """The storages made in the run that still exist; to be asked once it is over."""
        refs = {
            key: held if isinstance(held, StorageWeakRef) else StorageWeakRef(held)
            for key, held in self._storages.items()
        }
        self._storages = dict(refs)
        return {key for key, ref in refs.items() if key not in self._given and not ref.expired()}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation, then write down what it read and made."""
        out = func(*args, **(kwargs or {}))
        if func.namespace != "prim":
            self._record(func, args, kwargs or {}, out)
        return out

    def _record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not made:
            return
        time = self.tick()
        sources: dict[int, tuple[int, ...]] = {}
        for tensor in read:
            if (value := self.value_of(tensor)) is not None:
                sources.setdefault(value, tuple(tensor.shape))
            else:  # a parameter or constant, which was there before
                self._given.add(storage_key(tensor))
        names = self._names_used(read, sources)
        data = tuple(v for v in sources if self.values[v].kind != WEIGHT)
        if _keeps_value(func) and len(data) == 1 and not names:
            self._alias(made, data[0])
            return
        kind = self._kind(data, names)
        if kind != WEIGHT:
            for name in names:
                self.first_use.setdefault(name, time)
        writes = self._write(made, kind, names)
        if kind == WEIGHT:
            return
        weight = self._contracted(func, read)
        self.ops.append(
            Op(
                name=op_name(func),
                time=time,
                inside=tuple(path for path, _ in self.stack),
                reads=data,
                read_shapes=tuple(sources[v] for v in data),
                writes=writes,
                parameters=names,
                is_weight_op=bool(weight and names and len(data) > 0),
                weight_shape=weight,
                flops=_flops(func, args, kwargs, out),
            )
        )

    def _names_used(self, read: list[Tensor], sources: Iterable[int]) -> tuple[str, ...]:
        direct = [self._parameters[id(t)] for t in read if id(t) in self._parameters]
        through = [
            n for v in sources if self.values[v].kind == WEIGHT for n in self.values[v].parameters
        ]
        return tuple(dict.fromkeys(direct + through))

    def _kind(self, data: tuple[int, ...], names: tuple[str, ...]) -> str:
        if not data:
            return WEIGHT
        active = names or any(self.values[v].kind == ACTIVATION for v in data)
        return ACTIVATION if active else INPUT

    def _write(self, made: list[Tensor], kind: str, names: tuple[str, ...]) -> tuple[int, ...]:
        producer = len(self.ops) if kind != WEIGHT else -1
        kept = names if kind == WEIGHT else ()
        return tuple(
            self._store(t, Value(tuple(t.shape), kind, producer, kept, t.is_floating_point()))
            for t in made
        )

    def _alias(self, made: list[Tensor], value: int) -> None:
        for tensor in made:
            self._current[self._hold(tensor)] = value

    def _store(self, tensor: Tensor, value: Value) -> int:
        self.values.append(value)
        self._current[self._hold(tensor)] = len(self.values) - 1
        return len(self.values) - 1

    def _hold(self, tensor: Tensor) -> int:
        key = storage_key(tensor)
        if key not in self._storages:
            storage = tensor.untyped_storage()
            self._storages[key] = storage if self._dry else StorageWeakRef(storage)
        return key

    def _contracted(self, func: Any, read: list[Tensor]) -> tuple[int, ...]:
        if op_name(func).removesuffix("_") not in _WEIGHT_OPS:
            return ()
        for tensor in read:
            value = self.value_of(tensor)
            made_of_weights = value is not None and self.values[value].kind == WEIGHT
            if (id(tensor) in self._parameters or made_of_weights) and tensor.ndim >= 2:
                return tuple(tensor.shape)
        return ()


def _keeps_value(func: Any) -> bool:
    if torch.Tag.inplace_view in func.tags:
        return True
    return is_view(func) or op_name(func) in ("detach", "_unsafe_view", "alias")


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    formula = flop_registry.get(op_packet(func))
    return int(formula(*args, **kwargs, out_val=out)) if formula is not None else 0


def trace(model: nn.Module, example_input: Any) -> Trace:
    """Run a model once without computing anything, and write down what happened.

    Args:
        model: any module; it is as it was afterwards: weights, buffers, mode, hooks, random state.
        example_input: one tensor, a tuple of positional arguments or a dict of keyword arguments,
            with a batch dimension first.

    Raises:
        LazyModuleError: the model holds lazy modules.
        AnatomyError: neither a fake nor a real run came through.
    """
    refuse_lazy(model)
    result = _restored_run(model, example_input, fake=True)
    if isinstance(result, Exception):
        result = _restored_run(model, example_input, fake=False)
    if isinstance(result, Trace):
        return result
    raise AnatomyError(
        f"{type(model).__name__} could not be run on the example input "
        f"{describe_input(example_input)}: {type(result).__name__}: {result}. Give one that its "
        "forward takes: example_input=torch.randn(2, 3, 224, 224), a tuple of arguments or a dict "
        "of keyword arguments."
    ) from result


def refuse_lazy(model: nn.Module) -> None:
    """Raise LazyModuleError where a parameter has no shape yet: a dry run would ruin it."""
    lazy = [
        name
        for name, t in [*model.named_parameters(), *model.named_buffers()]
        if isinstance(t, (UninitializedParameter, UninitializedBuffer))
    ]
    if lazy:
        raise LazyModuleError(
            f"{type(model).__name__} has lazy layers whose shapes are not known yet: "
            f"{', '.join(lazy[:4])}. Run it once on a real batch first: model(batch)."
        )


def _restored_run(model: nn.Module, example_input: Any, *, fake: bool) -> Trace | Exception:
    dry = fake or _computes_nothing(model)
    recorder, namespaces = Recorder(model, dry=dry), Namespaces(model)
    result: Trace | Exception
    try:
        with restoring(model):
            result = _run(recorder, model, example_input, fake=fake)
    except Exception as error:
        result = error
    if dry:  # what a real run leaves in a cache is right
        _drop_tracebacks(result)
        take_out_leaks(recorder.alive, namespaces)
    return result


def _drop_tracebacks(error: object) -> None:
    """Drop what the errors of a failed run hold: its frames, and objects of missing attributes."""
    while isinstance(error, BaseException):
        error.__traceback__ = None
        if isinstance(error, (AttributeError, NameError)):
            error.obj = None  # type: ignore[union-attr] # Python keeps the object for suggestions
        error = error.__cause__ or error.__context__


def _run(recorder: Recorder, model: nn.Module, example_input: Any, *, fake: bool) -> Trace:
    needs_mode = fake and not _computes_nothing(model)
    mode = FakeTensorMode(allow_non_fake_inputs=True) if needs_mode else None
    convert: Callable[[Tensor], Tensor] = mode.from_tensor if mode else Tensor.clone
    like = next(model.parameters(), None)
    fitted = tree_map_only(Tensor, lambda t: convert(_like(t, like)), example_input)
    args, kwargs = as_call(fitted)
    for tensor in tree_leaves((args, kwargs)):
        if isinstance(tensor, Tensor):
            recorder.mark_input(tensor)
    with torch.no_grad(), recorder.watching_modules():
        if mode is None:
            with recorder:
                out = model(*args, **kwargs)
        else:
            with mode, recorder:
                out = model(*args, **kwargs)
    answers = tree_leaves(logits_of(out))
    given = tree_leaves(out)
    plain = all(isinstance(leaf, Tensor | int | float | str | None) for leaf in given)
    return Trace(
        ops=tuple(recorder.ops),
        calls=tuple(sorted(recorder.calls, key=lambda c: c.start)),
        values=tuple(recorder.values),
        outputs=_positions(recorder, answers),
        returned=_positions(recorder, given) if plain else (),
        first_use=recorder.first_use,
        shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
        source="fake run" if fake else "real run",
    )


def _positions(recorder: Recorder, leaves: Iterable[object]) -> tuple[int, ...]:
    """Which values tensors hold, each once."""
    found = (recorder.value_of(leaf) for leaf in leaves if isinstance(leaf, Tensor))
    return tuple(dict.fromkeys(value for value in found if value is not None))


def _computes_nothing(model: nn.Module) -> bool:
    """True for a model on the meta device: every run of it is a dry run."""
    parameters = list(model.parameters())
    return bool(parameters) and all(p.is_meta for p in parameters)


def _like(tensor: Tensor, parameter: Tensor | None) -> Tensor:
    """An input on the device of the model and, if both are floats, of its type."""
    if parameter is None:
        return tensor
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    same = tensor.is_floating_point() and parameter.dtype in floats
    return tensor.to(parameter.device, parameter.dtype if same else tensor.dtype)
