"""Law 3 for tied weights: one parameter, in the first group that runs it; conflicts are logged."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from layergroups import LayerGroups
from tests.laws.models import TiedLanguageModel
from tests.laws.surgeries import assert_agree, assert_same_states, optimizer_states

TOKENS = torch.arange(8).reshape(2, 4)


class LanguageModel(nn.Module):
    """Not tied; the head is registered before the embedding, or after it."""

    def __init__(self, head_first: bool) -> None:
        super().__init__()
        if head_first:
            self.head = nn.Linear(8, 11, bias=False)
        self.embedding = nn.Embedding(11, 8)
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        if not head_first:
            self.head = nn.Linear(8, 11, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.embedding(tokens)))


def make(model: nn.Module) -> tuple[LayerGroups, Optimizer]:
    torch.manual_seed(0)
    groups = LayerGroups(model, ["embedding", "layers", "head"], example_input=TOKENS)
    optimizer = AdamW(groups.param_groups(lr=1e-2))
    groups.attach(optimizer)
    step(model, optimizer)
    return groups, optimizer


def step(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    model(TOKENS).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize("head_first", [True, False])
@pytest.mark.parametrize("keep", ["embedding", "head"])
def test_a_tie_counts_once_in_the_first_group_that_runs_it(head_first: bool, keep: str) -> None:
    model = LanguageModel(head_first)
    groups, optimizer = make(model)
    before = optimizer_states(optimizer)
    if keep == "embedding":
        model.head.weight = model.embedding.weight
    else:
        model.embedding.weight = model.head.weight
    tied = model.head.weight
    change = groups.sync()
    assert change is not None
    (tie,) = change.tied
    assert set(tie.names) == {"embedding.weight", "head.weight"}
    assert (tie.group, tie.others, tie.conflict) == ("embedding", ("head",), False)
    assert [g.name for g in groups if any(p is tied for p in g.parameters())] == ["embedding"]
    assert_agree(model, groups, optimizer)
    assert_same_states(optimizer, before)
    weight = tied.detach().clone()
    step(model, optimizer)
    assert not torch.equal(tied, weight)


def test_a_tie_of_frozen_and_trained_groups_is_logged() -> None:
    model = LanguageModel(head_first=False)
    groups, optimizer = make(model)
    groups.freeze()
    model.head.weight = model.embedding.weight
    weight = model.head.weight.detach().clone()
    change = groups.sync()
    assert change is not None
    assert change.tied[0].conflict
    assert (
        "embedding.weight and head.weight are tied now: one parameter, in group 'embedding' that "
        "is frozen, though 'head' is not"
    ) in str(change)
    assert not model.head.weight.requires_grad
    groups.unfreeze("layers")
    step(model, optimizer)
    assert torch.equal(model.head.weight, weight)


@pytest.mark.parametrize("new", ["embedding", "head"])
@pytest.mark.parametrize("head_first", [True, False])
def test_untied_weights_go_to_their_own_groups(new: str, head_first: bool) -> None:
    model = LanguageModel(head_first)
    groups, optimizer = make(model)
    model.head.weight = model.embedding.weight
    step(model, optimizer)
    before = optimizer_states(optimizer)
    module = model.get_submodule(new)
    module.weight = nn.Parameter(module.weight.detach().clone())
    change = groups.sync()
    assert change is not None
    assert change.added == ((f"{new}.weight", new),)
    other = "head.weight" if new == "embedding" else "embedding.weight"
    assert change.untied == (other,)
    assert f"{other} no longer tied" in str(change)
    assert not change.renamed
    for name in ("embedding", "head"):
        assert [n for n, _ in groups[name].named_parameters()] == [f"{name}.weight"]
    assert_agree(model, groups, optimizer)
    assert_same_states(optimizer, before)


def test_a_tied_model_is_untied() -> None:
    model = TiedLanguageModel()
    groups = LayerGroups(model, example_input=TOKENS)
    first = next(g.name for g in groups if any(p is model.head.weight for p in g.parameters()))
    model.head = nn.Linear(8, 3, bias=False)
    change = groups.sync()
    assert change is not None
    assert [n for n, _ in change.added] == ["head.weight"]
    where = next(g.name for g in groups if any(p is model.embedding.weight for p in g.parameters()))
    assert where == first
