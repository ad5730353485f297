"""Heads: what create_head makes, layers for numbers, and heads described as data."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from layergroups.errors import ModelError
from layergroups.models import (
    AdaptiveConcatPool2d,
    ConcatLinear,
    DepthDropout,
    SigmoidRange,
    TargetUnits,
    create_head,
    describe_head,
    grow_head,
    head_from_description,
    replace_head,
    shrink_head,
)


def _kinds(head: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in head]


def test_concat_pool_gives_maxima_before_averages_and_runs_average_first() -> None:
    pool = AdaptiveConcatPool2d()
    order: list[str] = []
    for name, child in pool.named_children():
        child.register_forward_hook(lambda *_, name=name: order.append(name))
    x = torch.arange(32.0).reshape(1, 2, 4, 4)
    out = pool(x)
    assert [name for name, _ in pool.named_children()] == order == ["ap", "mp"]
    assert out.flatten().tolist() == [15.0, 31.0, 7.5, 23.5]
    assert AdaptiveConcatPool2d(2)(x).shape == (1, 4, 2, 2)


def test_default_head_is_exactly_the_documented_one() -> None:
    head = create_head(512, 2)
    assert [str(layer) for layer in list(head)[1:]] == [
        "Flatten(start_dim=1, end_dim=-1)",
        str(nn.BatchNorm1d(1024)),
        "Dropout(p=0.25, inplace=False)",
        "Linear(in_features=1024, out_features=512, bias=True)",
        "ReLU()",
        str(nn.BatchNorm1d(512)),
        "Dropout(p=0.5, inplace=False)",
        "Linear(in_features=512, out_features=2, bias=True)",
    ]
    assert isinstance(head[0], AdaptiveConcatPool2d)
    assert head(torch.randn(3, 512, 7, 7)).shape == (3, 2)


def test_single_linear_without_concat_pool() -> None:
    head = create_head(16, 3, lin_ftrs=[], concat_pool=False, ps=0.0)
    assert _kinds(head) == ["AdaptiveAvgPool2d", "Flatten", "BatchNorm1d", "Linear"]
    assert head(torch.randn(2, 16, 5, 5)).shape == (2, 3)


def test_without_pool_it_takes_flat_features() -> None:
    head = create_head(16, 3, pool=False, first_bn=False, bn_final=True)
    assert _kinds(head) == [
        *("Dropout", "Linear", "ReLU"),
        *("BatchNorm1d", "Dropout", "Linear", "BatchNorm1d"),
    ]
    assert head[-1].momentum == 0.01
    assert head(torch.randn(2, 16)).shape == (2, 3)


def test_linear_first_turns_the_blocks_round() -> None:
    head = create_head(16, 3, lin_ftrs=[8, 4], ps=[0.1, 0.2, 0.3], lin_first=True)
    block = ("Linear", "ReLU", "BatchNorm1d", "Dropout")
    assert _kinds(head)[2:] == ["Dropout", *block, *block, "Linear"]
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.1, 0.2, 0.3]
    assert head(torch.randn(2, 16, 2, 2)).shape == (2, 3)


def test_one_dropout_is_the_last_and_the_others_get_half() -> None:
    head = create_head(16, 3, lin_ftrs=[8, 4], ps=0.4)
    assert [layer.p for layer in head if isinstance(layer, nn.Dropout)] == [0.2, 0.2, 0.4]


def test_linears_start_kaiming_normal_with_zero_bias() -> None:
    torch.manual_seed(0)
    linear = create_head(512, 2)[4]
    assert linear.bias.count_nonzero() == 0
    assert linear.weight.std().item() == pytest.approx((2 / 1024) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"nf": 0, "n_out": 2}, "nf=0 must be a whole number"),
        ({"nf": 8, "n_out": 2.0}, "n_out"),
        ({"nf": 8, "n_out": 2, "lin_ftrs": [4, -1]}, "lin_ftrs"),
        ({"nf": 8, "n_out": 2, "ps": 1.0}, "0 <= p < 1"),
        ({"nf": 8, "n_out": 2, "ps": [0.1, "x"]}, "0 <= p < 1"),
        ({"nf": 8, "n_out": 2, "ps": [0.1, 0.2, 0.3]}, r"ps has 3 rates.*2 linear layers"),
        ({"nf": 8, "n_out": 2, "inner": 3}, "inner=3 must be fewer than the nf=8 features"),
        ({"nf": 8, "n_out": 2, "inner": 8, "pool": False}, "inner=8"),
        ({"nf": 8, "n_out": 2, "ps": []}, r"ps has 0 rates.*ps=\[0.25, 0.5\]"),
    ],
)
def test_wrong_arguments_are_explained(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        create_head(**arguments)


EXAMPLE = torch.zeros(2, 3, 16, 16)


def model(**options: object) -> nn.Sequential:
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    return nn.Sequential(body, create_head(8, 2, **options)).eval()


def test_depth_dropout_keeps_one_kind_of_features_of_an_item() -> None:
    torch.manual_seed(0)
    dropout, x = DepthDropout(0.0, inner=3), torch.ones(4000, 8, requires_grad=True)
    y = dropout(x)
    assert {tuple(row) for row in y.tolist()} == {(2.0,) * 5 + (0.0,) * 3, (0.0,) * 5 + (2.0,) * 3}
    assert torch.allclose(y.mean(0), torch.ones(8), atol=0.1)
    y.sum().backward()
    assert torch.equal(x.grad, y)
    assert torch.equal(dropout.eval()(x), x)
    half = DepthDropout(0.5, inner=3)(x)
    assert torch.allclose(half.mean(0), torch.ones(8), atol=0.2)


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_depth_dropout_drops_each_feature_at_its_rate(p: float, dtype: torch.dtype) -> None:
    dropped = DepthDropout(p, inner=3)(torch.ones(3001, 7, dtype=dtype))
    assert dropped.dtype == dtype
    kept = dropped != 0
    assert kept.float().mean(0).tolist() == pytest.approx([(1 - p) / 2] * 7, abs=0.04)
    values = dropped[kept].unique().tolist()
    assert values == ([] if p == 1 else pytest.approx([2 / (1 - p)], rel=0.01))
    inner = kept[:, 4:].any(1)
    assert kept[inner, :4].count_nonzero() == 0


def test_a_head_on_inner_features_has_a_depth_dropout_first() -> None:
    head = create_head(8, 3, pool=False, inner=3, lin_ftrs=[5])
    assert _kinds(head)[:4] == ["BatchNorm1d", "Hardtanh", "DepthDropout", "Linear"]
    assert (head[2].p, head[2].inner) == (0.25, 3)
    assert _kinds(head).count("Dropout") == 1
    assert "DepthDropout" not in _kinds(create_head(8, 3, pool=False, inner=3, ps=0.0))


def test_inner_features_far_outside_of_the_training_items_are_limited() -> None:
    head = create_head(8, 3, pool=False, inner=3, lin_ftrs=[]).eval()
    far = torch.full((2, 8), 1e6)
    assert torch.equal(head(far), head(10 * far))
    assert head_from_description(describe_head(head) or []).eval()[1](far).max() == 4
    older = [{"name": "1", "layer": "ClipFeatures", "limit": 4.0}]  # of an earlier export
    assert head_from_description(older)[0](far).max() == 4


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


_size = st.integers(1, 6)
_plain_layers = st.one_of(
    st.builds(nn.Linear, _size, _size, bias=st.booleans()),
    st.builds(
        nn.BatchNorm1d,
        _size,
        eps=st.floats(1e-8, 0.1),
        momentum=st.none() | st.floats(0.01, 1),
        affine=st.booleans(),
        track_running_stats=st.booleans(),
    ),
    st.builds(nn.BatchNorm2d, _size),
    st.builds(nn.LayerNorm, _size | st.tuples(_size, _size), bias=st.booleans()),
    st.builds(nn.LayerNorm, _size, elementwise_affine=st.just(False)),
    st.builds(nn.Dropout, st.floats(0, 1), st.booleans()),
    st.builds(DepthDropout, st.floats(0, 1), _size),
    st.builds(nn.GELU, st.sampled_from(["none", "tanh"])),
    st.builds(nn.LeakyReLU, st.floats(0, 1), st.booleans()),
    st.builds(nn.Flatten, st.integers(1, 2), st.integers(-1, 3)),
    st.builds(nn.AdaptiveAvgPool2d, _size | st.tuples(st.none() | _size, _size)),
    st.builds(nn.AdaptiveMaxPool2d, _size),
    st.builds(AdaptiveConcatPool2d, _size | st.tuples(_size, _size)),
    st.builds(
        nn.Conv2d,
        st.just(4),
        st.sampled_from([2, 4]),
        st.just((3, 1)),
        padding=st.sampled_from(["same", 0, (1, 2)]),
        groups=st.sampled_from([1, 2]),
        bias=st.booleans(),
        padding_mode=st.sampled_from(["zeros", "reflect"]),
    ),
    st.builds(nn.Hardtanh, st.floats(-6, -1), st.floats(0, 6), st.booleans()),
    *(st.builds(kind, st.booleans()) for kind in (nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish)),
    *(st.builds(kind) for kind in (nn.Identity, nn.Tanh, nn.Sigmoid)),
)
_names = st.from_regex(r"[a-z0-9_]{1,5}", fullmatch=True).filter(
    lambda name: not hasattr(nn.Sequential(), name)
)
_heads = st.recursive(
    _plain_layers,
    lambda inner: st.dictionaries(_names, inner, max_size=4).map(
        lambda children: nn.Sequential(OrderedDict(children))
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.lists(_heads, max_size=4))
def test_description_round_trip(layers: list[nn.Module]) -> None:
    head = nn.Sequential(*layers)
    described = describe_head(head)
    assert described is not None
    again = head_from_description(json.loads(json.dumps(described)))
    assert str(again) == str(head)
    assert describe_head(again) == described
    again.load_state_dict(head.state_dict(), strict=True)


def test_described_head_computes_the_same() -> None:
    head = create_head(6, 3).eval()
    described = describe_head(head)
    assert described is not None
    again = head_from_description(described).eval()
    again.load_state_dict(head.state_dict())
    x = torch.randn(2, 6, 4, 4)
    assert torch.equal(head(x), again(x))


def test_what_is_not_plain_has_no_description() -> None:
    shared = nn.Linear(2, 2)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))

    class Own(nn.Linear):
        pass

    grown = nn.Linear(2, 2)
    grown.register_parameter("scale", nn.Parameter(torch.ones(1)))
    assert describe_head(shared) is None
    for layer in (Own(2, 2), normed, grown, nn.MultiheadAttention(2, 1), nn.Sequential(Own(2, 2))):
        assert describe_head(nn.Sequential(nn.ReLU(), layer)) is None
    assert describe_head(nn.Sequential(shared, nn.ReLU(), shared)) is None


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ([{"name": "0", "layer": "torch.nn.Linear"}], "supported are .*Linear"),
        ([{"name": "0", "layer": ["Linear"]}], "supported are"),
        ([{"name": "0", "layer": "__import__"}], "supported are"),
        (
            [{"name": "0", "layer": "Linear", "in_features": 2}],
            "Linear cannot be created",
        ),
        (
            [{"name": "0", "layer": "Dropout", "p": 3, "inplace": False}],
            "Dropout cannot be created",
        ),
        ([{"name": "0", "layer": "Sequential"}], "Sequential cannot be created"),
        ([{"name": "a.b", "layer": "Tanh"}], "invalid name"),
        ([{"layer": "Tanh"}], '"name" and a "layer"'),
        ([{"name": "0", "layer": "Tanh"}, {"name": "0", "layer": "Tanh"}], "same name"),
        ({"layer": "Tanh"}, "is a list of layers"),
        (["Tanh"], '"name" and a "layer"'),
    ],
)
def test_wrong_descriptions_are_explained(description: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        head_from_description(description)


def test_a_grown_head_is_described_too() -> None:
    head = nn.Sequential(nn.Flatten(), ConcatLinear([nn.Linear(4, 2), nn.Linear(4, 3)]))
    described = describe_head(head)
    again = head_from_description(json.loads(json.dumps(described)))
    again.load_state_dict(head.state_dict())
    x = torch.randn(3, 4)
    assert torch.equal(again(x), head(x))
    named_before = {**described[1], "layer": "SideBySide"}  # in exports of format 2
    assert str(head_from_description([described[0], named_before])) == str(head)
    for wrong in ({"dim": "x"}, {"layers": []}):
        with pytest.raises(ModelError, match="ConcatLinear"):
            head_from_description([described[1] | wrong])
