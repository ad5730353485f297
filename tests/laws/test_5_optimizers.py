"""Law 5 under any optimizer: no momentum, no weight decay changes weights frozen later."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, NAdam, Optimizer, RMSprop

from layergroups import LayerGroups

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "SGD": partial(SGD, momentum=0.9, foreach=False),
    "SGD, foreach": partial(SGD, momentum=0.9, foreach=True),
    "SGD, fused": partial(SGD, momentum=0.9, fused=True),
    "SGD, nesterov": partial(SGD, momentum=0.9, nesterov=True),
    "Adam": partial(Adam, foreach=False),
    "AdamW, foreach": partial(AdamW, foreach=True),
    "AdamW, fused": partial(AdamW, fused=True),
    "AdamW, amsgrad": partial(AdamW, amsgrad=True),
    "NAdam": NAdam,
    "RMSprop": partial(RMSprop, momentum=0.9),
}


def make(optimizer: Callable[..., Optimizer]) -> tuple[nn.Sequential, LayerGroups, Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    groups = LayerGroups(model, ["0", "2", "4"], example_input=torch.zeros(2, 3))
    made = optimizer(groups.param_groups(lr=0.05, weight_decay=0.1))
    groups.attach(made)
    return model, groups, made


def backward(model: nn.Module) -> None:
    model(torch.randn(5, 3)).square().sum().backward()


def step(model: nn.Module, optimizer: Optimizer, *, set_to_none: bool) -> None:
    optimizer.zero_grad(set_to_none=set_to_none)
    backward(model)
    optimizer.step()


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(module: nn.Module, before: list[Tensor]) -> list[bool]:
    return [torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True)]


@pytest.mark.parametrize("set_to_none", [True, False])
@pytest.mark.parametrize("which", ["0", "2", "4"])
@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_weights_frozen_after_training_stay(kind: str, which: str, set_to_none: bool) -> None:
    model, groups, optimizer = make(OPTIMIZERS[kind])
    for _ in range(2):
        step(model, optimizer, set_to_none=set_to_none)
    groups.freeze(which)
    frozen, others = model[int(which)], [m for i, m in enumerate(model) if str(i) != which]
    before, rest = weights(frozen), [weights(m) for m in others]
    states = {p: {k: torch.as_tensor(v).clone() for k, v in optimizer.state[p].items()
                  if v is not None} for p in frozen.parameters()}  # fmt: skip
    for _ in range(2):
        step(model, optimizer, set_to_none=set_to_none)
        assert all(same(frozen, before))
        assert all(p.grad is None for p in frozen.parameters())
    for parameter, state in states.items():
        for key, value in state.items():
            assert torch.equal(torch.as_tensor(optimizer.state[parameter][key]), value), key
    assert not any(bit for m, b in zip(others, rest, strict=True) for bit in same(m, b))
    groups.unfreeze(which)
    step(model, optimizer, set_to_none=set_to_none)
    assert not any(same(frozen, before))


@pytest.mark.parametrize("kind", ["SGD", "AdamW, fused"])
@pytest.mark.parametrize("moment", ["after forward", "after backward"])
def test_a_group_frozen_in_the_middle_of_a_step_stays(kind: str, moment: str) -> None:
    model, groups, optimizer = make(OPTIMIZERS[kind])
    step(model, optimizer, set_to_none=False)
    before = weights(model[0])
    optimizer.zero_grad(set_to_none=False)
    loss = model(torch.randn(5, 3)).square().sum()
    if moment == "after forward":
        groups.freeze("0")
        loss.backward()
    else:
        loss.backward()
        groups.freeze("0")
    optimizer.step()
    assert all(same(model[0], before))


def test_gradients_are_computed_down_to_the_lowest_group_that_trains_and_no_further() -> None:
    model, groups, _ = make(SGD)
    seen: dict[int, Tensor] = {}
    for i, module in enumerate(model):
        module.register_forward_hook(lambda m, x, out, i=i: seen.update({i: out}))
    for n in range(3):
        groups.freeze_to(n)
        model.zero_grad()
        backward(model)
        graph = [i for i, out in seen.items() if out.grad_fn is not None]
        assert graph == list(range(2 * n, 5))
        assert [p.grad is not None for p in model.parameters()] == [i // 2 >= n for i in range(6)]
    groups.unfreeze()
    groups.freeze("4")  # gradients pass through it, none is stored for it
    model.zero_grad()
    backward(model)
    assert [p.grad is not None for p in model.parameters()] == [True] * 4 + [False] * 2


def test_weights_of_complex_numbers_train() -> None:
    class Phases(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Parameter(torch.ones(3, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            return (x * self.turn).abs()

    model = nn.Sequential(Phases(), nn.Linear(3, 2))
    groups = LayerGroups(model, ["0", "1"], example_input=torch.ones(2, 3))
    groups.freeze()
    groups.unfreeze()
    model(torch.ones(2, 3)).sum().backward()
    assert model[0].turn.grad is not None
