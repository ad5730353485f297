"""Gradual unfreezing in a loop of another library: plans, and the position in one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from torch.optim import Optimizer

from layergroups._checks import number, text, whole_number
from layergroups.errors import GroupingError
from layergroups.groups import LayerGroups, first_to_train


class Unfreezing(Protocol):
    """What every plan has; `layergroups.GradualUnfreezing` also `every` and `unit`."""

    @property
    def start(self) -> int | str: ...
    @property
    def norm(self) -> str: ...


@dataclass(frozen=True)
class UnfreezeOnPlateau:
    """Unfreeze one more layer group, from the head down, when a value stops falling.

    Attributes:
        monitor: a value that the loop logs, such as "loss" or "eval_loss" of transformers.
        patience: logged values in a row that are not lower than the best since the last unfreezing.
        min_delta: how much lower counts.
        start: name or index of the lowest group that trains at first.
        norm: "train" also trains the norm layers of frozen groups.
    """

    monitor: str = "loss"
    patience: int = 1
    min_delta: float = 0.0
    start: int | str = -1
    norm: str = "freeze"

    def __post_init__(self) -> None:
        text("monitor", self.monitor, "eval_loss")
        whole_number("patience", self.patience, 1, 2)
        number("min_delta", self.min_delta, 0, math.inf, 0.01)


class Unfreezer:
    """Applies a plan to layer groups, and knows how far it is.

    Between two unfreezings it changes nothing, so what is frozen by hand in between stays frozen.
    """

    def __init__(self, groups: LayerGroups, plan: Unfreezing | None) -> None:
        self.groups, self.plan = groups, plan
        self._first: int | None = None  # the lowest group that trains by the plan; None: not begun
        self._best, self._waited = math.inf, 0
        if plan is None:
            return
        if not isinstance(plan, UnfreezeOnPlateau) and not hasattr(plan, "every"):
            raise GroupingError(
                f"unfreeze={plan!r} is not a plan; give GradualUnfreezing(every=0.5) or "
                "UnfreezeOnPlateau(monitor='loss')"
            )
        self._unfreeze_from(groups[plan.start].index)

    def at(self, epoch: float, step: int) -> None:
        """Before a step: epochs (with parts) and optimizer steps that are done."""
        every = getattr(self.plan, "every", None)
        if self.plan is None or every is None:
            return
        done = step if getattr(self.plan, "unit", "epochs") == "steps" else epoch
        self._unfreeze_from(first_to_train(done, self.groups[self.plan.start].index, every))

    def measured(self, values: Mapping[str, Any]) -> None:
        """After values were logged."""
        plan = self.plan
        if not isinstance(plan, UnfreezeOnPlateau) or plan.monitor not in values or not self._first:
            return
        value = float(values[plan.monitor])
        if value < self._best - plan.min_delta:
            self._best, self._waited = value, 0
            return
        self._waited += 1
        if self._waited >= plan.patience:
            self._best, self._waited = math.inf, 0
            self._unfreeze_from(self._first - 1)

    def _unfreeze_from(self, first: int) -> None:
        if self.plan is not None and first != self._first:
            self._first = first
            self.groups.gradual_unfreeze(0, start=first, norm=self.plan.norm)

    def state_dict(self) -> dict[str, Any]:
        """Freezing, rates and position, ready for JSON."""
        groups = self.groups.state_dict()
        return {
            "groups": {k: groups[k] for k in ("names", "rates", "frozen", "freed", "norm")},
            "first": self._first,
            "best": None if math.isinf(self._best) else self._best,
            "waited": self._waited,
        }

    def begin(self, optimizers: Sequence[Optimizer], state: Mapping[str, Any] | None) -> None:
        """Attach the groups to optimizers, and restore all this where a run is resumed.

        Optimizers that were restored already keep their rates to the bit.
        """
        if state is None:
            for optimizer in optimizers:
                if not self.groups.is_attached(optimizer):
                    self.groups.attach(optimizer)
            return
        with _unchanged(optimizers):
            for optimizer in optimizers:
                self.groups.attach(optimizer)
            self.groups.load_state_dict(state["groups"])
        if self.plan is not None:
            self._first, self._waited = state["first"], state["waited"]
            self._best = math.inf if state["best"] is None else state["best"]


def rates_of(groups: LayerGroups, optimizer: Optimizer) -> dict[str, float]:
    """The rate of each group in an optimizer now; 0 for one that is frozen."""
    rates = dict.fromkeys(groups.names, 0.0)
    for group in optimizer.param_groups:
        index = group.get("layer_group")
        if index is not None and index not in groups.inactive:
            rates[groups.names[index]] = float(group["lr"])
    return rates


@contextmanager
def _unchanged(optimizers: Sequence[Optimizer]) -> Iterator[None]:
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    before = [{k: v for k, v in group.items() if k != "params"} for group in groups]
    yield
    for group, values in zip(groups, before, strict=True):
        group.update(values)
