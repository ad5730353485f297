from functools import partial

import pytest
import torch
from tests.training.tiny import tiny_model

from layergroups.errors import TrainingError
from layergroups.groups import LayerGroups
from layergroups.training.optimizers import (
    build_optimizer,
    rates_in_use,
    set_momentum,
    set_rates,
)


@pytest.fixture
def groups() -> LayerGroups:
    return LayerGroups(tiny_model(), ["0.0", "0.7", "1"], example_input=torch.zeros(2, 3, 16, 16))


def test_names_in_any_case_classes_and_callables(groups: LayerGroups) -> None:
    made = [
        build_optimizer(given, groups.param_groups(), lr=0.1)
        for given in ("adamw", "AdamW", torch.optim.AdamW, partial(torch.optim.AdamW, eps=1e-5))
    ]
    assert {type(optimizer) for optimizer in made} == {torch.optim.AdamW}
    assert made[-1].defaults["eps"] == 1e-5
    assert made[0].defaults["fused"]


def test_sgd_by_name_has_momentum(groups: LayerGroups) -> None:
    assert build_optimizer("sgd", groups.param_groups(), 0.1).defaults["momentum"] == 0.9
    own = build_optimizer(torch.optim.SGD, groups.param_groups(), 0.1)
    assert own.defaults["momentum"] == 0


def test_frozen_groups_are_in_it(groups: LayerGroups) -> None:
    groups.freeze()
    optimizer = build_optimizer("adamw", groups.param_groups(), lr=0.1)
    assert {group["layer_group"] for group in optimizer.param_groups} == {0, 1, 2}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("adamz", "adamw"),
        (3, "adamw"),
        (torch.optim.LBFGS, "partial"),
        (lambda groups: torch.optim.SGD([p for g in groups for p in g["params"]]), "groups"),
    ],
)
def test_what_makes_no_optimizer_of_the_groups_is_refused(given, says, groups) -> None:
    with pytest.raises(TrainingError, match=says):
        build_optimizer(given, groups.param_groups(), lr=0.1)


def test_rates_are_base_rate_times_multiplier(groups: LayerGroups) -> None:
    optimizer = build_optimizer("adamw", groups.param_groups(), lr=0.1)
    set_rates(optimizer, (1e-3, 1e-2, 1e-1), 0.5)
    assert rates_in_use(optimizer, 3) == (5e-4, 5e-3, 5e-2)
    assert all(
        group["lr"] == (5e-4, 5e-3, 5e-2)[group["layer_group"]] for group in optimizer.param_groups
    )


def test_momentum_goes_where_the_optimizer_has_it_and_comes_back(groups: LayerGroups) -> None:
    adam = build_optimizer("adamw", groups.param_groups(), 0.1)
    sgd = build_optimizer("sgd", groups.param_groups(), 0.1)
    plain = build_optimizer(torch.optim.SGD, groups.param_groups(), 0.1)
    for optimizer in (adam, sgd, plain):
        set_momentum(optimizer, 0.5)
    assert adam.param_groups[0]["betas"] == (0.5, 0.999)
    assert sgd.param_groups[0]["momentum"] == 0.5
    assert plain.param_groups[0]["momentum"] == 0
    set_momentum(adam, None)
    assert adam.param_groups[0]["betas"] == (0.9, 0.999)
