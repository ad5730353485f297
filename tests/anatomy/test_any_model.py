"""Models that a person brings: whatever its forward takes, gives and shares, the laws hold."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from layergroups.anatomy import Anatomy, read_anatomy, trace, unwrap
from layergroups.errors import ExampleInputError, LazyModuleError
from layergroups.groups import LayerGroups


def check_laws(model: nn.Module, example: Any = None) -> Anatomy:
    """Exact cover of the used parameters, and the order of their first use."""
    anatomy = read_anatomy(model, example)
    used = [name for block in anatomy.blocks for name in block.parameters]
    names = {name for name, _ in unwrap(model).named_parameters()}
    assert len(used) == len(set(used))
    assert set(used) | set(anatomy.unused) == names
    assert not set(used) & set(anatomy.unused)
    return anatomy


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.facts = nn.Linear(5, 8)
        self.mix = nn.Linear(16, 8)
        self.classifier = nn.Linear(8, 4)

    def forward(self, image: Tensor, facts: Tensor) -> Tensor:
        both = torch.cat([self.image(image).flatten(1), self.facts(facts)], dim=1)
        return self.classifier(self.mix(both).relu())


@pytest.mark.parametrize("as_dict", [False, True])
def test_several_inputs_are_a_tuple_or_a_dict(as_dict: bool) -> None:
    image, facts = torch.zeros(2, 3, 16, 16), torch.zeros(2, 5)
    example = {"image": image, "facts": facts} if as_dict else (image, facts)
    anatomy = check_laws(TwoInputs(), example)
    assert [c.path for c in anatomy.classifiers] == ["classifier"]


class Answers(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.kind, self.age = nn.Linear(8, 4), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Any:
        x = self.second(self.first(x).relu()).relu().mean((2, 3))
        kind, age = self.kind(x), self.age(x)
        if self.form == "logits":
            return {"features": x, "logits": kind}
        return {"kind": kind, "age": age} if self.form == "dict" else (kind, age)


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_two_heads_are_both_found(form: str) -> None:
    anatomy = check_laws(Answers(form))
    assert [c.path for c in anatomy.classifiers] == ["kind", "age"]
    assert {n for b in anatomy.head for n in b.parameters} >= {"kind.weight", "age.weight"}


def test_the_logits_of_a_dict_are_the_answer() -> None:
    assert [c.path for c in check_laws(Answers("logits")).classifiers] == ["kind"]


def test_lazy_layers_are_refused_and_left_lazy() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(LazyModuleError, match="Run it once on a real batch first"):
        read_anatomy(model, torch.zeros(2, 3, 8, 8))
    assert isinstance(model[0], nn.LazyConv2d)
    model(torch.zeros(2, 3, 8, 8))
    check_laws(model, torch.zeros(2, 3, 8, 8))


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


class Aside(nn.Module):
    """Computes something that it may give or not."""

    def __init__(self, given: bool) -> None:
        super().__init__()
        self.given = given
        self.body, self.aside, self.head = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.body(x).relu()
        aside = self.aside(y)
        return {"logits": self.head(y), "aside": aside} if self.given else self.head(y)


def test_parameters_that_lead_to_no_output_are_named(caplog: pytest.LogCaptureFixture) -> None:
    assert check_laws(Aside(True), torch.zeros(2, 4)).no_path_to_output == ()
    anatomy = check_laws(Aside(False), torch.zeros(2, 4))
    assert (anatomy.unused, anatomy.no_path_to_output) == ((), ("aside.weight", "aside.bias"))
    LayerGroups(Aside(False), ["head"], example_input=torch.zeros(2, 4))
    assert "lead to no output" in caplog.text


def small() -> nn.Sequential:
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU()),
        nn.Sequential(nn.Conv2d(8, 8, 3, stride=2), nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def test_wrappers_are_looked_through() -> None:
    model = small()
    plain = read_anatomy(model).to_dict()
    assert read_anatomy(torch.compile(model)).to_dict() == plain  # type: ignore[arg-type] # what compile gives is a module
    assert read_anatomy(nn.DataParallel(model)).to_dict() == plain


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_a_distributed_model_is_looked_through() -> None:
    model = small()
    plain = read_anatomy(model).to_dict()
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(model)
        assert read_anatomy(wrapped).to_dict() == plain
    finally:
        torch.distributed.destroy_process_group()


def test_parametrized_weights_are_seen_through() -> None:
    model = small()
    model[4] = weight_norm(model[4])
    anatomy = check_laws(model)
    assert [(c.path, c.in_features) for c in anatomy.classifiers] == [("4", 8)]
    assert {n for b in anatomy.head for n in b.parameters} == {
        "4.bias", "4.parametrizations.weight.original0", "4.parametrizations.weight.original1",
    }  # fmt: skip


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


class Stubborn(nn.Module):
    """Branches on a value, so that no fake run comes through."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).mean((2, 3))
        return self.second(x * 2 if x.sum() > 0 else x)


def test_control_flow_on_values_falls_back_to_a_real_run() -> None:
    anatomy = check_laws(Stubborn())
    assert anatomy.source == "real run"
    assert [c.path for c in anatomy.classifiers] == ["second"]


class NeedsDevice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
        self.scale = nn.Parameter(torch.ones(8))
        self.answer = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError("this kernel has no CPU version")


def test_what_cannot_run_here_is_taken_in_the_order_of_registration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    anatomy = check_laws(NeedsDevice())
    assert anatomy.source == "registration order"
    assert "order of registration" in caplog.text
    assert [c.path for c in anatomy.classifiers] == ["answer"]
    assert [n for b in anatomy.head for n in b.parameters] == ["answer.weight", "answer.bias"]


def test_an_input_that_cannot_be_guessed_is_asked_for() -> None:
    with pytest.raises(ExampleInputError, match="example_input="):
        read_anatomy(TwoInputs())


# Random nested models: vectors of 4 in, vectors of 4 out, so that any part fits after any other.


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


def first_uses(model: nn.Module, anatomy: Anatomy, example: Tensor) -> Iterator[int]:
    times = trace(model, example).first_use
    return (times[name] for block in anatomy.blocks for name in block.parameters)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_random_nested_models_are_covered_exactly_and_in_order(seed: int) -> None:
    model, example = make_tree(seed), torch.ones(2, 4)
    before = {name: p.clone() for name, p in model.named_parameters()}
    anatomy = check_laws(model, example)
    times = list(first_uses(model, anatomy, example))
    assert times == sorted(times)
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())
