"""Partitions from starts in the order of execution, and the groups of parameters added later."""

from __future__ import annotations

import pytest
from tests.laws.models import TinyResNet, image
from torch import nn

from layergroups.anatomy import read_anatomy
from layergroups.errors import GroupingError
from layergroups.groups._partition import (
    ModuleTree,
    Part,
    complete,
    consecutive,
    start_at_block,
    start_at_path,
)

FIRST = Part("first", "the input")


def test_a_start_at_a_block_and_at_its_path_are_the_same() -> None:
    anatomy = read_anatomy(TinyResNet(), image())
    index = next(b.index for b in anatomy.blocks if b.name == "layer3.0")
    assert start_at_block(anatomy, index, "late", "why") == start_at_path(
        anatomy, "layer3.0", "late", "why"
    )


def test_parts_follow_one_another_and_cover_all_parameters_and_layers() -> None:
    model = TinyResNet()
    anatomy = read_anatomy(model, image())
    starts = [start_at_path(anatomy, path, path, "why") for path in ("layer2", "fc")]
    partition = consecutive(model, anatomy, "two starts", FIRST, starts)
    assert partition.names == ("first", "layer2", "fc")
    assert partition.group_of["stem.0.weight"] == 0
    assert partition.group_of["layer3.0.main.0.0.weight"] == 1
    assert partition.group_of["pool"] == 1
    assert partition.group_of["fc.weight"] == partition.group_of["fc"] == 2
    assert {name for name, _ in model.named_parameters()} <= partition.group_of.keys()


def test_a_first_part_without_parameters_is_merged_into_the_next() -> None:
    model = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    anatomy = read_anatomy(model, image())
    starts = [start_at_path(anatomy, path, path, "why") for path in ("1", "2")]
    assert consecutive(model, anatomy, "rule", FIRST, starts).names == ("1", "2")


def test_a_path_that_does_not_run_has_no_start() -> None:
    model = TinyResNet()
    model.add_module("spare", nn.Linear(2, 2))
    with pytest.raises(GroupingError, match="spare"):
        start_at_path(read_anatomy(model, image()), "spare", "spare", "why")


@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("a.new", 0),  # everything in `a` is of one group
        ("mixed.1.new", 0),
        ("mixed.new", 1),  # after its sibling
        ("new", 2),  # after all others
    ],
)
def test_a_new_parameter_joins_the_group_of_its_path(path: str, group: int) -> None:
    model = nn.Module()
    model.a = nn.Sequential(nn.Linear(2, 2))
    model.mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    model.last = nn.Linear(2, 2)
    tree = ModuleTree({"a.0": 0, "mixed.0": 0, "mixed.1": 0, "mixed.2": 1, "last": 2})
    assert tree.locate(path, model) == group


def test_parts_with_one_name_or_without_parameters_are_errors() -> None:
    model = nn.Linear(2, 2)
    known = {"weight": 0, "bias": 0}
    with pytest.raises(GroupingError, match="same name"):
        complete(model, "rule", (FIRST, FIRST), {**known, "bias": 1})
    with pytest.raises(GroupingError, match="second"):
        complete(model, "rule", (FIRST, Part("second", "why")), known)
