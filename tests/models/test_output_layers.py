"""Layers that bring numbers to the size of their targets, and heads that end with them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layergroups.models import (
    SigmoidRange,
    TargetUnits,
    create_head,
    describe_head,
    grow_head,
    head_from_description,
    replace_head,
    shrink_head,
)

EXAMPLE = torch.zeros(2, 3, 16, 16)


def model(**options: object) -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    return nn.Sequential(body, create_head(8, 2, **options)).eval()


def test_a_range_is_never_left() -> None:
    found = SigmoidRange(-1, 5)(torch.tensor([[-100.0], [0.0], [100.0]]))
    assert found.flatten().tolist() == pytest.approx([-1, 2, 5])


def test_units_are_measured_on_the_targets() -> None:
    targets = torch.tensor([[1.0, 7.0], [3.0, 7.0]])
    units = TargetUnits.of(targets)
    assert units(torch.tensor([[0.0, 0.0], [1.0, 1.0]])).tolist() == [[2, 7], [3, 8]]
    assert not list(units.parameters())


def test_a_head_for_numbers_begins_near_their_middle() -> None:
    images = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    in_units = model(units=TargetUnits([10.0, 500.0], [1.0, 50.0]))(images)
    assert ((in_units - torch.tensor([10.0, 500.0])) / torch.tensor([1.0, 50.0])).abs().max() < 0.2
    assert (model(y_range=(0, 10))(images) - 5).abs().max() < 0.5


@pytest.mark.parametrize(
    "options", [{"y_range": (0, 10)}, {"units": TargetUnits([10.0, 500.0], [1.0, 50.0])}]
)
def test_such_a_head_is_made_again_from_its_description(options: dict[str, object]) -> None:
    head = model(**options)[1]
    described = describe_head(head)
    assert described is not None
    again = head_from_description(described).eval()
    again.load_state_dict(head.state_dict())
    features = torch.randn(4, 8, 5, 5)
    assert torch.equal(again(features), head(features))


def test_units_follow_the_head_to_other_numbers() -> None:
    changed = model(units=TargetUnits([10.0, 500.0], [1.0, 50.0]))
    before = changed(EXAMPLE)
    grow_head(changed, 3, example_input=EXAMPLE)
    assert torch.equal(changed(EXAMPLE)[:, :2], before)
    shrink_head(changed, [1, 2], example_input=EXAMPLE)
    assert torch.allclose(changed(EXAMPLE)[:, 0], before[:, 1])
    replace_head(changed, 4, example_input=EXAMPLE)
    assert changed(EXAMPLE).shape == (2, 4)
    assert changed[1][-1].std.tolist() == [1.0] * 4
