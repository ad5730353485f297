"""Laws 3, 6 and 7 for an optimizer made without the learner."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer

from layergroups import LayerGroups
from layergroups.errors import GroupingError
from tests.laws.models import TinyResNet, image
from tests.laws.surgeries import assert_agree


def make() -> tuple[TinyResNet, LayerGroups]:
    torch.manual_seed(0)
    model = TinyResNet()
    model.fc = nn.Linear(32, 3, bias=False)
    return model, LayerGroups(model, example_input=image())


def step(model: nn.Module, optimizer: Optimizer) -> None:
    model.train()
    optimizer.zero_grad()
    model(image()).square().sum().backward()
    optimizer.step()


def filled(groups: LayerGroups) -> list[dict[str, Any]]:
    """Parameter groups without the empty ones."""
    made = groups.param_groups(lr=1e-2, weight_decay=0.3)
    return [group for group in made if group["params"]]


@pytest.mark.parametrize("kind", [AdamW, lambda g: SGD(g, momentum=0.9, fused=True)])
def test_new_parameters_train_though_their_parameter_group_was_left_out(kind: Any) -> None:
    model, groups = make()
    optimizer = kind(filled(groups))
    assert "head/no_decay" not in {g["name"] for g in optimizer.param_groups}
    groups.attach(optimizer)
    step(model, optimizer)
    model.fc = nn.Linear(32, 5)
    before = model.fc.bias.detach().clone()
    step(model, optimizer)
    assert not torch.equal(model.fc.bias, before)
    assert_agree(model, groups, optimizer)
    rates = {g["name"]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups}
    assert rates["head/decay"] == (1e-2, 0.3)
    assert rates["head/no_decay"] == (1e-2, 0.0)
    for group in optimizer.param_groups:
        assert optimizer.defaults.keys() <= group.keys()


def test_an_optimizer_of_some_groups_gets_no_others() -> None:
    model, groups = make()
    body = SGD([g for g in filled(groups) if g["layer_group"] < 2])
    head = AdamW([g for g in filled(groups) if g["layer_group"] == 2])
    groups.attach(body)
    groups.attach(head)
    model.fc = nn.Linear(32, 4)
    step(model, head)
    assert {p for g in head.param_groups for p in g["params"]} == set(model.fc.parameters())
    assert not {p for g in body.param_groups for p in g["params"]} & set(model.fc.parameters())


def test_a_scheduler_that_counts_too_few_parameter_groups_is_refused() -> None:
    _, groups = make()
    optimizer = AdamW(filled(groups))
    torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    with pytest.raises(GroupingError, match="before you make the scheduler"):
        groups.attach(optimizer)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_parameter_group_of_the_users_own_is_left_alone(when: str) -> None:
    model, groups = make()
    optimizer = SGD(groups.param_groups(lr=1e-2))
    extra, shared = nn.Parameter(torch.ones(2)), model.fc.weight
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if p is not shared]
    own = {"params": [extra, shared], "lr": 0.5, "mine": True}
    if when == "before":
        optimizer.add_param_group(own)
        groups.attach(optimizer)
    else:
        groups.attach(optimizer)
        for group in optimizer.param_groups:
            group["params"] = [p for p in group["params"] if p is not shared]
        optimizer.add_param_group(own)
    model.layer3.append(nn.Conv2d(32, 32, 1))
    groups.set_rates(1e-4)
    extra.grad = torch.ones(2)
    step(model, optimizer)
    mine = optimizer.param_groups[-1]
    assert mine["params"] == [extra, shared]
    assert mine["lr"] == 0.5
    held = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert len(held) == len(set(held))
    assert {*map(id, model.parameters())} < set(held)


def test_two_optimizers_that_share_the_parameters_stay_apart() -> None:
    """One for weights, one for biases, as with Muon and AdamW: no parameter steps twice."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = LayerGroups(model, split=["0", "2"], example_input=torch.zeros(3, 4))
    made = groups.param_groups(lr=0.1, weight_decay=0.0)
    parts = [
        torch.optim.SGD([g for g in made if g["name"].endswith(end) and g["params"]])
        for end in ("/decay", "/no_decay")
    ]
    for optimizer in parts:
        groups.attach(optimizer)
    before = [p.detach().clone() for p in model.parameters()]
    model(torch.ones(3, 4)).sum().backward()
    gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    for optimizer in parts:
        optimizer.step()
    for parameter, old, gradient in zip(model.parameters(), before, gradients, strict=True):
        assert torch.allclose(old - parameter, 0.1 * gradient, atol=1e-6)
