"""Every kind of surgery, on a TinyResNet; and what must hold after any of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.optim import SGD, AdamW, Optimizer

from layergroups import LayerGroups
from tests.laws.models import Residual, TinyResNet

Surgery = Callable[[Any], None]


class Adapter(nn.Module):
    """A convolution and a narrow one beside it."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base = base
        self.low = nn.Conv2d(base.in_channels, base.out_channels, 1, base.stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.low(x)


def replace_head(model: TinyResNet) -> None:
    model.fc = nn.Linear(32, 5)


def head_of_the_same_size(model: TinyResNet) -> None:
    model.fc = nn.Linear(32, 3)


def wrap_head(model: TinyResNet) -> None:
    model.fc = nn.Sequential(nn.Dropout(0.1), model.fc)


def last_linear_inside_the_head(model: TinyResNet) -> None:
    model.fc = nn.Sequential(nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 3))
    model.fc[-1] = nn.Linear(8, 4)


def delete_block(model: TinyResNet) -> None:
    del model.layer2[1]


def append_block(model: TinyResNet) -> None:
    model.layer3.append(Residual(32, 32))


def insert_block(model: TinyResNet) -> None:
    model.layer2.insert(1, Residual(16, 16))


def exchange_block(model: TinyResNet) -> None:
    model.layer3[1] = Residual(32, 32)


def add_module(model: TinyResNet) -> None:
    model.layer3.add_module("more", nn.Conv2d(32, 32, 1))


def wrap_layer(model: TinyResNet) -> None:
    model.layer3[0].main[0][0] = Adapter(model.layer3[0].main[0][0])


def through_modules(model: TinyResNet) -> None:
    model._modules["fc"] = nn.Linear(32, 4)


def through_parameters(model: TinyResNet) -> None:
    model.fc._parameters["weight"] = nn.Parameter(torch.randn(3, 32))


def whole_dictionary(model: TinyResNet) -> None:
    model.fc._parameters = {"weight": nn.Parameter(torch.randn(4, 32)), "bias": None}


def delete_and_set(model: TinyResNet) -> None:
    del model.fc
    model.fc = nn.Linear(32, 3, bias=False)


def register_parameter(model: TinyResNet) -> None:
    model.fc.register_parameter("bias", nn.Parameter(torch.ones(3)))


def swap_norms(model: TinyResNet) -> None:
    for path, module in list(model.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            model.set_submodule(path, nn.GroupNorm(2, module.num_features))


def weight_norm(model: TinyResNet) -> None:
    parametrizations.weight_norm(model.fc)


def spectral_norm(model: TinyResNet) -> None:
    parametrizations.spectral_norm(model.layer1[0].main[0][0])


def orthogonal(model: TinyResNet) -> None:
    parametrizations.orthogonal(model.fc)


def parametrized_and_back(model: TinyResNet) -> None:
    parametrizations.spectral_norm(model.fc)
    parametrize.remove_parametrizations(model.fc, "weight")
    model.layer3[1] = Residual(32, 32)


def prune_unstructured(model: TinyResNet) -> None:
    prune.l1_unstructured(model.fc, "weight", amount=0.3)


def prune_structured(model: TinyResNet) -> None:
    prune.ln_structured(model.layer3[1].main[0][0], "weight", amount=0.25, n=2, dim=0)


def tie(model: TinyResNet) -> None:
    model.layer3[1].main[0][0].weight = model.layer3[1].main[1][0].weight


SURGERIES: list[Surgery] = [
    replace_head, head_of_the_same_size, wrap_head, last_linear_inside_the_head, delete_block,
    append_block, insert_block, exchange_block, add_module, wrap_layer, through_modules,
    through_parameters, whole_dictionary, delete_and_set, register_parameter, swap_norms,
    weight_norm, spectral_norm, orthogonal, parametrized_and_back, prune_unstructured,
    prune_structured, tie,
]  # fmt: skip

OPTIMIZERS: dict[str, Callable[[Any], Optimizer]] = {
    "adamw": lambda groups: AdamW(groups, weight_decay=0.1),
    "fused": lambda groups: AdamW(groups, fused=True),
    "sgd": lambda groups: SGD(groups, lr=0.01, momentum=0.9),
}


def optimizer_states(optimizer: Optimizer) -> dict[nn.Parameter, dict[str, Any]]:
    """All that an optimizer remembers, copied; the parameters are the same objects."""
    return {p: copy.deepcopy(dict(state)) for p, state in optimizer.state.items()}


def assert_same_states(optimizer: Optimizer, before: dict[nn.Parameter, dict[str, Any]]) -> None:
    """Every parameter that is still there is remembered as before, bit for bit."""
    for parameter in (p for g in optimizer.param_groups for p in g["params"]):
        state, old = optimizer.state.get(parameter, {}), before.get(parameter, {})
        assert set(state) == set(old)
        for key, value in old.items():
            same = (
                torch.equal(state[key], value) if isinstance(value, Tensor) else state[key] == value
            )
            assert same, key


def assert_agree(model: nn.Module, groups: LayerGroups, optimizer: Optimizer) -> None:
    """Exact cover; the optimizer holds just what the groups hold; freezing is as they say."""
    held = [id(p) for g in optimizer.param_groups for p in g["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} <= set(held)
    members = [id(p) for group in groups for p in group.parameters()]
    assert len(members) == len(set(members)) == len(held)
    for group in optimizer.param_groups:
        own = {id(p) for p in groups[group["layer_group"]].parameters()}
        assert {id(p) for p in group["params"]} <= own
    for group in groups:
        assert all(p.requires_grad != group.frozen for p in group.parameters())


@contextmanager
def at_the_step(optimizer: Optimizer) -> Iterator[list[dict[nn.Parameter, dict[str, Any]]]]:
    """What an optimizer remembers when its step begins, after all hooks before the step."""
    seen: list[dict[nn.Parameter, dict[str, Any]]] = []
    handle = optimizer.register_step_pre_hook(lambda *_: seen.append(optimizer_states(optimizer)))
    try:
        yield seen
    finally:
        handle.remove()
