"""Law 3: after any surgery groups, freezing and optimizer agree with the model again."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from layergroups import LayerGroups
from layergroups.groups import Change
from tests.laws.models import Residual, TinyResNet, image


def make() -> tuple[TinyResNet, LayerGroups, AdamW]:
    torch.manual_seed(0)
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    optimizer = AdamW(groups.param_groups(lr={"early": 1e-4, "late": 1e-3, "head": 1e-2}))
    groups.attach(optimizer)
    step(model, optimizer)
    return model, groups, optimizer


def step(model: nn.Module, optimizer: AdamW) -> None:
    optimizer.zero_grad()
    model(image()).square().sum().backward()
    optimizer.step()


def assert_agree(model: nn.Module, groups: LayerGroups, optimizer: AdamW) -> None:
    held = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} <= set(held)
    for group in optimizer.param_groups:
        members = {id(p) for p in groups[group["layer_group"]].parameters()}
        assert {id(p) for p in group["params"]} <= members
    for group in groups:
        assert all(p.requires_grad != group.frozen for p in group.parameters())


def replace_head(model: TinyResNet) -> None:
    model.fc = nn.Linear(32, 5)


def delete_block(model: TinyResNet) -> None:
    del model.layer2[1]


def append_block(model: TinyResNet) -> None:
    model.layer3.append(Residual(32, 32))


def wrap_layer(model: TinyResNet) -> None:
    inner = model.layer3[0].main[0][0]

    class Adapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base = inner
            self.low = nn.Conv2d(16, 32, 1, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.base(x) + self.low(x)

    model.layer3[0].main[0][0] = Adapter()


def through_modules(model: TinyResNet) -> None:
    model._modules["fc"] = nn.Linear(32, 4)


def swap_norms(model: TinyResNet) -> None:
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(path, nn.GroupNorm(2, module.num_features))


SURGERIES = [replace_head, delete_block, append_block, wrap_layer, through_modules, swap_norms]


@pytest.mark.parametrize("surgery", SURGERIES, ids=lambda s: s.__name__)
@pytest.mark.parametrize("freeze_to", [0, -1, -2])
def test_everything_agrees_after_surgery(
    surgery: Callable[[TinyResNet], None], freeze_to: int, caplog: pytest.LogCaptureFixture
) -> None:
    model, groups, optimizer = make()
    groups.freeze_to(freeze_to)
    before = {id(p): copy.deepcopy(s) for p, s in optimizer.state.items()}

    surgery(model)
    change = groups.sync()

    assert isinstance(change, Change)
    assert len(str(change).splitlines()) == 1
    assert str(change) in caplog.text
    assert_agree(model, groups, optimizer)
    for parameter, state in optimizer.state.items():
        for key, value in before[id(parameter)].items():
            assert torch.equal(state[key], value)
    assert groups.sync() is None
    moved = {n: p.detach().clone() for n, p in model.named_parameters()}
    step(model, optimizer)
    for group in groups:
        for name, parameter in group.named_parameters():
            assert torch.equal(parameter, moved[name]) == group.frozen, name


def test_new_parameters_join_the_group_of_their_place() -> None:
    model, groups, optimizer = make()
    groups.freeze_to(-2)
    append_block(model)
    wrap_layer(model)
    change = groups.sync()
    assert change is not None
    assert {group for _, group in change.added} == {"late"}
    rates = {
        g["lr"] for g in optimizer.param_groups if any(p is model.layer3[2].main[0][0].weight
                                                       for p in g["params"])
    }  # fmt: skip
    assert rates == {1e-3}
    assert all(p.requires_grad for p in model.layer3[2].parameters())


def test_a_head_replaced_child_by_child_keeps_what_survives() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()),
                          nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4),
                                        nn.Linear(4, 2)))  # fmt: skip
    groups = LayerGroups(model, example_input=image(), head="1")
    optimizer = AdamW(groups.param_groups(lr=1e-3))
    groups.attach(optimizer)
    step(model, optimizer)
    kept = model[1][2].weight
    state = copy.deepcopy(optimizer.state[kept])
    model[-1] = nn.Sequential(*list(model[-1].children())[:-1], nn.Linear(4, 5))
    change = groups.sync()
    assert change is not None
    assert change.added == (("1.3.weight", "head"), ("1.3.bias", "head"))
    assert torch.equal(optimizer.state[kept]["exp_avg"], state["exp_avg"])
    assert [type(m).__name__ for m in groups[-1].layers] == [
        "AdaptiveAvgPool2d", "Flatten", "Linear", "Linear",
    ]  # fmt: skip


def test_an_optimizer_of_unknown_making_is_refused() -> None:
    model, groups, _ = make()
    with pytest.raises(ValueError, match=r"groups\.param_groups"):
        groups.attach(AdamW(model.parameters()))


def test_a_held_group_is_a_living_view() -> None:
    model, groups, _ = make()
    head = groups["head"]
    replace_head(model)
    assert [p.shape[0] for p in head.parameters()] == [5, 5]
