"""Find where the constant part of a model ends, run it alone, and run the rest.

A module is *constant* if it is frozen, or if it only reshapes or pools outputs of constant modules.
When the rest runs on cached values, constant modules return them instead of computing; those that
only feed other constant modules return blank tensors. A trial on a few items finds all this, so it
works for any architecture, and problems appear before anything is cached.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn

from layergroups._forward import call_model, run_model
from layergroups._torch import TreeSpec, tree_flatten, tree_map_only, tree_unflatten
from layergroups.errors import TrainingError
from layergroups.groups import has_foreign_hooks
from layergroups.models import AdaptiveConcatPool2d, ChannelStatistics
from layergroups.training.state import evaluating

PROBE_ITEMS: Final = 3  # odd, so that a dimension of the batch is not one of the features
RESHAPING: Final = (
    AdaptiveConcatPool2d,
    ChannelStatistics,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Flatten,
    nn.Identity,
    nn.MaxPool2d,
)


class NoCutError(TrainingError):
    """The rest of the model cannot run from cached values; the message says why."""


class Call(NamedTuple):
    """A call in a forward pass: the path of the module, and the number among its calls."""

    path: str
    number: int


_PLAIN = (Tensor, int, float, str, bytes, torch.dtype, torch.device, type(None))


@dataclass(frozen=True)
class TensorSpec:
    shape: tuple[int, ...]  # without the first dimension
    rows: int  # of the first dimension for each item of the batch; 0 if it does not grow with it
    first: int  # length of the first dimension, where it does not grow
    dtype: torch.dtype
    channels_last: bool = False  # maps (N, C, H, W) whose channels are innermost in memory

    @classmethod
    def of(cls, tensor: Tensor, items: int) -> TensorSpec:
        rows, rest = divmod(len(tensor), items)
        last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
        last = last and not tensor.is_contiguous()
        return cls(tuple(tensor.shape[1:]), 0 if rest else rows, len(tensor), tensor.dtype, last)

    def blank(self, items: int, device: torch.device) -> Tensor:
        """Zeros in this shape that take no memory."""
        zero = torch.zeros((), dtype=self.dtype, device=device)
        return zero.expand(self.rows * items or self.first, *self.shape)


@dataclass(frozen=True)
class OutputSpec:
    """An output in any nesting of tuples, dicts and model outputs, without its values."""

    leaves: tuple[Any, ...]  # a `TensorSpec` for each tensor, anything else as it is
    spec: TreeSpec  # the nesting

    @classmethod
    def of(cls, value: Any, items: int) -> OutputSpec:
        leaves, spec = tree_flatten(value)
        for leaf in leaves:
            if not isinstance(leaf, _PLAIN):
                # It may hold tensors of the trial items, which would then be used for all others.
                raise NoCutError(f"a layer returns a {type(leaf).__name__} that may hold tensors")
        tensors = tuple(
            TensorSpec.of(leaf, items) if isinstance(leaf, Tensor) and leaf.ndim else leaf
            for leaf in leaves
        )  # fmt: skip
        return cls(tensors, spec)

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, TensorSpec))

    def filled(self, values: Iterator[Tensor]) -> Any:
        made = [next(values) if isinstance(leaf, TensorSpec) else leaf for leaf in self.leaves]
        return tree_unflatten(made, self.spec)

    def blank(self, items: int, device: torch.device) -> Any:
        return self.filled(iter([leaf.blank(items, device) for leaf in self.tensors]))


@dataclass(frozen=True)
class FeatureCut:
    """Where values pass from the constant part of a model to the rest."""

    calls: Mapping[Call, OutputSpec]  # outermost calls of constant modules in a forward pass
    needed: tuple[Call, ...]  # whose outputs the rest needs; these are cached
    inputs: OutputSpec  # of the model

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        return tuple(tensor for call in self.needed for tensor in self.calls[call].tensors)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(call.path for call in self.calls))

    def caches_same_as(self, other: FeatureCut) -> bool:
        return (self.needed, self.tensors) == (other.needed, other.tensors)


def find_cut(model: nn.Module, frozen: Sequence[str], inputs: Any) -> FeatureCut:
    """Find where the frozen part ends, by a trial with a few items; changes nothing.

    `frozen` are paths of the outermost modules in which nothing trains, moves or draws.
    `NoCutError` says why the rest cannot be run from what they give.
    """
    inputs = few_items(inputs)
    items = len(next(iter(_tensors(inputs)), ()))
    if items < PROBE_ITEMS:
        raise NoCutError(f"it takes a batch of {PROBE_ITEMS} items to find where they end")
    outputs, values = _trial(model, frozen, inputs)
    calls = {call: OutputSpec.of(value, items) for call, value in values.items()}
    whole = FeatureCut(calls, tuple(calls), OutputSpec.of(inputs, items))
    cut = FeatureCut(calls, _needed(model, whole, values, outputs, items), whole.inputs)
    if not cut.needed:
        raise NoCutError("nothing that the frozen layers give reaches the others")
    for call in cut.needed:
        if any(tensor.rows != 1 for tensor in calls[call].tensors):
            raise NoCutError(f"the output of {call.path} has no row for each item")
    with evaluating(model):
        try:
            again = run_rest(model, cut, [t for call in cut.needed for t in _tensors(values[call])])
        except RuntimeError:  # such as an operation in place on a blank
            again = None
    if not _same(outputs, again):
        raise NoCutError("its layers after the frozen ones need more than their outputs")
    return cut


def run_rest(model: nn.Module, cut: FeatureCut, values: Sequence[Tensor]) -> Any:
    """Run the rest of the model on cached values, one tensor (N, ...) for each of `cut.tensors`.

    `NoCutError` if the model does not call its constant modules as it did in the trial.
    """
    items, device = len(values[0]), values[0].device
    left, answers = iter(values), {}
    for call, output in cut.calls.items():
        answers[call] = output.filled(left) if call in cut.needed else output.blank(items, device)
    return _run_answering(model, cut, answers, cut.inputs.blank(items, device))


def run_frozen_part(
    model: nn.Module, cuts: Sequence[FeatureCut], inputs: Any
) -> list[list[Tensor]]:
    """Run the constant part alone, once for all cuts: for each the values of its `tensors`.

    `NoCutError` if the model does not call its constant modules as it did in the trial.
    """
    found: list[dict[Call, Any]] = [{} for _ in cuts]
    missing = sum(len(cut.needed) for cut in cuts)

    def keeper(cut: FeatureCut, seen: dict[Call, Any]) -> _Handler:
        def keep(call: Call, compute: Callable[[], Any]) -> Any:
            nonlocal missing
            value = compute()
            if call in cut.needed:
                seen[call] = value
                missing -= 1
                if not missing:
                    raise _EnoughError
            return value

        return keep

    with ExitStack() as stack:
        for cut, seen in zip(cuts, found, strict=True):
            stack.enter_context(_calls_handled(model, cut.paths, keeper(cut, seen)))
        with suppress(_EnoughError):
            run_model(model, inputs)
    if missing:
        raise NoCutError("its frozen modules are not called as they were in the trial")
    return [
        [tensor.detach() for call in cut.needed for tensor in _tensors(seen[call])]
        for cut, seen in zip(cuts, found, strict=True)
    ]


class _EnoughError(Exception):
    """Ends a forward pass: all values are there, so the rest of the model need not run."""


def foreign_hooks(model: nn.Module, cut: FeatureCut) -> str:
    """The first constant module with a hook that is not ours, which would see nothing; or empty."""
    inside = (m for p in cut.paths for m in model.get_submodule(p).named_modules(prefix=p))
    return next((path for path, module in inside if has_foreign_hooks(module)), "")


# Replacing the outputs of modules

_Handler = Callable[[Call, Callable[[], Any]], Any]  # of a call, and what computes its value


@contextmanager
def replaced_forwards(
    model: nn.Module,
    paths: Iterable[str],
    make: Callable[[str, Callable[..., Any]], Callable[..., Any]],
) -> Iterator[None]:
    """Within the block, `make(path, forward)` is the forward of each module at these paths."""
    changed: list[tuple[nn.Module, Any]] = []
    try:
        for path in paths:
            module = model.get_submodule(path)
            changed.append((module, module.__dict__.get("forward")))
            # Hooks of torch cannot keep a module from computing; another `forward` on the object
            # can. It goes into __dict__ directly, past a `__setattr__` that the module may have.
            module.__dict__["forward"] = make(path, module.forward)
        yield
    finally:
        for module, own in reversed(changed):
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


@contextmanager
def _calls_handled(
    model: nn.Module, paths: Iterable[str], handle: _Handler
) -> Iterator[Counter[str]]:
    """Within the block, `handle` gives the value of each outermost call of these modules.

    Calls from inside one of them are computed as ever and not counted.
    """
    counts: Counter[str] = Counter()
    inside = False

    def make(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            nonlocal inside
            if inside:
                return forward(*args, **kwargs)
            call = Call(path, counts[path])
            counts[path] += 1
            inside = True
            try:
                return handle(call, partial(forward, *args, **kwargs))
            finally:
                inside = False

        return run

    with replaced_forwards(model, paths, make):
        yield counts


def _trial(model: nn.Module, frozen: Sequence[str], inputs: Any) -> tuple[Any, dict[Call, Any]]:
    """The model's outputs, and what each outermost constant module gave."""
    found: dict[Call, Any] = {}

    def note(call: Call, compute: Callable[[], Any]) -> Any:
        value = compute()
        if not any(tensor.requires_grad for tensor in _tensors(value)):
            found[call] = value
        elif call.path in frozen:
            raise NoCutError(f"the frozen {call.path} gives values that still train")
        return value

    reshaping = [p for p, m in model.named_modules() if type(m) in RESHAPING and p]
    paths = dict.fromkeys([*frozen, *reshaping])
    # With gradients: a value that requires one depends on something that trains.
    with (
        evaluating(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        _calls_handled(model, paths, note) as counts,
    ):
        outputs = call_model(model, inputs)
    # A pooling layer that is called on constant and on other values is constant nowhere.
    varying = {path for path in counts if sum(c.path == path for c in found) != counts[path]}
    return _plain(outputs), {c: _plain(v) for c, v in found.items() if c.path not in varying}


def _needed(
    model: nn.Module, whole: FeatureCut, values: Mapping[Call, Any], outputs: Any, items: int
) -> tuple[Call, ...]:
    """The calls without whose values the outputs change; mostly it is the last one alone."""
    # Which constant values does the rest of the model read? Its code does not show that, so try it:
    # run the rest with one value replaced by NaN. NaN propagates through every operation, so if the
    # outputs do not change, nothing read that value and it need not be cached. (Integers and
    # booleans have no NaN; zeros replace them.) A model that fails on NaN reads the value too. At
    # the end `find_cut` compares outputs once more, with blanks for all the others.
    spoilt = {call: tree_map_only(Tensor, _spoilt, value) for call, value in values.items()}
    device = _tensors(next(iter(values.values()), torch.zeros(1)))[0].device

    def unchanged(supplied: set[Call]) -> bool:
        answers = {call: values[call] if call in supplied else spoilt[call] for call in values}
        try:
            again = _run_answering(model, whole, answers, whole.inputs.blank(items, device))
        except NoCutError:
            raise
        except Exception:  # it breaks on NaN, so it needs the value
            return False
        return _same(outputs, again)

    with evaluating(model):
        last = set(list(values)[-1:])
        if unchanged(last):
            return tuple(last)
        return tuple(call for call in values if not unchanged(set(values) - {call}))


def _spoilt(tensor: Tensor) -> Tensor:
    return torch.full_like(tensor, math.nan if tensor.is_floating_point() else 0)


def _run_answering(
    model: nn.Module, cut: FeatureCut, answers: Mapping[Call, Any], inputs: Any
) -> Any:
    def answer(call: Call, compute: Callable[[], Any]) -> Any:
        if call not in answers:
            raise NoCutError(f"{call.path} is called more often than in the trial")
        return answers[call]

    with _calls_handled(model, cut.paths, answer) as counts:
        outputs = call_model(model, inputs)
    missed = [call.path for call in cut.needed if counts[call.path] <= call.number]
    if missed:
        raise NoCutError(f"{missed[0]} is called less often than in the trial")
    return outputs


def few_items(inputs: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t[:PROBE_ITEMS] if t.ndim else t, inputs)


def _tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor) and leaf.ndim]


def _plain(value: Any) -> Any:
    return tree_map_only(Tensor, Tensor.detach, value)


def _same(one: Any, two: Any) -> bool:
    ours, theirs = _tensors(one), _tensors(two)
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4)
        for a, b in zip(ours, theirs, strict=True)
    )
