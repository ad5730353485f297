"""One dry run of a model on fake tensors: which operation ran when, on what, with which weights.

The run happens under `FakeTensorMode`: shapes flow, no memory is taken and nothing is computed. A
recorder at dispatch level sees every operation, so weights that are used directly (`cls_token`,
`F.linear(x, self.weight)`) and functional operations are seen as well as modules. Where a fake run
cannot go (control flow that depends on values), the same recorder runs on real tensors.

Values are followed by storage, not by tensor: a view is the same value, and an in-place operation
gives the storage a new value.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as module_hooks
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import flop_registry

from layergroups._call_errors import call_error
from layergroups._forward import as_call, logits_of
from layergroups._torch import (
    FakeTensor,
    FakeTensorMode,
    StorageWeakRef,
    TorchDispatchMode,
    each_module,
    is_view,
    op_name,
    op_packet,
    storage_key,
    tree_leaves,
    tree_map_only,
)
from layergroups.anatomy._leaks import LeakError, Namespaces, refuse_leak, take_out_leaks
from layergroups.anatomy._restoring import restoring, tensors_in
from layergroups.errors import AnatomyError, LazyModuleError


def describe_input(example_input: Any) -> str:
    """The shapes of an example input, for messages."""
    shapes = [
        shape_of(t) if isinstance(t, Tensor) else type(t).__name__
        for t in tree_leaves(example_input)
    ]
    return f"of shape {shapes[0]}" if len(shapes) == 1 else f"of shapes {shapes}"


_WEIGHT_OPS = (
    "convolution", "mm", "bmm", "baddbmm", "addmm", "linear", "embedding", "_embedding_bag",
    "_native_multi_head_attention", "_transformer_encoder_layer_fwd", "lstm", "gru", "rnn_tanh",
    "mkldnn_rnn_layer", "_cudnn_rnn", "_trilinear", "addmv", "mv", "dot", "_cdist_forward",
    "_euclidean_dist",
)  # fmt: skip
_RECURRENT = ("gru", "rnn_tanh", "rnn_relu")
_PADDED = 9  # arguments of these with a padded batch: input, state, weights, ..., batch_first
_OUTER = ("mul", "sub", "rsub")  # a distance or a product with each of several rows of a weight
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
        repeats: True where an earlier operation used the same parameters, as a recurrent cell does.
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
    repeats: bool = False

    @property
    def adds_depth(self) -> bool:
        """Whether it is a weight layer that did not run before: those make up the depth."""
        return self.is_weight_op and not self.repeats


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
        returned: likewise of all tensors that the model returned, also inside objects.
        first_use: when each used parameter was used first; in order of time.
        shapes: the shape of every parameter.
        source: "fake run", "real run" or "registration order".
        cut: whether operations ran under `no_grad` or on detached values.
        written: names of parameters and buffers that the run wrote to.
        gradients: names of the parameters that get a gradient, of a run with autograd; else None.
        reentrant: whether such a run used reentrant checkpointing.
    """

    ops: tuple[Op, ...]
    calls: tuple[Call, ...]
    values: tuple[Value, ...]
    outputs: tuple[int, ...]
    returned: tuple[int, ...]
    first_use: Mapping[str, int]
    shapes: Mapping[str, tuple[int, ...]]
    source: str
    cut: bool = False
    written: tuple[str, ...] = ()
    gradients: frozenset[str] | None = None
    reentrant: bool = False


def output_shape(found: Trace) -> tuple[int, ...]:
    """Shape of the first tensor that the model returned, as it was returned."""
    return found.calls[0].shape


class Recorder(TorchDispatchMode):
    """Writes down every operation between the inputs and the outputs of a model."""

    def __init__(self, model: nn.Module, *, dry: bool, all_data: bool = False) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch has no types here
        self.clock = 0
        self.stack: list[tuple[str, int]] = []
        self.calls: list[Call] = []
        self.ops: list[Op] = []
        self.values: list[Value] = []
        self.first_use: dict[str, int] = {}
        self._paths = {id(m): path for path, m in model.named_modules()}
        self._parameters = {id(p): name for name, p in model.named_parameters()}
        self._own = {id(b): name for name, b in model.named_buffers()} | self._parameters
        self._current: dict[int, int] = {}
        self._all_data = all_data
        self.weights: set[str] = set()  # names used by weight layers, also of no data
        self.lost = False  # some of these only of no data
        self.cut = False
        self.steps = 1.0  # for each that is run, in a recurrent layer
        self.written: dict[str, None] = {}
        self.mode: FakeTensorMode | None = None
        # Held, so that no key is used twice: of a real run weakly, for their memory; of a dry run
        # strongly, for torch before 2.8 crashes if a storage that it knows weakly dies and returns.
        self._storages: dict[int, Tensor | torch.UntypedStorage | StorageWeakRef] = {}
        self._dry = dry
        self._given: set[int] = set()

    def end(self, model: nn.Module, given: Iterable[Tensor]) -> None:
        """Parameters that the model returns, and values made from them alone, are used too."""
        replaced = (n for n, b in model.named_buffers() if self._own.get(id(b)) != n)
        self.written.update(dict.fromkeys(replaced))
        self.lost = not self.weights <= self.first_use.keys()
        for tensor in given:
            if id(tensor) in self._parameters:
                self.first_use.setdefault(self._parameters[id(tensor)], self.clock)
            elif (value := self.value_of(tensor)) is not None:
                of_weights = self.values[value].kind == WEIGHT
                for name in self.values[value].parameters if of_weights else ():
                    self.first_use.setdefault(name, self.clock)

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
                given = next(tensors_in(output), None)
                shape = () if given is None else shape_of(given)
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

    def mark_input(self, tensor: Tensor, *, given: bool = True) -> None:
        """Say that a tensor is an input of the model; `given` one that was there before the run."""
        if given:
            self._given.add(storage_key(tensor))
        self._store(tensor, Value(shape_of(tensor), INPUT, -1))

    def value_of(self, tensor: Tensor) -> int | None:
        """Position in `values` of what a tensor holds now, or None if it was never seen."""
        return self._current.get(storage_key(tensor))

    def alive(self) -> set[int]:
        """The storages made in the run that still exist; to be asked once it is over."""
        refs = {
            key: held if isinstance(held, StorageWeakRef) else StorageWeakRef(held)
            for key, held in self._storages.items()
            if not isinstance(held, Tensor)
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
        self._refuse_foreign((args, kwargs))
        if self.mode is not None and func is _BATCH_NORM:
            out: Any = _batch_norm_without_values(*args)
        else:
            out = func(*args, **(kwargs or {}))
        if func.namespace != "prim":
            self._record(func, args, kwargs or {}, out)
        return out

    def _refuse_foreign(self, values: Any) -> None:
        """Stop at a fake tensor of an earlier run, with which the model would go on in silence."""
        for value in tree_leaves(values):
            if (
                isinstance(value, FakeTensor)
                and value.fake_mode is not self.mode
                and id(value) not in self._own
                and self.value_of(value) is None
            ):
                refuse_leak({storage_key(value)})

    def _record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        read = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        made = [t for t in tree_leaves(out) if isinstance(t, Tensor)]
        if not made:
            return
        time = self.tick()
        self._note_writes(func, args)
        sources: dict[int, tuple[int, ...]] = {}
        for tensor in read:
            if (value := self.value_of(tensor)) is not None:
                sources.setdefault(value, shape_of(tensor))
            else:  # a parameter or constant, which was there before
                self._given.add(storage_key(tensor))
        names = self._names_used(read, sources)
        weight = self._contracted(func, read, made)
        if weight:
            self.weights.update(names)
        data = tuple(v for v in sources if self.values[v].kind != WEIGHT)
        if not data and weight and self._all_data:
            data = self._left_operand(func, args, sources)
        kind = self._kind(data, names)
        cuts = op_name(func) == "detach" or not torch.is_grad_enabled()
        self.cut |= kind == ACTIVATION and cuts
        if _keeps_value(func) and len(data) == 1 and not names:
            self._alias(made, data[0])
            return
        if kind != WEIGHT:
            repeats = bool(names) and all(name in self.first_use for name in names)
            for name in names:
                self.first_use.setdefault(name, time)
        writes = self._write(made, kind, names)
        if kind == WEIGHT:
            return
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
                flops=int(_flops(func, args, kwargs, out) * self.steps),
                repeats=repeats,
            )
        )

    def _note_writes(self, func: Any, args: Any) -> None:
        """Note which parameters and buffers an operation changes in place."""
        for argument, value in zip(func._schema.arguments, args, strict=False):
            if argument.is_write and id(value) in self._own:
                self.written[self._own[id(value)]] = None

    def _left_operand(
        self, func: Any, args: Any, sources: dict[int, tuple[int, ...]]
    ) -> tuple[int, ...]:
        """Where a weight layer has no data: what it multiplies counts as the model's input."""
        name = op_name(func)
        at = 1 if "embedding" in name or name in ("addmm", "baddbmm", "addmv") else 0
        operand = args[at] if at < len(args) and isinstance(args[at], Tensor) else None
        if operand is None or id(operand) in self._parameters:
            return ()
        value = self.value_of(operand)
        if value is None:
            value = self._store(operand, Value(shape_of(operand), INPUT, -1))
        else:
            self.values[value] = replace(self.values[value], kind=INPUT)
        sources.setdefault(value, shape_of(operand))
        return (value,)

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
            self._store(t, Value(shape_of(t), kind, producer, kept, t.is_floating_point()))
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
            if key < 0:  # it has no storage of its own
                self._storages[key] = tensor
            else:
                storage = tensor.untyped_storage()
                self._storages[key] = storage if self._dry else StorageWeakRef(storage)
        return key

    def _contracted(self, func: Any, read: list[Tensor], made: list[Tensor]) -> tuple[int, ...]:
        name = op_name(func).removesuffix("_")
        if name in _OUTER:
            grows = made[0].numel() > max((t.numel() for t in read), default=0)
            if len(read) < 2 or not grows:
                return ()
        elif name not in _WEIGHT_OPS:
            return ()
        for tensor in read:
            value = self.value_of(tensor)
            made_of_weights = value is not None and bool(
                self.values[value].kind == WEIGHT and self.values[value].parameters
            )
            if id(tensor) in self._parameters or made_of_weights:
                sizes = [n for n in shape_of(tensor) if n > 1]
                if tensor.ndim >= 2 and (name not in _OUTER or len(sizes) >= 2):
                    return shape_of(tensor)
        return ()


class _ShortSequences(TorchFunctionMode):
    """Lets GRU and RNN layers of a dry run take two time steps: a fake run takes each by itself.

    What they give has its full length, and their FLOPs are those of all steps.
    """

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the function, a recurrent layer of a padded batch over two steps alone."""
        padded = len(args) == _PADDED and isinstance(args[2], list)
        dim = 1 if padded and args[-1] else 0  # batch_first
        if not padded or func.__name__ not in _RECURRENT or args[0].shape[dim] <= 2:
            return func(*args, **(kwargs or {}))
        steps = args[0].shape[dim]
        self.recorder.steps = steps / 2
        out, last = func(args[0].narrow(dim, 0, 2), *args[1:], **(kwargs or {}))
        self.recorder.steps = 1.0
        return torch.cat([out.narrow(dim, 0, 1)] * steps, dim), last


def shape_of(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a tensor, () where it has none (a nested one)."""
    try:
        return tuple(tensor.shape)
    except RuntimeError:
        return ()


_BATCH_NORM = torch.ops.aten.native_batch_norm.default


def _batch_norm_without_values(x: Tensor, *args: Any) -> tuple[Tensor, Tensor, Tensor]:
    # torch splits it into some ten operations on fake tensors: half the time of a convnet's dry run
    n = x.shape[1] if args[4] else 0  # training
    return torch.empty_like(x), x.new_empty(n), x.new_empty(n)


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
            with a batch dimension first. A dict, named tuple or other object that holds tensors may
            also be the one argument of the model.

    Raises:
        LazyModuleError: the model holds lazy modules.
        AnatomyError: neither a fake nor a real run came through.
    """
    refuse_lazy(model)
    first: Exception | None = None
    for call in _call_forms(example_input):
        for fake in (True, False):
            result = _restored_run(model, call, fake=fake)
            if isinstance(result, Trace):
                return result
            failed = result  # of the real run
        first = first or failed
    if first and (wrong := call_error(model, example_input, first)):
        raise AnatomyError(f"{type(model).__name__} cannot run: {wrong}") from first
    raise AnatomyError(
        f"{type(model).__name__} could not be run on the example input "
        f"{describe_input(example_input)}: {type(first).__name__}: {first}. Give one that its "
        "forward takes: example_input=torch.randn(2, 3, 224, 224), a tuple of arguments or a dict "
        "of keyword arguments; what is one argument goes into a tuple, (batch,)."
    ) from first


def training_trace(model: nn.Module, example_input: Any) -> Trace | None:
    """The trace of a dry run in training mode, or else eval mode, that tells the gradients.

    None where no dry run can tell: without values, without targets.
    """
    for training in (True, False):
        for call in _call_forms(example_input):
            with warnings.catch_warnings(record=True) as raised:
                warnings.simplefilter("always")
                result = _restored_run(model, call, fake=True, training=training, autograd=True)
            if isinstance(result, Trace):
                blocked = any("None of the inputs have requires_grad" in str(w) for w in raised)
                return replace(result, reentrant=True) if blocked else result
    return None


def _call_forms(example_input: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    """The ways to call a model with an input, the likeliest first."""
    as_one: tuple[tuple[Any, ...], dict[str, Any]] = ((example_input,), {})
    if isinstance(example_input, Mapping):
        return [as_call(example_input), as_one]
    if isinstance(example_input, tuple) and hasattr(example_input, "_fields"):
        return [as_one, as_call(example_input)]
    if isinstance(example_input, list):
        return [as_call(example_input), as_one]
    return [as_call(example_input)]


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


def refuse_packed(model: nn.Module) -> None:
    """Raise AnatomyError for FSDP of version 1, whose flat parameters belong to several groups."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    if fsdp and any(isinstance(m, fsdp.FullyShardedDataParallel) for m in each_module(model)):
        raise AnatomyError(
            "FullyShardedDataParallel packs the parameters of many layers into one, which can "
            "be in one group only. Make the groups of the plain model, and shard it with "
            "torch.distributed.fsdp.fully_shard, which keeps its parameters apart."
        )


def _restored_run(
    model: nn.Module, call: Any, *, fake: bool, training: bool = False, autograd: bool = False
) -> Trace | Exception:
    """A run after which all is as before; its error where it fails."""
    result = _one_run(model, call, fake, training, autograd, all_data=False)
    if isinstance(result, Exception):
        return result
    found, lost = result
    if lost:  # layers ran, but on nothing that was given: an object, noise, a constant
        again = _one_run(model, call, fake, training, autograd, all_data=True)
        found = again[0] if isinstance(again, tuple) else found
    return found


def _drop_tracebacks(error: object) -> None:
    """Drop what the errors of a failed run hold: its frames, and objects of missing attributes."""
    while isinstance(error, BaseException):
        error.__traceback__ = None
        if isinstance(error, (AttributeError, NameError)):
            error.obj = None  # type: ignore[union-attr] # Python keeps the object for suggestions
        error = error.__cause__ or error.__context__


def _one_run(
    model: nn.Module, call: Any, fake: bool, training: bool, autograd: bool, *, all_data: bool
) -> tuple[Trace, bool] | Exception:
    """One run, and whether it used layers on nothing that was given; or why it failed."""
    dry = fake or _computes_nothing(model)
    recorder = Recorder(model, dry=dry, all_data=all_data)
    namespaces: Namespaces | None = None
    result: tuple[Trace, bool] | Exception
    try:
        with restoring(model, call, training=training, autograd=autograd) as held:
            namespaces = Namespaces(model, held) if dry else None
            found = _run(recorder, model, call, fake=fake, autograd=autograd)
            result = found, recorder.lost
    except LeakError:
        raise
    except Exception as error:
        result = error
    if namespaces is not None:  # what a real run leaves in a cache is right
        _drop_tracebacks(result)
        take_out_leaks(recorder.alive, namespaces)
    return result


def _run(recorder: Recorder, model: nn.Module, call: Any, *, fake: bool, autograd: bool) -> Trace:
    needs_mode = fake and not _computes_nothing(model)
    mode = FakeTensorMode(allow_non_fake_inputs=True) if needs_mode else None
    recorder.mode = mode
    convert: Callable[[Tensor], Tensor] = mode.from_tensor if mode else Tensor.clone
    like = next(model.parameters(), None)
    args, kwargs = tree_map_only(Tensor, lambda t: convert(_like(t, like)), call)
    theirs = {id(tensor) for tensor in tensors_in(call)}
    for tensor in tensors_in((args, kwargs)):
        recorder.mark_input(tensor, given=id(tensor) in theirs)
    with recorder.watching_modules():
        if mode is None:
            with recorder:
                out = model(*args, **kwargs)
        else:
            recurrent = any(isinstance(m, nn.RNNBase) for m in each_module(model))
            with _ShortSequences(recorder) if recurrent else nullcontext(), mode, recorder:
                out = model(*args, **kwargs)
    given = list(tensors_in(out))
    recorder.end(model, given)
    reached = reentrant = None
    if autograd:
        reached, reentrant = _gradients(model, given)
    return Trace(
        ops=tuple(recorder.ops),
        calls=tuple(sorted(recorder.calls, key=lambda c: c.start)),
        values=tuple(recorder.values),
        outputs=_positions(recorder, tensors_in(logits_of(out))),
        returned=_positions(recorder, given),
        first_use=recorder.first_use,
        shapes={name: tuple(p.shape) for name, p in model.named_parameters()},
        source="fake run" if fake else "real run",
        cut=recorder.cut,
        written=tuple(recorder.written),
        gradients=reached,
        reentrant=bool(reentrant),
    )


def _gradients(model: nn.Module, given: Iterable[Tensor]) -> tuple[frozenset[str] | None, bool]:
    """Names of the parameters that autograd reaches from outputs; whether it cannot see inside.

    Reentrant checkpointing hides the parameters inside: then they are not known.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    waiting: list[Any] = [t.grad_fn for t in given if t.grad_fn is not None]
    reached = {names[id(t)] for t in given if id(t) in names}
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name() == "CheckpointFunctionBackward":
            return None, True
        reached.update(names.get(id(v), "") for v in (getattr(node, "variable", None),))
        for below, _ in node.next_functions:
            if below is not None and below not in seen:
                seen.add(below)
                waiting.append(below)
    return frozenset(reached - {""}), False


def _positions(recorder: Recorder, tensors: Iterable[Tensor]) -> tuple[int, ...]:
    """Which values tensors hold, each once."""
    found = (recorder.value_of(tensor) for tensor in tensors)
    return tuple(dict.fromkeys(value for value in found if value is not None))


def _computes_nothing(model: nn.Module) -> bool:
    """True for a model on the meta device: every run of it is a dry run."""
    parameters = list(model.parameters())
    return bool(parameters) and all(p.is_meta for p in parameters)


def _like(tensor: Tensor, parameter: Tensor | None) -> Tensor:
    """An input on the device of the model and, if both are floats, of its type."""
    if parameter is None or tensor.is_nested or tensor.is_sparse:
        return tensor
    floats = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    same = tensor.is_floating_point() and parameter.dtype in floats
    return tensor.to(parameter.device, parameter.dtype if same else tensor.dtype)
