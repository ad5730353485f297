"""How the second phase of `fine_tune` ends: between the weights before it and the last ones.

The result lies on the straight line from the weights before the phase to those after it, which is
more robust than either end. It is the usual point on the line, unless held-out training items speak
against it. These are in no step until the last epoch, or in none if there is one epoch, so the
phase starts with a head that has not seen them. The last epoch trains on all items, and its head
gets what the head of the first phase learned when it trained on with all items. Weights on the line
are good between ends with the same pretrained start: without pretrained weights only the ends are
compared.

Source: Wortsman and others, "Robust fine-tuning of zero-shot models" (2022), for the line between
the weights (WiSE-FT); Ilharco and others, "Editing Models with Task Arithmetic" (2023), for adding
the difference of two heads.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from layergroups.data import DataSource, IndexedBatches, items_in
from layergroups.tasks import stratified_split
from layergroups.training.loop import predict_all

if TYPE_CHECKING:
    from layergroups.training.loop import FitContext

_log = logging.getLogger("layergroups")
_LEAST: Final = 16  # held-out items that can judge anything
_LARGEST_PART: Final = 0.25  # of the items, to have the least number
_MOST: Final = 1000  # more would cost time and decide the same
_PARTS: Final = (0.0, 0.25, 0.5, 0.75, 1.0)
_ENDS: Final = (0.0, 1.0)
# Measured (benchmarks/README.md): as good as a second training from the start, in less time.
MORE_STEPS: Final = 0.25
MORE_RATE: Final = 0.1
_STATISTICS: Final = ("running_mean", "running_var", "num_batches_tracked")
Weights = dict[str, Tensor]


@dataclass(eq=False)
class HeldOut:
    """Training items in no step of the phases of one `fine_tune`.

    Attributes:
        items: their positions, ascending; none if they could not judge.
        head: the weights of a head that was trained without them; empty before that.
    """

    items: tuple[int, ...] = ()
    head: Weights = field(default_factory=dict)

    @classmethod
    def of(cls, data: DataSource, part: float) -> HeldOut:
        """Choose this part of the training items, of every class, always in the same way.

        Small data give a larger part, so that there are enough items to judge.
        """
        n = items_in(data.train)
        if not (part and n) or data.training(left_out=[0]) is None or _unvaried(data) is None:
            return cls()
        labels = strata(data, n)
        for share in (min(part, _MOST / n), min(_LEAST / n, _LARGEST_PART), _LARGEST_PART):
            _, items = stratified_split(labels, share, seed=0)
            if len(items) >= _LEAST:
                return cls(items)
        return cls()


def strata(data: DataSource, n_items: int) -> list[int]:
    """The class of each training item; zeros if items do not have one class each."""
    targets = data.targets()
    if targets is None or targets.ndim != 1 or targets.is_floating_point():
        return [0] * n_items
    found: list[int] = targets.tolist()
    return found


def item_errors(outputs: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
    """The error of each item, float (N,): wrong or right for one of several classes, or its loss.

    `outputs` are scores or probabilities (N, C), or of another shape for other tasks.
    """
    one_class = targets.ndim == 1 and not targets.is_floating_point()
    if one_class and outputs.ndim == 2 and outputs.shape[1] > 1:
        return (outputs.argmax(1) != targets).double()
    return losses.double()


def _unvaried(data: DataSource) -> IndexedBatches | None:
    """The training items without augmentation, if they can be read one by one."""
    batches = data.views(None)
    return batches if isinstance(batches, IndexedBatches) else None


class LearnHeldOut:
    """A callback of the head's phase: keeps the head trained without the held-out items.

    After `steps` optimizer steps without them the head trains on with all items, for
    `MORE_STEPS` as many steps at `MORE_RATE` of the rates, with a new optimizer state.
    """

    def __init__(self, held_out: HeldOut) -> None:
        self.held_out = held_out
        self.steps = 0

    def after_step(self, run: FitContext) -> None:
        if run.step == self.steps:
            tensors = trained_tensors(run)
            self.held_out.head = copied(tensors)
            forget_moments(run, tensors)

    def state_dict(self) -> dict[str, Any]:
        return {"head": self.held_out.head}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.held_out.head = dict(state["head"])


class ChooseWeights:
    """A callback of the second phase: moves the weights to a point on the line, see above.

    It is the usual one, or what held-out items choose instead (`best`); with `part` that.
    """

    def __init__(self, held_out: HeldOut, usual: float, part: float | None = None) -> None:
        self.held_out = held_out
        self.errors: dict[float, float] = {}  # of the held-out items, by the interpolation
        self.losses: dict[float, float] = {}  # likewise; those that are finite
        self.given, self.usual = part, usual
        self.interpolation = usual if part is None else part
        self.judged = False
        self._before: Weights = {}
        self._run: FitContext | None = None

    @property
    def left_out(self) -> tuple[int, ...]:
        """The items that are in no step now."""
        return self.held_out.items if self.held_out.head and not self.judged else ()

    @property
    def reason(self) -> str:
        """Why the end lies where it does."""
        if self.given is not None:
            return "by the plan"
        if not self.errors:
            return "the usual one: no held-out items judged it"
        nearest = min(self.errors, key=lambda part: abs(part - self.usual))
        if self.interpolation == nearest:
            return "the usual one: on held-out items none is better by over a standard error"
        by_errors = self.errors[nearest] > self.errors[self.interpolation]
        worse = "error" if by_errors else "loss"
        return f"on held-out items the {worse} is clearly larger at the usual one"

    def before_fit(self, run: FitContext) -> None:
        self._run = run
        tensors = trained_tensors(run)
        self._before = copied(tensors)
        put(tensors, self.held_out.head)
        # The gradients of a head that has learned its cached inputs are small, and so are its
        # second moments: the first steps on new inputs would be far too large.
        forget_moments(run, tensors)

    def before_epoch(self, run: FitContext) -> None:
        if run.epochs > 1 and run.epoch + 1 == run.epochs and self.left_out:
            self._judge(run)
            run.vary(left_out=())

    def before_validate(self, run: FitContext) -> None:
        if run.epoch + 1 == run.epochs or run.stop:
            self._finish(run)

    def after_fit(self, run: FitContext) -> None:
        self._finish(run)  # if a callback has ended the fit after an epoch

    def after_all(self, run: FitContext) -> None:
        if not run.begun:  # the phase was refused
            put(trained_tensors(run), {n: self._before[n] for n in self.held_out.head})

    def state_dict(self) -> dict[str, Any]:
        found = {"errors": list(self.errors.items()), "losses": list(self.losses.items())}
        judged = {"interpolation": self.interpolation, "judged": self.judged, **found}
        return {"before": self._before, "head": self.held_out.head, **judged}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._before, self.held_out.head = dict(state["before"]), dict(state["head"])
        self.interpolation, self.judged = state["interpolation"], state["judged"]
        self.errors, self.losses = dict(state["errors"]), dict(state.get("losses", ()))
        if self._run is not None:
            self._run.vary(left_out=self.left_out)

    def _judge(self, run: FitContext) -> None:
        """Choose the point by the held-out items, and return them to the training items."""
        self.judged = True
        tensors, head = trained_tensors(run), self.held_out.head
        if not _same_shapes(self._before, tensors):
            return
        start, now = {**self._before, **head}, copied(tensors)
        if self.given is None:
            errors, losses = {}, {}
            for part in _ENDS if run.learner.pretrained is False else _PARTS:
                put(tensors, between(start, now, part))
                errors[part], losses[part] = _errors(run, self.held_out.items)
            found = best(errors, losses, self.usual)
            self.interpolation = run.processes.from_main("the choice of weights", found)
            self.errors = {part: float(own.mean()) for part, own in errors.items()}
            means = {part: float(own.mean()) for part, own in losses.items()}
            self.losses = {part: mean for part, mean in means.items() if math.isfinite(mean)}
        learned = {n: self._before[n] - head[n] for n in head if not n.endswith(_STATISTICS)}
        put(tensors, now | {name: now[name] + value for name, value in learned.items()})

    def _finish(self, run: FitContext) -> None:
        if not self._before:
            return
        if self.left_out:  # stopped early, or the phase has one epoch
            self._judge(run)
        tensors = trained_tensors(run)
        if _same_shapes(self._before, tensors):
            put(tensors, between(self._before, copied(tensors), self.interpolation))
            if self.errors:
                run.note = f"interpolation {self.interpolation:g}, by held-out items"
        else:
            _log.warning("The model was changed in this phase, so its last weights stay.")
        self._before = {}


def _same_shapes(one: Weights, other: Weights) -> bool:
    return {n: t.shape for n, t in one.items()} == {n: t.shape for n, t in other.items()}


def between(start: Weights, end: Weights, part: float) -> Weights:
    """Weights on the line from one state to another; a part of 0 is the first of them."""
    return {
        name: torch.lerp(start[name], value, part) if 0 < part < 1 and value.is_floating_point()
        else (value if part else start[name])
        for name, value in end.items()
    }  # fmt: skip


def _errors(run: FitContext, items: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The error and the loss of each held-out item, float (N,)."""
    learner, batches = run.learner, _unvaried(run.learner.data)
    assert batches is not None  # see HeldOut.of
    size = learner.data.batch_size or 64
    chunks = (batches.at(items[i : i + size]) for i in range(0, len(items), size))
    predicted, targets, losses = predict_all(learner, chunks, with_loss=True)
    assert targets is not None
    assert losses is not None
    return item_errors(predicted, targets, losses), losses.double()


def best(errors: Mapping[float, Tensor], losses: Mapping[float, Tensor], usual: float) -> float:
    """The part next to the usual one at which neither errors nor losses are clearly too large.

    That is, larger than the smallest by more than a standard error of their difference, item by
    item: a few items judge with noise. Where the two contradict each other, errors count.

    Args:
        errors: of each held-out item, float (N,), by the interpolation.
        losses: likewise. Parts with an infinite or undefined loss are not chosen.
        usual: what is chosen if the items do not speak against it.

    Source: Breiman and others, "Classification and Regression Trees" (1984), for the rule of one
    standard error.
    """
    by_losses = _near_the_least(losses)
    by_errors = _near_the_least({p: own for p, own in errors.items() if losses[p].isfinite().all()})
    close = [part for part in by_errors if part in by_losses] or by_errors
    return min(close, key=lambda part: abs(part - usual)) if close else usual


def _near_the_least(values: Mapping[float, Tensor]) -> list[float]:
    """The parts whose mean is at most a standard error of the difference above the smallest."""
    known = {part: own for part, own in sorted(values.items()) if own.isfinite().all()}
    if not known:
        return []
    least = min(known.values(), key=lambda own: float(own.mean()))
    more = {part: own - least for part, own in known.items()}
    # A single wrong item more is exactly one standard error, so allow for rounding.
    return [p for p, own in more.items() if 0.999 * own.mean() <= own.std() / len(own) ** 0.5]


def trained_tensors(run: FitContext) -> Weights:
    """Parameters that train, and the buffers of their modules, by name."""
    inactive = {
        m for module in run.groups.inactive_modules(run.groups.inactive) for m in module.modules()
    }
    found: Weights = {n: p for n, p in run.model.named_parameters() if p.requires_grad}
    for path, module in run.model.named_modules():
        if module not in inactive:
            found |= module.named_buffers(prefix=path, recurse=False)
    return found


def forget_moments(run: FitContext, tensors: Weights) -> None:
    """Start with a new optimizer state for these parameters."""
    for tensor in tensors.values():
        run.optimizer.state.pop(tensor, None)


def copied(tensors: Weights) -> Weights:
    """A copy of the values."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def put(tensors: Weights, values: Mapping[str, Tensor]) -> None:
    """Write values into the tensors of the same names."""
    with torch.no_grad():
        for name, value in values.items():
            if name in tensors:
                tensors[name].copy_(value)
