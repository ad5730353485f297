"""Law 6: what would do nothing is an error or a warning that names it and the fix."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layergroups import LayerGroups, decay
from layergroups.errors import GroupingError
from tests.laws.models import TinyResNet, image


def test_freeze_on_one_group_says_what_to_do() -> None:
    groups = LayerGroups(nn.Linear(3, 2), 1, example_input=torch.zeros(2, 3))
    with pytest.raises(GroupingError, match="there is one"):
        groups.freeze()


@pytest.mark.parametrize(
    ("split", "words"),
    [
        (["nothing.here"], "no module stands at 'nothing.here'; the model's children are"),
        ({"a": "stem", "b": "nowhere"}, r"the patterns of \['b'\] match no parameter"),
        ("by magic", "no rule is called 'by magic'"),
        ("classic", "the classic table has no split for TinyResNet"),
        (0, "at least one layer group"),
    ],
)
def test_a_rule_that_matches_nothing(split: object, words: str) -> None:
    with pytest.raises(GroupingError, match=words):
        LayerGroups(TinyResNet(), split, example_input=image())  # type: ignore[arg-type] # wrong on purpose


@pytest.mark.parametrize(
    ("lr", "words"),
    [
        ([1e-3, 1e-3], "2 learning rates for 3 layer groups"),
        ({"tail": 1e-3}, "no layer group is called"),
        (slice(0, 1e-3), "both must be > 0"),
        (-1.0, "give one >= 0"),
        ("fast", "of type str"),
    ],
)
def test_rates_that_do_not_fit(lr: object, words: str) -> None:
    groups = LayerGroups(TinyResNet(), example_input=image())
    with pytest.raises(GroupingError, match=words):
        groups.set_rates(lr)  # type: ignore[arg-type] # wrong on purpose


def test_rates_that_fit() -> None:
    groups = LayerGroups(TinyResNet(), example_input=image())
    groups.set_rates(slice(1e-5, 1e-3))
    assert groups.rates == pytest.approx((1e-5, 1e-4, 1e-3))
    groups.set_rates(slice(1e-3))
    assert groups.rates == pytest.approx((1e-4, 1e-4, 1e-3))
    groups.set_rates({"head": 1.0})
    assert groups.rates == pytest.approx((1e-4, 1e-4, 1.0))
    groups.set_rates(decay(1e-2, 0.5))
    assert groups.rates == pytest.approx((0.0025, 0.005, 0.01))
    assert groups["late"].lr == pytest.approx(0.005)


@pytest.mark.parametrize("n", [3, -4])
def test_freeze_to_a_group_that_is_not_there(n: int) -> None:
    with pytest.raises(GroupingError, match="with 3 groups"):
        LayerGroups(TinyResNet(), example_input=image()).freeze_to(n)


def test_a_group_by_a_wrong_name_lists_the_right_ones() -> None:
    groups = LayerGroups(TinyResNet(), example_input=image())
    with pytest.raises(GroupingError, match=r"'early', 'late', 'head'"):
        groups["stem"]


def test_a_model_that_came_frozen_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = TinyResNet().requires_grad_(False)
    groups = LayerGroups(model, example_input=image())
    assert "came frozen" in caplog.text
    assert all(p.requires_grad for g in groups for p in g.parameters())


def test_what_the_author_fixed_stays_fixed_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    model = TinyResNet()
    model.stem[0].weight.requires_grad_(False)
    groups = LayerGroups(model, example_input=image())
    groups.unfreeze()
    assert "stem.0.weight" in caplog.text
    assert not model.stem[0].weight.requires_grad
