"""Parameter groups of layer groups, and how an optimizer follows the model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.laws.models import TinyResNet, TinyTransformer, image
from timm.optim.lookahead import Lookahead
from torch import nn
from torch.optim import SGD, AdamW

from layergroups import LayerGroups
from layergroups.errors import GroupingError
from layergroups.groups._optimizer import (
    add_missing_groups,
    bind,
    bound_to,
    change_rates,
    check_attachable,
    decays,
    parameter_groups,
    reconcile,
    unwrapped,
)


def test_positions_and_tokens_under_the_names_of_many_networks() -> None:
    spared = (
        "cls_token", "body.dist_token", "cls_token1", "cls_token_0", "pos_embed_1", "reg_tokens",
        "pos_embed_window", "encoder.pos_embedding", "a.attention_biases", "attn.rel_pos_h",
        "attn.logit_scale", "patch_pos", "embeddings.position_embedding.weight",
        "attn.relative_position_bias_table", "layer_scale.gamma",
    )  # fmt: skip
    matrix = nn.Parameter(torch.zeros(1, 4, 4))
    assert [name for name in spared if decays(name, matrix)] == []
    assert all(decays(name, matrix) for name in ("tokenizer.weight", "pos_proj.weight", "head.w"))
    model = TinyTransformer()
    assert {n for n, p in model.named_parameters() if p.ndim > 1 and not decays(n, p)} == {
        "cls_token",
        "pos_embed",
    }


def members(*sizes: int) -> list[tuple[str, list[tuple[str, nn.Parameter]]]]:
    """For each size a group with a square matrix and a vector."""
    return [
        (f"g{i}", [("weight", nn.Parameter(torch.ones(n, n))), ("v", nn.Parameter(torch.ones(n)))])
        for i, n in enumerate(sizes)
    ]


def test_each_layer_group_has_a_part_with_weight_decay_and_one_without() -> None:
    made = parameter_groups(members(2, 3), [0.1, 0.2], 0.5)
    assert [(g["name"], g["layer_group"], g["lr"], g["weight_decay"]) for g in made] == [
        ("g0/decay", 0, 0.1, 0.5),
        ("g0/no_decay", 0, 0.1, 0.0),
        ("g1/decay", 1, 0.2, 0.5),
        ("g1/no_decay", 1, 0.2, 0.0),
    ]
    assert [[p.ndim for p in g["params"]] for g in made] == [[2], [1], [2], [1]]


@pytest.mark.parametrize("names", [("g0",), ("a", "b")])
def test_an_optimizer_of_other_groups_cannot_be_attached(names: tuple[str, ...]) -> None:
    optimizer = SGD(parameter_groups(members(2, 3), [0.1, 0.2], 0.5))
    check_attachable(optimizer, ("g0", "g1", "g2"))
    with pytest.raises(GroupingError):
        check_attachable(optimizer, names)


def test_reconcile_drops_the_state_of_removed_parameters_and_spares_the_users() -> None:
    old, own = members(2), nn.Parameter(torch.ones(1))
    optimizer = AdamW(parameter_groups(old, [0.1], 0.0))
    optimizer.add_param_group({"params": [own]})
    for group in optimizer.param_groups:
        for p in group["params"]:
            p.grad = torch.ones_like(p)
    optimizer.step()
    (_, matrix), (_, vector) = old[0][1]
    new = nn.Parameter(torch.ones(3, 3))
    reconcile(optimizer, [("g0", [("weight", new), ("v", vector), ("own", own)])])
    assert [group["params"] for group in optimizer.param_groups] == [[new], [vector], [own]]
    assert set(optimizer.state) == {vector, own}
    assert matrix not in optimizer.state


def test_a_missing_empty_parameter_group_is_added_unless_a_scheduler_counts_them() -> None:
    matrices = [("g0", [("weight", nn.Parameter(torch.ones(2, 2)))])]  # nothing without decay
    optimizer = SGD(parameter_groups(matrices, [0.1], 0.5)[:1], lr=0.1)
    add_missing_groups(optimizer, matrices, [0.1])
    assert [g["name"] for g in optimizer.param_groups] == ["g0/decay", "g0/no_decay"]
    scheduled = SGD(parameter_groups(matrices, [0.1], 0.5)[:1], lr=0.1)
    torch.optim.lr_scheduler.StepLR(scheduled, 1)
    with pytest.raises(GroupingError, match="before"):
        add_missing_groups(scheduled, matrices, [0.1])


def test_parameters_left_out_on_purpose_are_named_and_not_added(
    caplog: pytest.LogCaptureFixture,
) -> None:
    known = members(2)
    optimizer = SGD(parameter_groups(known, [0.1], 0.5)[:1], lr=0.1)
    add_missing_groups(optimizer, known, [0.1])
    assert [g["name"] for g in optimizer.param_groups] == ["g0/decay"]
    assert "g0/no_decay" in caplog.text


def test_new_rates_retain_the_multiplier_of_a_scheduler() -> None:
    optimizer = SGD(parameter_groups(members(2), [0.1], 0.0))
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    optimizer.param_groups[0]["lr"] = 0.05
    change_rates(optimizer, [0.1], [0.4])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)
    assert optimizer.param_groups[0]["initial_lr"] == optimizer.param_groups[1]["lr"] == 0.4


def test_the_optimizer_inside_wrappers_is_found() -> None:
    class Wrapper(SGD):
        optimizer: Any

    inner = SGD([nn.Parameter(torch.ones(1))])
    outer = Wrapper([nn.Parameter(torch.ones(1))])
    outer.optimizer = inner
    assert unwrapped(outer) is inner
    assert unwrapped(inner) is inner


def test_a_second_binding_replaces_the_first() -> None:
    optimizer, calls = SGD([nn.Parameter(torch.ones(1))]), []

    def first(*_: Any) -> None:
        calls.append("first")

    def second(*_: Any) -> None:
        calls.append("second")

    bind(optimizer, first)
    bind(optimizer, second)
    optimizer.step()
    assert calls == ["second"]
    assert list(bound_to(second)) == [optimizer]
    assert list(bound_to(first)) == []


def test_frozen_groups_are_in_the_parameter_groups() -> None:
    groups = LayerGroups(TinyResNet(), example_input=image())
    groups.freeze()
    made = groups.param_groups(lr=[0.1, 0.2, 0.3])
    assert [g["lr"] for g in made] == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]
    assert {p for g in made for p in g["params"]} == set(groups.model.parameters())


def test_the_state_inside_a_wrapper_is_converted_with_the_model() -> None:
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    optimizer = Lookahead(AdamW(groups.param_groups(1e-3)), k=2)
    groups.attach(optimizer)
    for kind in (torch.float32, torch.bfloat16):
        model.to(kind)
        for _ in range(2):
            model(image().to(kind)).square().sum().backward()
            optimizer.step()
    assert all(s["exp_avg"].dtype is torch.bfloat16 for s in optimizer.state.values())
