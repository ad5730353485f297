"""Law 1: every parameter is in exactly one group."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from layergroups import LayerGroups
from layergroups.errors import GroupingError
from tests.laws.models import TiedLanguageModel, TinyResNet, TinyTransformer, image

MODELS: list[tuple[type[nn.Module], Tensor]] = [
    (TinyResNet, image()),
    (TinyTransformer, image()),
    (TiedLanguageModel, torch.ones(2, 5, dtype=torch.long)),
]
SPLITS: list[Any] = ["auto", 1, 2, 4, "layerwise"]


def assert_exact_cover(groups: LayerGroups) -> None:
    members = [id(p) for g in groups for p in g.parameters()]
    assert len(members) == len(set(members))
    assert set(members) == {id(p) for p in groups.model.parameters()}
    layers = [id(m) for g in groups for m in g.layers]
    leaves = [m for m in groups.model.modules() if not any(m.children())]
    assert len(layers) == len(set(layers))
    assert set(layers) == {id(m) for m in leaves}


@pytest.mark.parametrize("split", SPLITS, ids=str)
@pytest.mark.parametrize(("kind", "example"), MODELS, ids=lambda v: getattr(v, "__name__", ""))
def test_every_rule_covers_every_model(kind: type[nn.Module], example: Tensor, split: Any) -> None:
    assert_exact_cover(LayerGroups(kind(), split, example_input=example))


def test_a_tied_parameter_counts_once_in_the_first_group_that_runs_it() -> None:
    example = torch.ones(2, 5, dtype=torch.long)
    groups = LayerGroups(TiedLanguageModel(), "layerwise", example_input=example)
    assert groups.anatomy.tied == {"head.weight": ("embedding.weight",)}
    assert "head.weight" in dict(groups[0].named_parameters())


def test_parameters_that_never_ran_are_in_a_group_and_reported(
    caplog: pytest.LogCaptureFixture,
) -> None:
    example = torch.ones(2, 5, dtype=torch.long)
    groups = LayerGroups(TiedLanguageModel(), example_input=example)
    assert groups.anatomy.unused == ("never.weight", "never.bias")
    assert "never.weight" in caplog.text
    assert_exact_cover(groups)


def test_a_rule_that_leaves_something_over_names_it() -> None:
    with pytest.raises(GroupingError, match=r"in no group: .*layer2\.0"):
        LayerGroups(TinyResNet(), {"a": "stem|layer1", "b": "layer3|fc"}, example_input=image())


def test_a_parameter_that_claims_two_groups_is_named() -> None:
    def overlapping(model: nn.Module) -> list[nn.Module]:
        return [model, model.fc]

    with pytest.raises(GroupingError, match=r"fc\.weight is in two groups"):
        LayerGroups(TinyResNet(), overlapping, example_input=image())
    with pytest.raises(GroupingError, match="matches the patterns of"):
        LayerGroups(TinyResNet(), {"all": ".*", "head": "fc"}, example_input=image())


class Random(nn.Module):
    """A random nesting: containers, residual ways, bare parameters, parts that never run."""

    def __init__(self, plan: Any, width: int = 4) -> None:
        super().__init__()
        self.plan = plan
        self.kind = plan[0]
        parts = [Random(p, width) if isinstance(p, tuple) else self._leaf(p, width)
                 for p in plan[1]]  # fmt: skip
        self.parts = nn.ModuleList(parts)
        self.scale = nn.Parameter(torch.ones(width)) if self.kind == "scaled" else None
        self.spare = nn.Linear(2, 2) if self.kind == "spare" else None

    @staticmethod
    def _leaf(kind: str, width: int) -> nn.Module:
        made: dict[str, nn.Module] = {
            "linear": nn.Linear(width, width),
            "norm": nn.LayerNorm(width),
            "relu": nn.ReLU(),
            "drop": nn.Dropout(0.1),
        }
        return made[kind]

    def forward(self, x: Tensor) -> Tensor:
        order = reversed(self.parts) if self.kind == "reversed" else self.parts
        for part in order:
            x = x + part(x) if self.kind == "residual" else part(x)
        return x * self.scale if self.scale is not None else x


PLANS = st.recursive(
    st.sampled_from(["linear", "norm", "relu", "drop"]),
    lambda inner: st.tuples(
        st.sampled_from(["chain", "residual", "scaled", "reversed", "spare"]),
        st.lists(inner, min_size=1, max_size=4),
    ),
    max_leaves=12,
).filter(lambda plan: isinstance(plan, tuple))


@settings(max_examples=40, deadline=None)
@given(plan=PLANS, split=st.sampled_from(["auto", 1, 2, "layerwise"]))
def test_random_models_are_covered_in_the_order_of_execution(plan: Any, split: Any) -> None:
    model = nn.Sequential(Random(plan), nn.Linear(4, 2))
    groups = LayerGroups(model, split, example_input=torch.zeros(3, 4))
    assert_exact_cover(groups)
    order = [n for b in groups.anatomy.blocks for n in b.parameters]
    where = {n: g.index for g in groups for n, _ in g.named_parameters()}
    assert [where[n] for n in order] == sorted(where[n] for n in order)
