"""Law 6: what would do nothing is an error or a warning that names it and the fix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layergroups import LayerGroups, decay
from layergroups.errors import GroupingError
from tests.laws.models import TinyResNet, image


def test_freeze_on_one_group_is_an_error() -> None:
    groups = LayerGroups(nn.Linear(3, 2), 1, example_input=torch.zeros(2, 3))
    with pytest.raises(GroupingError, match="there is one"):
        groups.freeze()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (["nothing.here"], r"no module is at 'nothing.here'\. The model's children are"),
        ({"a": "stem", "b": "nowhere"}, r"the patterns of \['b'\] match no parameter"),
        ("by magic", "no rule is called 'by magic'"),
        ("classic", "has no split for TinyResNet"),
        (0, "at least one layer group"),
    ],
)
def test_a_rule_that_matches_nothing(split: object, message: str) -> None:
    with pytest.raises(GroupingError, match=message):
        LayerGroups(TinyResNet(), split, example_input=image())


@pytest.mark.parametrize(
    ("lr", "message"),
    [
        ([1e-3, 1e-3], "2 learning rates for 3 layer groups"),
        ({"tail": 1e-3}, "no layer group is called"),
        (slice(0, 1e-3), "both must be > 0"),
        (-1.0, "give one >= 0"),
        (float("nan"), "give one >= 0"),
        ([1e-3, float("inf"), 1e-3], "give one >= 0"),
        (True, "not a number"),
        ([True, 1e-3, 1e-3], "not a number"),
        ({"head": True}, "not a number"),
        (slice(1e-4, True), "not a number"),
        (decay(True), "not a number"),
        (["1e-3", 1e-3, 1e-3], "not a number"),
        ("fast", "of type str"),
    ],
)
def test_rates_that_do_not_fit(lr: object, message: str) -> None:
    groups = LayerGroups(TinyResNet(), example_input=image())
    with pytest.raises(GroupingError, match=message):
        groups.set_rates(lr)


@pytest.mark.parametrize("n", [3, -4])
def test_freeze_to_a_group_that_is_not_there(n: int) -> None:
    with pytest.raises(GroupingError, match="with 3 groups"):
        LayerGroups(TinyResNet(), example_input=image()).freeze_to(n)


def test_a_group_by_a_wrong_name_lists_the_right_ones() -> None:
    groups = LayerGroups(TinyResNet(), example_input=image())
    with pytest.raises(GroupingError, match=r"'early', 'late', 'head'"):
        groups["stem"]


@pytest.mark.parametrize("n", [1, 6, 12, 20, 31])
def test_parameters_frozen_before_stay_so_and_their_state_is_logged(
    n: int, caplog: pytest.LogCaptureFixture
) -> None:
    model = TinyResNet()
    names = [name for name, _ in model.named_parameters()][-n:]
    for name in names:
        model.get_parameter(name).requires_grad_(False)
    groups = LayerGroups(model, example_input=image())
    (message,) = caplog.messages
    assert names[0] in message
    assert "groups.unfreeze()" in message
    assert groups.frozen == (False, False, False)

    groups.freeze()
    groups.freeze_to(0)
    assert [k for k, p in model.named_parameters() if not p.requires_grad] == names
    assert sum(row.by_user for row in groups.rows()) == sum(
        model.get_parameter(name).numel() for name in names
    )
    assert "by user" in str(groups)

    caplog.clear()
    groups.unfreeze()
    (message,) = caplog.messages
    assert names[0] in message
    assert all(p.requires_grad for p in model.parameters())
    caplog.clear()
    groups.unfreeze()
    assert not caplog.messages


def test_a_new_head_on_a_model_frozen_by_hand_trains_alone() -> None:
    model = TinyResNet().requires_grad_(False)
    model.fc = nn.Linear(32, 2)
    groups = LayerGroups(model, example_input=image())
    optimizer = torch.optim.SGD(groups.param_groups(lr=0.1))
    groups.attach(optimizer)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    model(image()).sum().backward()
    optimizer.step()
    moved = {k for k, p in model.named_parameters() if not torch.equal(p, before[k])}
    assert moved == {"fc.weight", "fc.bias"}


def test_what_is_frozen_by_hand_later_stays_until_its_group_is_unfrozen() -> None:
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    model.stem[0].weight.requires_grad_(False)
    model.fc.bias.requires_grad_(False)
    groups.freeze()
    groups.freeze_to(0)
    groups.unfreeze("head")
    assert model.fc.bias.requires_grad
    assert not model.stem[0].weight.requires_grad
    groups.gradual_unfreeze(1)
    assert not model.stem[0].weight.requires_grad
    groups.gradual_unfreeze(2)
    assert model.stem[0].weight.requires_grad
    model.stem[0].weight.requires_grad_(False)
    groups.freeze_to(0)
    model.stem[0].weight.requires_grad_(True)  # freed by hand
    groups.freeze_to(0)
    assert model.stem[0].weight.requires_grad
