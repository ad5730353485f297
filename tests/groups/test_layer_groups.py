"""The view itself: rows, tables and explanations of many groups; the anatomy after surgery."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tests.laws.models import TinyResNet, image
from torch import Tensor, nn

from layergroups import LayerGroups
from layergroups.groups import _layer_groups as module
from layergroups.groups._surgery import ChangeDetector


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Linear(3, 3), nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.inner(x))


def deep(n: int) -> LayerGroups:
    model = nn.Sequential(*(Block() for _ in range(n)), nn.Linear(3, 2))
    return LayerGroups(model, "layerwise", example_input=torch.zeros(2, 3))


@pytest.mark.parametrize("show", [str, repr, lambda g: g.explain(), lambda g: g.state_dict()])
def test_many_groups_are_shown_with_few_checks_of_the_model(
    show: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A check reads the whole model, so one for each group would be quadratic."""
    groups, checks = deep(60), []
    changed = ChangeDetector.changed

    def counted(self: ChangeDetector, **options: bool) -> bool:
        checks.append(None)
        return changed(self, **options)

    monkeypatch.setattr(ChangeDetector, "changed", counted)
    assert callable(show)
    show(groups)
    assert len(groups) == 61
    assert len(checks) < 10


def test_a_row_has_the_figures_of_its_group() -> None:
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    model.stem[0].weight.requires_grad_(False)
    groups.freeze("late")
    groups.set_rates({"head": 0.25})
    early, late, head = groups.rows()
    assert (early.by_user, early.trainable) == (216, early.parameters - 216)
    assert (late.frozen, late.trainable, late.by_user) == (True, 0, 0)
    assert (head.name, head.rate, head.blocks, head.layers) == ("head", 0.25, ("fc",), 2)
    for group, row in zip(groups, groups.rows(), strict=True):
        assert (group.name, group.reason, group.frozen) == (row.name, row.reason, row.frozen)
        assert len(group.layers) == row.layers
        assert [block.name for block in group.blocks] == list(row.blocks)
        assert repr(group) == repr(row)


def test_the_anatomy_is_read_again_only_when_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    runs = []
    read = module.read_anatomy

    def counted(*args: object, **options: object) -> object:
        runs.append(None)
        return read(*args, **options)

    monkeypatch.setattr(module, "read_anatomy", counted)
    model.fc = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.SGD(groups.param_groups(lr=0.1))
    groups.attach(optimizer)
    model(image()).sum().backward()
    optimizer.step()
    assert not runs
    assert [block.name for block in groups["head"].blocks] == ["fc.0", "fc.2"]
    assert len(runs) == 1
    assert len(groups["head"].layers) == 4
    assert len(runs) == 1


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda g: pickle.loads(pickle.dumps(g))])
def test_a_copy_freezes_modules_that_join_the_copied_model(copied: object) -> None:
    groups = LayerGroups(TinyResNet(), example_input=image())
    groups.freeze()
    assert callable(copied)
    twin = copied(groups)
    norm = nn.BatchNorm2d(8)
    twin.model.stem.append(norm)
    before = norm.running_mean.clone()
    twin.model.train()
    twin.model(image())
    assert torch.equal(norm.running_mean, before)
    assert len(twin.changes) == 1
    assert groups.changes == ()
