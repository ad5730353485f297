"""Heads: their layers, their shapes and their first weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from layergroups.errors import ModelError
from layergroups.models._heads import AdaptiveConcatPool2d, create_head


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
        ({"nf": 0, "n_out": 2}, "nf must be a whole number of 1 or more, not 0"),
        ({"nf": 8, "n_out": 2.0}, "n_out"),
        ({"nf": 8, "n_out": 2, "lin_ftrs": [4, -1]}, "lin_ftrs"),
        ({"nf": 8, "n_out": 2, "ps": 1.0}, "0 <= p < 1"),
        ({"nf": 8, "n_out": 2, "ps": [0.1, "x"]}, "0 <= p < 1"),
        ({"nf": 8, "n_out": 2, "ps": [0.1, 0.2, 0.3]}, r"ps has 3 numbers.*2 linear layers"),
        ({"nf": 8, "n_out": 2, "ps": []}, r"ps has 0 numbers.*ps=\[0.25, 0.5\]"),
    ],
)
def test_wrong_arguments_are_explained(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        create_head(**arguments)
