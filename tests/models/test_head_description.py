"""Heads as plain data: there and back, through JSON, and nothing but plain layers."""

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
from layergroups.models._heads import (
    AdaptiveConcatPool2d,
    ConcatLinear,
    create_head,
    describe_head,
    head_from_description,
)

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
    *(st.builds(kind, st.booleans()) for kind in (nn.ReLU, nn.SiLU, nn.Hardswish)),
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
        ([{"name": "0", "layer": "torch.nn.Linear"}], "known are .*Linear"),
        ([{"name": "0", "layer": ["Linear"]}], "known are"),
        ([{"name": "0", "layer": "__import__"}], "known are"),
        ([{"name": "0", "layer": "Linear", "in_features": 2}], "fields of Linear are in_features"),
        ([{"name": "0", "layer": "Dropout", "p": 3, "inplace": False}], "Dropout cannot be made"),
        ([{"name": "0", "layer": "Sequential"}], "fields of Sequential are layers; .* gives none"),
        ([{"name": "a.b", "layer": "Tanh"}], "wrong name"),
        ([{"layer": "Tanh"}], '"name" and a "layer"'),
        ([{"name": "0", "layer": "Tanh"}, {"name": "0", "layer": "Tanh"}], "one name"),
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
