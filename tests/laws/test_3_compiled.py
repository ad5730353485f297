"""Laws 3 and 5 for a compiled model: it is the same model, and freezing reaches into its graphs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from layergroups import LayerGroups, Learner
from tests.laws.models import TinyResNet, image
from tests.laws.surgeries import assert_agree, assert_same_states, optimizer_states
from tests.training.tiny import TinyLoaders, tiny_model

BACKENDS = [
    "eager",
    pytest.param("aot_eager", marks=pytest.mark.slow),
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not shutil.which("g++"), reason="inductor needs a C++ compiler"),
        ],
    ),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


class Small(nn.Module):
    """Two layers that follow the mode, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))
        self.more = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.more(self.body(x)).mean((2, 3)))


def make(backend: str, how: str) -> tuple[Small, nn.Module, LayerGroups, Optimizer]:
    """The model, what is called, its groups and an optimizer."""
    torch.manual_seed(0)
    model = Small()
    called: Any = model
    if how == "wrapped":
        called = torch.compile(model, backend=backend)
    else:
        model.compile(backend=backend)
    groups = LayerGroups(called, ["body", "more", "fc"], example_input=image(12))
    optimizer = AdamW(groups.param_groups(lr=1e-2))
    groups.attach(optimizer)
    return model, called, groups, optimizer


def step(called: nn.Module, optimizer: Optimizer) -> None:
    called.train()
    optimizer.zero_grad()
    called(image(12)).square().mean().backward()
    optimizer.step()


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: v.clone() for n, v in model.state_dict().items()}


def moved(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_freezing_and_unfreezing_reach_compiled_graphs(backend: str, how: str) -> None:
    model, called, groups, optimizer = make(backend, how)
    assert {n for g in groups for n, _ in g.named_parameters()} == {
        n for n, _ in model.named_parameters()
    }
    for first in (2, 1, 0, 2, 1):
        groups.freeze_to(first)
        before = state(model)
        step(called, optimizer)
        names = ("body", "more", "fc")
        trains = set(names[first:])
        now = moved(before, model)
        assert {n.partition(".")[0] for n in now} == trains
        for name, parameter in model.named_parameters():
            assert (parameter.grad is not None) == (name.partition(".")[0] in trains), name
        statistics = {n for n in now if "running" in n}
        assert statistics == {
            f"{n}.1.running_{s}" for n in trains - {"fc"} for s in ("mean", "var")
        }
    assert groups.changes == ()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_group_without_parameters_that_train_keeps_no_stale_mode(backend: str) -> None:
    """A dropout has no parameter by which a compiled graph would notice that it was unfrozen."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)), nn.Linear(6, 2))
    called = torch.compile(model, backend=backend)
    groups = LayerGroups(called, ["0", "1"], example_input=torch.randn(2, 6))
    groups.freeze()
    called.train()
    x = torch.randn(4, 6)
    with torch.no_grad():
        assert torch.equal(called(x), called(x))
        groups.unfreeze()
        called.train()
        assert not torch.equal(called(x), called(x))
        groups.freeze()
        called.train()
        assert torch.equal(called(x), called(x))


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_surgery_inside_a_compiled_model(how: str) -> None:
    model, called, groups, optimizer = make("eager", how)
    step(called, optimizer)
    before = optimizer_states(optimizer)
    model.fc = nn.Linear(4, 5)
    model.more.append(nn.Conv2d(4, 4, 1))
    weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    step(called, optimizer)  # here a compiled model is first looked at
    step(called, optimizer)
    assert len(groups.changes) == 1
    assert_agree(model, groups, optimizer)
    still = {n for n, p in model.named_parameters() if torch.equal(p, weights[n])}
    assert not {n for n in still if not n.endswith("bias")}
    assert set(before) & set(optimizer.state)


def test_compiled_after_the_groups_were_made() -> None:
    torch.manual_seed(0)
    model = Small()
    groups = LayerGroups(model, ["body", "more", "fc"], example_input=image(12))
    optimizer = AdamW(groups.param_groups(lr=1e-2))
    groups.attach(optimizer)
    groups.freeze()
    step(model, optimizer)
    before = optimizer_states(optimizer)
    called = torch.compile(model, backend="eager")
    assert groups.sync() is None
    assert_same_states(optimizer, before)
    groups.unfreeze()
    weights = state(model)
    step(called, optimizer)
    assert all(p.grad is not None for p in model.parameters())
    assert {"body.0.weight", "more.0.weight", "fc.weight"} <= moved(weights, model)


def learner(tmp_path: Path, model: nn.Module, **options: Any) -> Learner:
    return Learner(
        TinyLoaders(n=24), model, split=["0.0", "0.7", "1"], progress=False, seed=0,
        path=tmp_path, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_a_learner_takes_a_compiled_model_and_saves_without_the_wrapper(tmp_path: Path) -> None:
    torch.manual_seed(0)
    learn = learner(tmp_path, torch.compile(tiny_model(), backend="eager"))
    learn.fit(1, 1e-3)
    learn.save("compiled")
    plain = learner(tmp_path, tiny_model()).load("compiled")
    assert plain.opt is not None
    for one, two in zip(learn.model.parameters(), plain.model.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(learn.opt.state[one]["exp_avg"], plain.opt.state[two]["exp_avg"])
    assert learn.load("compiled") is learn


@pytest.mark.slow
@pytest.mark.parametrize("within", [True, False])
def test_a_learner_continues_with_the_compiled_model(tmp_path: Path, within: bool) -> None:
    class Compiles:
        def before_step(self, run: Any) -> None:
            if within and run.model is learn.groups.model and run.step == 2:
                learn.model = torch.compile(learn.model, backend="eager")

    torch.manual_seed(0)
    learn = learner(tmp_path, tiny_model(), callbacks=[Compiles()])
    learn.freeze()
    learn.fit(1, 1e-3)
    groups, optimizer = learn.groups, learn.opt
    before = optimizer_states(optimizer)
    if not within:
        learn.model = torch.compile(learn.model, backend="eager")
    assert learn.groups is groups
    assert learn.opt is optimizer
    assert groups.frozen == (True, True, False)
    assert_same_states(optimizer, before)
    weights = state(groups.model)
    learn.unfreeze()
    learn.fit(1, 1e-3)
    assert {"0.0.weight", "0.7.weight", "1.4.weight"} <= moved(weights, groups.model)
    assert learn.history[-1].valid_loss is not None


@pytest.mark.slow
def test_a_plain_and_a_compiled_fit_are_one(tmp_path: Path) -> None:
    results = []
    for compiled in (False, True):
        torch.manual_seed(0)
        model = tiny_model()
        called = torch.compile(model, backend="eager") if compiled else model
        learn = learner(tmp_path, called)
        learn.freeze()
        learn.fit(1, 1e-3)
        learn.unfreeze()
        learn.fit(1, 1e-3)
        results.append(state(model))
    for name, value in results[0].items():
        assert torch.allclose(value.float(), results[1][name].float(), atol=1e-6), name


def test_the_tiny_network_compiles_without_breaks() -> None:
    """Hooks of frozen layers cause no graph break."""
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    groups.freeze()
    explained = torch._dynamo.explain(model)(image())
    assert explained.graph_break_count == 0


class Broken(nn.Module):
    """Its dropout runs in a graph of its own, where no parameter tells what is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.fc = nn.Linear(6, 6), nn.Dropout(0.5), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        torch._dynamo.graph_break()
        x = self.drop(x)
        torch._dynamo.graph_break()
        return self.fc(x)


def test_a_graph_without_parameters_keeps_no_stale_mode() -> None:
    called = torch.compile(Broken(), backend="eager")
    groups = LayerGroups(called, ["body", "fc"], example_input=torch.randn(2, 6))
    x = torch.randn(4, 6)
    for first in (1, 0, 1, 0):
        groups.freeze_to(first)
        called.train()
        with torch.no_grad():
            assert torch.equal(called(x), called(x)) == (first == 1)
