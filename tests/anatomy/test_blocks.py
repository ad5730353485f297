"""Blocks of any model: every used parameter once, in the order of its first use."""

from __future__ import annotations

import random
from collections.abc import Iterable

import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.anatomy.covered import Answers, anatomy_of, check_laws, small
from torch import Tensor, nn

from layergroups.anatomy import Block, read_anatomy, trace


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.ReLU())
        self.other = nn.Linear(8, 8)
        self.answer = nn.Linear(8, 20, bias=False)
        self.answer.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids)
        for _ in range(3):
            x = self.block(x)
        return self.answer(self.other(x))


def test_a_tied_head_stands_at_its_first_use_and_is_flagged() -> None:
    anatomy = check_laws(Tied(), torch.zeros(2, 5, dtype=torch.long))
    assert anatomy.tied == {"words.weight": ("answer.weight",)}
    assert "words.weight" in anatomy.blocks[0].parameters
    assert not anatomy.has_head


def test_a_block_that_runs_three_times_is_one_block_with_a_count() -> None:
    anatomy = check_laws(Tied(), torch.zeros(2, 5, dtype=torch.long))
    block = next(b for b in anatomy.blocks if "block.0.weight" in b.parameters)
    assert block.calls == 3


def test_parameters_that_never_run_are_named() -> None:
    model = Answers("tuple")
    model.spare = nn.Linear(3, 3)
    assert check_laws(model).unused == ("spare.weight", "spare.bias")


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        rows = [nn.ModuleList(nn.Conv2d(3 if r + c == 0 else 8, 8, 1) for c in range(2))
                for r in range(2)]  # fmt: skip
        self.rows = nn.ModuleList(rows)
        self.answer = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for row in self.rows:
            for layer in row:
                x = layer(x).relu()
        return self.answer(x.mean((2, 3)))


def test_nested_lists_are_opened() -> None:
    assert [b.name for b in check_laws(Nested()).body] == [
        "rows.0.0", "rows.0.1", "rows.1.0", "rows.1.1",
    ]  # fmt: skip


def test_a_network_without_a_classifier_has_a_body_and_says_so() -> None:
    anatomy = check_laws(small()[:3])
    assert not anatomy.has_head
    assert anatomy.head == ()
    assert anatomy.head_reason


class Leaf(nn.Module):
    def __init__(self, kind: int) -> None:
        super().__init__()
        self.kind = kind
        self.bias = nn.Parameter(torch.zeros(4))
        if kind:
            self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x: Tensor) -> Tensor:
        return (nn.functional.linear(x, self.weight) if self.kind else x) + self.bias


class Tree(nn.Module):
    """Runs its parts in an order of its own: in a row, in a sum, or around a skip."""

    def __init__(self, parts: list[nn.Module], order: list[int], form: str) -> None:
        super().__init__()
        self.parts, self.order, self.form = nn.ModuleList(parts), order, form
        self.token = nn.Parameter(torch.zeros(4)) if form == "token" else None

    def forward(self, x: Tensor) -> Tensor:
        if self.form == "sum":
            return torch.stack([self.parts[i](x) for i in self.order]).sum(0)
        kept = x
        if self.token is not None:
            x = x * self.token
        for i in self.order:
            x = self.parts[i](x)
        return x + kept if self.form == "skip" else x


def make_tree(seed: int) -> nn.Module:
    rng = random.Random(seed)
    shared: list[nn.Module] = []

    def grow(depth: int) -> nn.Module:
        if shared and rng.random() < 0.1:
            return rng.choice(shared)
        if depth == 0 or rng.random() < 0.2:
            made: nn.Module = rng.choice(
                [lambda: nn.Linear(4, 4), lambda: Leaf(0), lambda: Leaf(1)]
            )()
        else:
            parts = [grow(depth - 1) for _ in range(rng.randint(1, 3))]
            order = list(range(len(parts)))
            rng.shuffle(order)
            order = order[: rng.randint(1, len(order))]
            made = Tree(parts, order, rng.choice(["row", "sum", "skip", "token"]))
        shared.append(made)
        return made

    return grow(3)


def first_uses(model: nn.Module, blocks: Iterable[Block], example: Tensor) -> list[int]:
    times = trace(model, example).first_use
    return [times[name] for block in blocks for name in block.parameters]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_random_nested_models_are_covered_exactly_and_in_order(seed: int) -> None:
    model, example = make_tree(seed), torch.ones(2, 4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    anatomy = check_laws(model, example)
    for blocks in (anatomy.body, anatomy.head):  # a head may begin early, as an early exit does
        times = first_uses(model, blocks, example)
        assert times == sorted(times)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_residual_blocks_stay_whole_and_chains_are_opened() -> None:
    anatomy = anatomy_of("resnet18")
    assert [b.name for b in anatomy.blocks] == [
        "stem", "layer1.0", "layer1.1", "layer2.0", "layer2.1",
        "layer3.0", "layer3.1", "layer4.0", "layer4.1", "fc",
    ]  # fmt: skip
    assert anatomy.blocks[0].modules == ("conv1", "bn1", "relu", "maxpool")
    assert all(b.kind == "BasicBlock" for b in anatomy.blocks[1:9])
    kinds = {b.kind for b in anatomy_of("mobilenet_v2").body}
    assert kinds == {"Conv2d", "InvertedResidual"}


def test_tokens_and_positions_belong_to_the_block_that_uses_them_first() -> None:
    anatomy = read_anatomy(timm.create_model("vit_tiny_patch16_224", pretrained=False))
    assert {"cls_token", "pos_embed"} <= set(anatomy.blocks[0].parameters)
    assert anatomy.blocks[0].name == "stem"


def test_order_is_that_of_execution_not_of_the_constructor() -> None:
    class Backwards(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(8, 3)
            self.second = nn.Conv2d(4, 8, 3, stride=2)
            self.first = nn.Conv2d(3, 4, 3, stride=2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.second(self.first(x)).mean((2, 3)))

    anatomy = read_anatomy(Backwards(), torch.zeros(2, 3, 32, 32))
    assert [b.name for b in anatomy.blocks] == ["first", "second", "last"]
    assert [b.in_head for b in anatomy.blocks] == [False, False, True]
