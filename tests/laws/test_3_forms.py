"""Law 3 where parameters stay the same objects but become another type, shape or device."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, AdamW, Optimizer

from layergroups import LayerGroups
from tests.laws.surgeries import assert_agree, optimizer_states

KINDS: dict[str, Any] = {
    "for loop": lambda g: AdamW(g, foreach=False),
    "foreach": lambda g: AdamW(g, foreach=True, amsgrad=True),
    "fused": lambda g: AdamW(g, fused=True),
    "sgd": lambda g: SGD(g, momentum=0.9),
    "sgd fused": lambda g: SGD(g, momentum=0.9, fused=True),
    "factored": Adafactor,
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.scale = nn.Parameter(torch.tensor(1.5))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(
            self.scale
            * torch.tanh(self.body(x.to(self.body.weight.dtype))).to(self.head.weight.dtype)
        )


def make(kind: str = "for loop") -> tuple[Net, LayerGroups, Optimizer]:
    torch.manual_seed(0)
    model = Net()
    groups = LayerGroups(model, ["body", "head"], example_input=torch.randn(2, 6))
    optimizer = KINDS[kind](groups.param_groups(lr=1e-2))
    groups.attach(optimizer)
    for _ in range(2):
        step(model, optimizer)
    return model, groups, optimizer


def step(model: nn.Module, optimizer: Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.randn(4, 6)).float().square().mean().backward()
    optimizer.step()


@pytest.fixture(params=["data", "overwrite", "swap"])
def conversion(request: pytest.FixtureRequest) -> Iterator[str]:
    """The three ways in which torch converts a module's parameters."""
    torch.__future__.set_overwrite_module_params_on_conversion(request.param == "overwrite")
    torch.__future__.set_swap_module_params_on_conversion(request.param == "swap")
    yield request.param
    torch.__future__.set_overwrite_module_params_on_conversion(False)
    torch.__future__.set_swap_module_params_on_conversion(False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_moments_follow_a_cast_and_counts_stay(
    kind: str, dtype: torch.dtype, conversion: str
) -> None:
    model, groups, optimizer = make(kind)
    before = {n: optimizer_states(optimizer)[p] for n, p in model.named_parameters()}
    if conversion == "swap":
        gc.collect()  # it swaps no tensor that fake tensors of the dry run still know
    model.to(dtype)
    change = groups.sync()
    assert change is not None
    name = str(dtype).removeprefix("torch.")
    assert str(change) == f"the model changed: 5 parameters are {name} now, were float32"
    assert_agree(model, groups, optimizer)
    for n, parameter in model.named_parameters():
        new = optimizer.state[parameter]
        assert set(new) == set(before[n])
        for key, old in before[n].items():
            same_type = key == "step" or old.dtype != torch.float32
            assert torch.equal(new[key], old if same_type else old.to(dtype)), (n, key)
    weights = [p.detach().clone() for p in model.parameters()]
    step(model, optimizer)
    assert groups.sync() is None
    assert not any(map(torch.equal, weights, model.parameters()))


def test_a_cast_in_a_plain_loop_logs_nothing_else() -> None:
    model, groups, optimizer = make("fused")
    model.head.to(torch.float64)
    step(model, optimizer)
    assert groups.changes[0].cast == (
        ("head.weight", "float32", "float64"), ("head.bias", "float32", "float64"),
    )  # fmt: skip
    state = optimizer.state[model.head.weight]
    assert state["exp_avg"].dtype == torch.float64
    assert float(state["step"]) == 3
    assert float(optimizer.state[model.body.weight]["step"]) == 3


def test_a_cast_and_surgery_at_once() -> None:
    model, groups, optimizer = make()
    model.bfloat16()
    model.head = nn.Linear(8, 2, dtype=torch.bfloat16)
    step(model, optimizer)
    text = str(groups.changes[0])
    assert "2 new in group 'head'" in text
    assert "3 parameters are bfloat16 now, were float32" in text
    assert optimizer.state[model.body.weight]["exp_avg"].dtype == torch.bfloat16


def test_a_different_shape_restarts_the_state_of_that_parameter() -> None:
    model, groups, optimizer = make()
    state = optimizer_states(optimizer)[model.body.weight]
    model.head.weight.data = torch.randn(2, 8)
    model.head.bias.data = model.head.bias.data[:2]  # the same storage, seen as shorter
    change = groups.sync()
    assert change is not None
    assert change.reshaped == (("head.weight", (3, 8), (2, 8)), ("head.bias", (3,), (2,)))
    assert "head.bias has shape (2,) now, had (3,): its optimizer state restarts" in str(change)
    assert model.head.weight not in optimizer.state
    assert torch.equal(optimizer.state[model.body.weight]["exp_avg"], state["exp_avg"])
    model.zero_grad()
    step(model, optimizer)
    assert float(optimizer.state[model.head.weight]["step"]) == 1


def test_new_values_are_not_a_change() -> None:
    model, groups, optimizer = make()
    model.load_state_dict({n: v + 1 for n, v in model.state_dict().items()})
    model.head.weight.data = torch.randn(3, 8)
    model.body.weight.requires_grad_(False).requires_grad_(True)
    step(model, optimizer)
    assert groups.changes == ()


def test_a_conversion_to_meta_and_back_logs_the_lost_state() -> None:
    model, groups, optimizer = make()
    count = float(optimizer.state[model.body.weight]["step"])
    model.body.to("meta")
    change = groups.sync()
    assert change is not None
    assert str(change) == "the model changed: 2 parameters are on meta now, were on cpu"
    state = optimizer.state[model.body.weight]
    assert state["exp_avg"].is_meta
    assert float(state["step"]) == count
    assert not optimizer.state[model.head.weight]["exp_avg"].is_meta
    model.body.to_empty(device="cpu")
    model.body.reset_parameters()
    step(model, optimizer)
    assert float(optimizer.state[model.body.weight]["step"]) == 1
    assert float(optimizer.state[model.head.weight]["step"]) == count + 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_moments_follow_to_a_gpu_and_back(kind: str, conversion: str) -> None:
    model, groups, optimizer = make(kind)
    before = {n: optimizer_states(optimizer)[p] for n, p in model.named_parameters()}
    for device in ("cuda", "cpu"):
        model.to(device)
        assert "5 parameters are on" in str(groups.sync())
        for n, parameter in model.named_parameters():
            for key, old in before[n].items():
                assert torch.equal(optimizer.state[parameter][key].cpu(), old), (n, key)
    model.to("cuda")
    optimizer.zero_grad()
    model(torch.randn(4, 6, device="cuda")).square().mean().backward()
    optimizer.step()


def test_a_parameter_assigned_with_different_values_is_new() -> None:
    model, groups, optimizer = make()
    model.head.weight = nn.Parameter(torch.randn(3, 8, dtype=torch.float64))
    change = groups.sync()
    assert change is not None
    assert change.added == (("head.weight", "head"),)
    assert model.head.weight not in optimizer.state
