"""Saved layer groups compared with those of a model."""

from __future__ import annotations

import pytest
import torch
from tests.laws.models import TinyResNet, image
from torch import nn

from layergroups import LayerGroups
from layergroups.errors import GroupingError
from layergroups.groups import compare_groups, taken_over


def groups(*paths: str) -> LayerGroups:
    return LayerGroups(TinyResNet(), list(paths), example_input=image())


def test_the_same_groups_have_no_difference() -> None:
    one, other = groups("layer2", "fc"), groups("layer2", "fc")
    other.freeze()
    assert compare_groups(one.state_dict(), other.state_dict()) is None


def test_a_difference_names_groups_and_moved_parameters() -> None:
    found = compare_groups(groups("layer2", "fc").state_dict(), groups("layer3", "fc").state_dict())
    assert found is not None
    assert found.rules == ("split at layer2, fc", "split at layer3, fc")
    assert (found.only_saved, found.only_here) == (("layer2",), ("layer3",))
    moved = {name: (was, now) for name, was, now in found.moved}
    assert moved["layer2.0.way.weight"] == ("layer2", "stem")
    assert moved["layer3.0.way.weight"] == ("layer2", "layer3")
    assert not any(name.startswith(("stem", "fc")) for name in moved)
    assert "layer2" in str(found)


def test_rates_and_freezing_are_restored_by_name() -> None:
    saved = groups("layer2", "fc")
    saved.set_rates([0.1, 0.2, 0.3])
    saved.freeze()
    names, rates = ("stem", "layer3", "fc"), (1.0, 2.0, 3.0)
    new, flags = taken_over(saved.state_dict(), names, rates, strict=False)
    assert new == (0.1, 2.0, 0.3)
    assert flags == {0: True, 2: False}
    with pytest.raises(GroupingError, match="layer3"):
        taken_over(saved.state_dict(), names, rates, strict=True)


def test_groups_that_were_not_saved_follow_the_saved_groups_of_their_parameters() -> None:
    saved, here = groups("layer2", "fc"), groups("layer2", "layer3", "fc")
    saved.set_rates([0.1, 0.2, 0.3])
    saved.freeze()
    here.load_state_dict(saved.state_dict(), strict=False)
    assert here.rates == (0.1, 0.2, 0.2, 0.3)
    assert here.frozen == (True, True, True, False)


@pytest.mark.parametrize("saved", [None, [], {"names": []}])
def test_a_state_that_is_not_one_is_an_error(saved: object) -> None:
    with pytest.raises(GroupingError, match="lack"):
        compare_groups(saved, {})


@pytest.mark.parametrize(
    "wrong",
    [
        {"rates": [0.5, float("nan")], "frozen": [True, True]},
        {"rates": [0.5, -1.0]},
        {"rates": ["a", "b"]},
        {"rates": [0.5]},
        {"frozen": [True]},
        {"rates": [0.5, 0.5], "norm": "zz"},
    ],
)
def test_a_wrong_state_changes_nothing(wrong: dict[str, object]) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    groups = LayerGroups(model, split=["0", "2"], example_input=torch.zeros(3, 4))
    with pytest.raises(GroupingError):
        groups.load_state_dict({**groups.state_dict(), **wrong})
    assert (groups.rates, groups.frozen) == ((1e-3, 1e-3), (False, False))
