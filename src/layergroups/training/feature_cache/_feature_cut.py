"""What a frozen part gives is a constant: find it in a model, record it, and run the rest from it.

A module is *constant* if it is frozen, or if it only reshapes or pools what constant modules gave.
While the rest runs from stored values, constant modules answer with them instead of computing;
those whose values reach only other constant modules answer with blank tensors that nobody reads.
Which is which is found by trial, on a few items: a value is needed if the output changes when NaN
stands in its place. So this works for any architecture, and what does not work is seen before
anything is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from layergroups.errors import TrainingError
from layergroups.models import AdaptiveConcatPool2d
from layergroups.training.state import evaluating

RESHAPING: Final = (
    AdaptiveConcatPool2d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d,
    nn.AvgPool2d,
    nn.Flatten,
    nn.Identity,
    nn.MaxPool2d,
)


_Make = Callable[[str, Callable[..., Any]], Callable[..., Any]]  # of another forward


class NoPassageError(TrainingError):
    """The rest of the model cannot run from stored values; the message says why."""


class Call(NamedTuple):
    """A call of a module in a forward pass: which module, and its how-manieth call."""

    path: str
    number: int


@dataclass(frozen=True)
class TensorSpec:
    """A tensor in an output, without its values.

    Attributes:
        shape: without the first dimension.
        rows: of the first dimension for each item of the batch; 0 if it does not grow with it.
        first: length of the first dimension, where it does not grow.
        dtype: of the values.
    """

    shape: tuple[int, ...]
    rows: int
    first: int
    dtype: torch.dtype

    def blank(self, items: int, device: torch.device) -> Tensor:
        """Zeros in this shape that take no memory."""
        first = self.rows * items if self.rows else self.first
        return torch.zeros((), dtype=self.dtype, device=device).expand(first, *self.shape)


@dataclass(frozen=True)
class OutputSpec:
    """An output in any nesting of tuples, dicts and model outputs, without its values.

    Attributes:
        leaves: tensors as outlines, anything else as it is.
        spec: the nesting.
    """

    leaves: tuple[Any, ...]
    spec: TreeSpec

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """The outlines of its tensors."""
        return tuple(leaf for leaf in self.leaves if isinstance(leaf, TensorSpec))

    def filled(self, values: Iterator[Tensor]) -> Any:
        """The output with values in the places of its tensors."""
        made = [next(values) if isinstance(leaf, TensorSpec) else leaf for leaf in self.leaves]
        return tree_unflatten(made, self.spec)

    def blank(self, items: int, device: torch.device) -> Any:
        """The output with blank tensors."""
        return self.filled(iter([leaf.blank(items, device) for leaf in self.tensors]))


@dataclass(frozen=True)
class FeatureCut:
    """Where values pass from the constant part of a model to the rest.

    Attributes:
        calls: of constant modules in a forward pass, and what they give; outermost ones only.
        kept: those of them whose values the rest needs.
        inputs: what goes into the model.
    """

    calls: Mapping[Call, OutputSpec]
    kept: tuple[Call, ...]
    inputs: OutputSpec

    @property
    def leaves(self) -> tuple[TensorSpec, ...]:
        """The tensors to keep for each item."""
        return tuple(leaf for call in self.kept for leaf in self.calls[call].tensors)

    @property
    def needs(self) -> list[tuple[Call, tuple[TensorSpec, ...]]]:
        """Whose values are kept, and their shapes."""
        return [(call, self.calls[call].tensors) for call in self.kept]

    @property
    def paths(self) -> tuple[str, ...]:
        """The constant modules."""
        return tuple(dict.fromkeys(call.path for call in self.calls))


def find_cut(model: nn.Module, frozen: Sequence[str], inputs: Any) -> FeatureCut:
    """Find where the frozen part ends, by trying with a few items; changes nothing.

    Args:
        model: from inputs to outputs.
        frozen: paths of the outermost modules in which nothing trains, moves or draws.
        inputs: of at least three items, best an odd number; a tensor (N, ...), or any nesting.

    Raises:
        NoPassageError: the rest cannot be run from what the frozen part gives; says why.
    """
    items = _items(inputs)
    outputs, recorded = _recorded_calls(model, frozen, inputs)
    calls = {call: _outline(value, items) for call, value in recorded.items()}
    whole = FeatureCut(calls, tuple(calls), _outline(inputs, items))
    passage = FeatureCut(calls, _needed(model, whole, recorded, outputs, items), whole.inputs)
    _check_kept(passage)
    values = [leaf for call in passage.kept for leaf in _tensors(recorded[call])]
    with evaluating(model):
        again = forward_from(model, passage, values)
    if not _same(outputs, again):
        raise NoPassageError("its layers after the frozen ones need more than their outputs")
    return passage


def forward_from(model: nn.Module, passage: FeatureCut, values: Sequence[Tensor]) -> Any:
    """Run the rest of the model from stored values, one tensor (N, ...) for each kept leaf.

    Raises:
        NoPassageError: the model called its constant modules otherwise than when it was looked at.
    """
    items, device = len(values[0]), values[0].device
    answers: dict[Call, Any] = {}
    left = iter(values)
    for call, outline in passage.calls.items():
        kept = call in passage.kept
        answers[call] = outline.filled(left) if kept else outline.blank(items, device)
    return _answering(model, passage, answers, passage.inputs.blank(items, device))


def record(model: nn.Module, passages: Sequence[FeatureCut], inputs: Any) -> list[list[Tensor]]:
    """Run the constant part alone, once for all passages.

    Returns:
        For each passage the kept values, in the order of its leaves.

    Raises:
        NoPassageError: the model called its constant modules otherwise than when it was looked at.
    """
    recorders = [_Recorder(passage) for passage in passages]

    def enough() -> bool:
        return all(recorder.full for recorder in recorders)

    with ExitStack() as stack:
        for recorder in recorders:
            stack.enter_context(forwards(model, recorder.passage.paths, recorder.make(enough)))
        with suppress(_EnoughError):
            model(inputs)
    if not enough():
        raise NoPassageError("its frozen modules are called otherwise than when it was looked at")
    return [recorder.taken for recorder in recorders]


class _EnoughError(Exception):
    """All kept values are there, so the rest of the model need not run."""


class _Recorder:
    """Takes down the kept values of one passage while the model runs."""

    def __init__(self, passage: FeatureCut) -> None:
        self.passage = passage
        self._counts: Counter[str] = Counter()
        self._inside = False
        self._seen: dict[Call, list[Tensor]] = {}

    @property
    def full(self) -> bool:
        """Whether all values are there."""
        return len(self._seen) == len(self.passage.kept)

    @property
    def taken(self) -> list[Tensor]:
        """The values, in the order of the leaves."""
        return [tensor for call in self.passage.kept for tensor in self._seen[call]]

    def make(self, enough: Callable[[], bool]) -> _Make:
        """Forwards that listen, and end the run as soon as there is enough."""
        wanted = set(self.passage.kept)

        def listening(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
            def listen(*args: Any, **kwargs: Any) -> Any:
                if self._inside:  # only calls from outside the constant part are counted
                    return forward(*args, **kwargs)
                call = Call(path, self._counts[path])
                self._counts[path] += 1
                self._inside = True
                try:
                    value = forward(*args, **kwargs)
                finally:
                    self._inside = False
                if call in wanted:
                    self._seen[call] = [tensor.detach() for tensor in _tensors(value)]
                    if enough():
                        raise _EnoughError
                return value

            return listen

        return listening


def _recorded_calls(
    model: nn.Module, frozen: Sequence[str], inputs: Any
) -> tuple[Any, dict[Call, Any]]:
    """The model's outputs, and what each outermost constant module gave."""
    counts: Counter[str] = Counter()
    inside: list[str] = []
    found: dict[Call, Any] = {}

    def listening(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def listen(*args: Any, **kwargs: Any) -> Any:
            if inside:
                return forward(*args, **kwargs)
            inside.append(path)
            call = Call(path, counts[path])
            counts[path] += 1
            try:
                value = forward(*args, **kwargs)
            finally:
                inside.pop()
            if not any(tensor.requires_grad for tensor in _tensors(value)):
                found[call] = value
            elif path in frozen:
                raise NoPassageError(f"the frozen {path} gives values that still train")
            return value

        return listen

    reshaping = [p for p, m in model.named_modules() if type(m) in RESHAPING and p]
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        paths = dict.fromkeys([*frozen, *reshaping])
        with forwards(model, paths, listening):
            outputs = model(inputs)
    varying = {path for path in counts if sum(c.path == path for c in found) != counts[path]}
    return _plain(outputs), {c: _plain(v) for c, v in found.items() if c.path not in varying}


def _needed(
    model: nn.Module, whole: FeatureCut, values: Mapping[Call, Any], outputs: Any, items: int
) -> tuple[Call, ...]:
    """The calls without whose values the outputs change; mostly it is the last one alone."""
    spoilt = {call: tree_map_only(Tensor, _spoilt, value) for call, value in values.items()}
    device = _tensors(next(iter(values.values()), torch.zeros(1)))[0].device

    def unchanged(true: set[Call]) -> bool:
        answers = {call: values[call] if call in true else spoilt[call] for call in values}
        try:
            again = _answering(model, whole, answers, whole.inputs.blank(items, device))
        except NoPassageError:
            raise
        except Exception:  # a value that breaks the model if it is wrong is needed
            return False
        return _same(outputs, again)

    with evaluating(model):
        last = set(list(values)[-1:])
        if unchanged(last):
            return tuple(last)
        return tuple(call for call in values if not unchanged(set(values) - {call}))


def _spoilt(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return torch.full_like(tensor, float("nan"))
    return torch.zeros_like(tensor)


def _answering(
    model: nn.Module, passage: FeatureCut, answers: Mapping[Call, Any], inputs: Any
) -> Any:
    """Run the model while constant modules answer with given values."""
    counts: Counter[str] = Counter()

    def answering(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def answer(*args: Any, **kwargs: Any) -> Any:
            call = Call(path, counts[path])
            counts[path] += 1
            if call not in answers:
                raise NoPassageError(f"{path} is called more often than when it was looked at")
            return answers[call]

        return answer

    with forwards(model, passage.paths, answering):
        outputs = model(inputs)
    missed = [call.path for call in passage.kept if counts[call.path] <= call.number]
    if missed:
        raise NoPassageError(f"{missed[0]} is called less often than when it was looked at")
    return outputs


@contextmanager
def forwards(model: nn.Module, paths: Iterable[str], make: _Make) -> Iterator[None]:
    """For a while, other forwards for the modules at these paths."""
    changed: list[tuple[nn.Module, Any]] = []
    try:
        for path in paths:
            module = model.get_submodule(path)
            changed.append((module, module.__dict__.get("forward")))
            module.__dict__["forward"] = make(path, module.forward)
        yield
    finally:
        for module, own in reversed(changed):
            if own is None:
                module.__dict__.pop("forward", None)
            else:
                module.__dict__["forward"] = own


def _check_kept(passage: FeatureCut) -> None:
    """Something must be kept, a row for each item.

    Raises:
        NoPassageError: it cannot be.
    """
    if not passage.kept:
        raise NoPassageError("nothing that the frozen layers give reaches the others")
    for call in passage.kept:
        for leaf in passage.calls[call].tensors:
            if leaf.rows != 1:
                raise NoPassageError(f"the output of {call.path} has no row for each item")


def _outline(value: Any, items: int) -> OutputSpec:
    leaves, spec = tree_flatten(value)
    return OutputSpec(tuple(_leaf(leaf, items) for leaf in leaves), spec)


def _leaf(value: Any, items: int) -> Any:
    if not isinstance(value, Tensor) or value.ndim == 0:
        return value
    rows, rest = divmod(len(value), items)
    return TensorSpec(tuple(value.shape[1:]), 0 if rest else rows, len(value), value.dtype)


def _tensors(value: Any) -> list[Tensor]:
    """The tensors with at least one dimension, in order."""
    return [leaf for leaf in tree_flatten(value)[0] if isinstance(leaf, Tensor) and leaf.ndim]


def _items(inputs: Any) -> int:
    tensors = _tensors(inputs)
    if not tensors:
        raise NoPassageError("its inputs hold no tensor")
    return len(tensors[0])


def _plain(value: Any) -> Any:
    return tree_map_only(Tensor, Tensor.detach, value)


def _same(one: Any, two: Any) -> bool:
    """Whether two outputs are equal within float tolerance."""
    ours, theirs = _tensors(one), _tensors(two)
    return len(ours) == len(theirs) and all(
        a.shape == b.shape and torch.allclose(a.float(), b.float(), rtol=1e-3, atol=1e-4)
        for a, b in zip(ours, theirs, strict=True)
    )
