"""Law 4: freezing never rebuilds the optimizer; all groups are in it from the first step."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim import SGD, AdamW

from layergroups import LayerGroups
from tests.laws.models import TinyResNet, TinyTransformer, image


def test_frozen_groups_are_in_the_optimizer_from_the_first_step() -> None:
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    groups.freeze()
    optimizer = SGD(groups.param_groups(lr=0.1))
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}


@settings(max_examples=10, deadline=None)
@given(calls=st.lists(st.sampled_from(["freeze", "thaw", "unfreeze", "train"]), max_size=8))
def test_parameter_groups_are_the_same_objects_after_any_freezing(calls: list[str]) -> None:
    model = TinyResNet(width=4, blocks=1)
    groups = LayerGroups(model, example_input=image())
    optimizer = AdamW(groups.param_groups(lr=1e-3))
    groups.attach(optimizer)
    before = [(id(g), [id(p) for p in g["params"]]) for g in optimizer.param_groups]
    for move in calls:
        if move == "train":
            optimizer.zero_grad()
            model(image()).sum().backward()
            optimizer.step()
        else:
            {"freeze": groups.freeze, "thaw": lambda: groups.freeze_to(-2),
             "unfreeze": groups.unfreeze}[move]()  # fmt: skip
    assert [(id(g), [id(p) for p in g["params"]]) for g in optimizer.param_groups] == before


def test_two_parameter_groups_for_each_layer_group_at_any_depth() -> None:
    model = TinyTransformer()
    groups = LayerGroups(model, "layerwise", example_input=image())
    made = groups.param_groups(lr=1e-3, weight_decay=0.1)
    assert len(made) == 2 * len(groups)
    decaying = {id(p) for g in made if g["weight_decay"] for p in g["params"]}
    names = {n for n, p in model.named_parameters() if id(p) in decaying}
    assert "head.weight" in names
    assert not names & {"cls_token", "pos_embed", "norm.weight", "head.bias"}
    assert torch.equal(torch.tensor([g["lr"] for g in made]), torch.full((len(made),), 1e-3))
