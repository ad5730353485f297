"""Law 3: after any surgery groups, freezing and optimizer agree with the model again."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from layergroups import LayerGroups
from layergroups.errors import GroupingError
from tests.laws.models import TinyResNet, image
from tests.laws.surgeries import (
    OPTIMIZERS,
    SURGERIES,
    Surgery,
    append_block,
    assert_agree,
    assert_same_states,
    at_the_step,
    optimizer_states,
    replace_head,
    wrap_layer,
)

QUICK = [(0, "adamw"), (-1, "sgd")]
OTHERS = [(0, "sgd"), (-1, "adamw"), (-2, "adamw"), (-2, "sgd")]
RATES = {"early": 1e-4, "late": 1e-3, "head": 1e-2}


def make(optimizer: str = "adamw") -> tuple[TinyResNet, LayerGroups, Optimizer]:
    torch.manual_seed(0)
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    made = OPTIMIZERS[optimizer](groups.param_groups(lr=RATES))
    groups.attach(made)
    step(model, made)
    return model, groups, made


def step(model: nn.Module, optimizer: Optimizer) -> None:
    """What a plain loop does; it knows nothing of groups."""
    model.train()
    optimizer.zero_grad()
    model(image()).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("surgery", SURGERIES, ids=lambda s: s.__name__)
@pytest.mark.parametrize(
    ("freeze_to", "kind"), QUICK + [pytest.param(*c, marks=pytest.mark.slow) for c in OTHERS]
)
def test_a_plain_loop_is_right_before_the_next_step(
    surgery: Surgery, freeze_to: int, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    model, groups, optimizer = make(kind)
    groups.freeze_to(freeze_to)
    known = list(model.parameters())
    before = optimizer_states(optimizer)

    surgery(model)
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    caplog.clear()
    with at_the_step(optimizer) as seen:
        step(model, optimizer)
    step(model, optimizer)  # a parameter put in a module that stays moves from here on

    (change,) = groups.changes
    assert caplog.messages == [str(change)]
    assert len(str(change).splitlines()) == 1
    alive = set(model.parameters())
    for parameter in alive.intersection(known):
        old, new = before.get(parameter, {}), seen[0].get(parameter, {})
        assert set(old) == set(new)
        assert all(torch.equal(old[key], new[key]) for key in old)
    assert not set(seen[0]) - alive
    assert_agree(model, groups, optimizer)
    for group in groups:
        for name, parameter in group.named_parameters():
            if name.rpartition(".")[2] != "bias" or "main" not in name:  # a norm undoes that one
                assert torch.equal(parameter, weights[name]) == group.frozen, name
    assert groups.sync() is None


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_sync_tells_the_same_without_a_step(kind: str) -> None:
    model, groups, optimizer = make(kind)
    before = optimizer_states(optimizer)
    replace_head(model)
    change = groups.sync()
    assert change is groups.changes[0]
    assert change.added == (("fc.weight", "head"), ("fc.bias", "head"))
    assert change.removed == ("fc.weight", "fc.bias")
    assert change.to_dict()["added"][0] == ("fc.weight", "head")
    assert_agree(model, groups, optimizer)
    assert_same_states(optimizer, before)


def test_new_parameters_join_the_group_of_their_path() -> None:
    model, groups, optimizer = make()
    groups.freeze_to(-2)
    append_block(model)
    wrap_layer(model)
    change = groups.sync()
    assert change is not None
    assert {group for _, group in change.added} == {"late"}
    new = model.layer3[2].main[0][0].weight
    rates = {g["lr"] for g in optimizer.param_groups if any(p is new for p in g["params"])}
    assert rates == {1e-3}
    assert all(p.requires_grad for p in model.layer3[2].parameters())


def test_surviving_layers_of_a_replaced_head_retain_their_state() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
                          nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4),
                                        nn.Linear(4, 2)))  # fmt: skip
    groups = LayerGroups(model, example_input=image(), head="1")
    optimizer = AdamW(groups.param_groups(lr=1e-3))
    groups.attach(optimizer)
    step(model, optimizer)
    weight = model[1][2].weight
    state = copy.deepcopy(optimizer.state[weight])
    model[-1] = nn.Sequential(*list(model[-1].children())[:-1], nn.Linear(4, 5))
    change = groups.sync()
    assert change is not None
    assert change.added == (("1.3.weight", "head"), ("1.3.bias", "head"))
    assert torch.equal(optimizer.state[weight]["exp_avg"], state["exp_avg"])
    assert [type(m).__name__ for m in groups[-1].layers] == [
        "AdaptiveAvgPool2d", "Flatten", "Linear", "Linear",
    ]  # fmt: skip


def test_an_optimizer_of_unknown_making_is_refused() -> None:
    model, groups, _ = make()
    with pytest.raises(GroupingError, match=r"groups\.param_groups"):
        groups.attach(AdamW(model.parameters()))
    other = LayerGroups(model, "layerwise", example_input=image())
    with pytest.raises(GroupingError, match=r"these are \['early', 'late', 'head'\]"):
        groups.attach(AdamW(other.param_groups()))


def test_a_held_group_is_a_living_view() -> None:
    model, groups, _ = make()
    head = groups["head"]
    replace_head(model)
    assert [p.shape[0] for p in head.parameters()] == [5, 5]


def test_rates_may_be_set_right_after_surgery() -> None:
    model, groups, _ = make()
    model.fc = nn.Linear(8, 5)
    groups.set_rates({"head": 0.0})
    assert groups.changes[-1].added == (("fc.weight", "head"), ("fc.bias", "head"))
    assert not any(p.requires_grad for p in model.fc.parameters())
