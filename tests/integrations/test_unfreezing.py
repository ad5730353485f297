"""Plans of gradual unfreezing, and the position in one."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import nn

from layergroups import GradualUnfreezing, LayerGroups
from layergroups.errors import GroupingError, TrainingError
from layergroups.integrations import UnfreezeOnPlateau
from layergroups.integrations._unfreezing import Unfreezer, rates_of


def groups() -> LayerGroups:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(4)))
    return LayerGroups(model, ["1", "2", "3"], example_input=torch.zeros(2, 4))


def trained_from(unfreezer: Unfreezer) -> int:
    return unfreezer.groups.frozen.index(False)


def test_parts_of_epochs_and_steps() -> None:
    half = Unfreezer(groups(), GradualUnfreezing(every=0.5))
    seen = [(half.at(epoch / 4, 0), trained_from(half))[1] for epoch in range(8)]
    assert seen == [3, 3, 2, 2, 1, 1, 0, 0]
    steps = Unfreezer(groups(), GradualUnfreezing(every=2, start=-2, unit="steps"))
    assert [(steps.at(9.0, step), trained_from(steps))[1] for step in range(5)] == [2, 2, 1, 1, 0]


def test_a_plateau_is_measured_from_each_unfreezing() -> None:
    plan = UnfreezeOnPlateau("loss", patience=2, min_delta=0.1)
    unfreezer = Unfreezer(groups(), plan)
    seen = []
    for value in (1.0, 0.95, 0.5, 0.6, 0.6, 9.0, 9.0, 8.0, 8.0, 8.0, 0.0):
        unfreezer.measured({"other": 0.0})
        unfreezer.measured({"loss": value})
        seen.append(trained_from(unfreezer))
    assert seen == [3, 3, 3, 3, 2, 2, 2, 2, 2, 1, 1]


@pytest.mark.parametrize("plan", [GradualUnfreezing(every=0.5), UnfreezeOnPlateau("loss"), None])
def test_state_is_json_and_goes_on(plan: Any) -> None:
    first, second = Unfreezer(groups(), plan), Unfreezer(groups(), plan)
    optimizer = first.groups.optimizer(torch.optim.SGD, lr=[1e-3, 3e-3, 7e-3, 0.1])
    first.at(0.5, 3)
    for value in (2.0, 1.0, 1.5):
        first.measured({"loss": value})
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(other := second.groups.optimizer(), 7)
    other.load_state_dict(optimizer.state_dict())
    for group in other.param_groups:
        group["lr"] /= 3
    rates = [group["lr"] for group in other.param_groups]
    second.begin([other], json.loads(json.dumps(first.state_dict())))
    assert second.groups.frozen == first.groups.frozen
    assert second.groups.rates == (1e-3, 3e-3, 7e-3, 0.1)
    assert [group["lr"] for group in other.param_groups] == rates  # those of the optimizer, exactly
    assert scheduler.optimizer is other
    assert second.state_dict() == first.state_dict()


def test_what_is_done_by_hand_between_unfreezings_stays() -> None:
    unfreezer = Unfreezer(groups(), GradualUnfreezing(every=1))
    unfreezer.at(1.0, 0)
    unfreezer.groups.freeze(-1)
    unfreezer.at(1.5, 0)
    assert unfreezer.groups.frozen == (True, True, False, True)
    unfreezer.at(2.0, 0)
    assert unfreezer.groups.frozen == (True, False, False, False)


def test_rates_of_frozen_groups_are_zero() -> None:
    made = groups()
    optimizer = made.optimizer(lr=1e-2)
    made.freeze_to(-2)
    assert list(rates_of(made, optimizer).values()) == [0.0, 0.0, 1e-2, 1e-2]


@pytest.mark.parametrize(
    "options", [{"monitor": ""}, {"patience": 0}, {"min_delta": -1}, {"patience": 1.5}]
)
def test_options_that_cannot_be(options: dict[str, Any]) -> None:
    with pytest.raises(TrainingError):
        UnfreezeOnPlateau(**options)


def test_what_is_not_a_plan() -> None:
    with pytest.raises(GroupingError, match="not a plan"):
        Unfreezer(groups(), 3)  # type: ignore[arg-type] # the mistake
    with pytest.raises(GroupingError):
        Unfreezer(groups(), UnfreezeOnPlateau(start="nowhere"))
