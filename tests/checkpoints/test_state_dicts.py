import json
import random

import numpy
import pytest
import torch
from torch import nn

from layergroups.checkpoints import (
    load_optimizer_state,
    load_random_state,
    load_weights,
    optimizer_state,
    random_state,
)
from layergroups.errors import CheckpointError


def model() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)  # other weights may run away to infinity
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    net(x).square().sum().backward()
    optimizer.step()


def in_one(net: nn.Module) -> list[dict]:
    return [{"params": list(net.parameters())}]


def in_two(net: nn.Sequential) -> list[dict]:
    return [{"params": list(net[2].parameters())}, {"params": list(net[:2].parameters())}]


@pytest.mark.parametrize(
    "make",
    [
        torch.optim.AdamW,
        lambda groups: torch.optim.AdamW(groups, fused=True),
        lambda groups: torch.optim.SGD(groups, lr=0.001, momentum=0.9),
        torch.optim.Adagrad,
    ],
    ids=["adamw", "fused adamw", "sgd", "adagrad"],
)
def test_training_goes_on_bit_for_bit_also_in_other_groups(make) -> None:
    first, second = model(), model()
    unbroken, resumed = make(in_one(first)), make(in_two(second))
    for seed in range(3):
        step(first, unbroken, seed)
    tensors, values = optimizer_state(unbroken, first)
    values = json.loads(json.dumps(values))
    second.load_state_dict(first.state_dict())
    assert load_optimizer_state(resumed, second, tensors, values) == ()
    for seed in range(3, 6):
        step(first, unbroken, seed)
        step(second, resumed, seed)
    ours, theirs = first.state_dict(), second.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_saved_tensors_are_named_by_parameter() -> None:
    net = model()
    optimizer = torch.optim.AdamW(net.parameters())
    step(net, optimizer, 0)
    tensors, _ = optimizer_state(optimizer, net)
    assert {"exp_avg/0.weight", "exp_avg_sq/2.bias", "step/1.weight"} <= tensors.keys()


def test_loaded_state_is_a_copy() -> None:
    net, other = model(), model()
    one, two = torch.optim.AdamW(net.parameters()), torch.optim.AdamW(other.parameters())
    step(net, one, 0)
    load_optimizer_state(two, other, *optimizer_state(one, net))
    kept = one.state[net[0].weight]["exp_avg"].clone()
    step(other, two, 1)
    assert torch.equal(one.state[net[0].weight]["exp_avg"], kept)
    assert one.state[net[0].weight]["step"] == 1


def test_parameters_of_other_names_start_afresh_and_are_told() -> None:
    net, other = model(), nn.Sequential(nn.Linear(3, 4))
    one, two = torch.optim.AdamW(net.parameters()), torch.optim.AdamW(other.parameters())
    step(net, one, 0)
    unknown = load_optimizer_state(two, other, *optimizer_state(one, net))
    assert unknown == ("1.bias", "1.weight", "2.bias", "2.weight")
    assert set(two.state) == set(other.parameters())


def test_another_kind_of_optimizer_is_refused() -> None:
    net = model()
    one, two = torch.optim.AdamW(net.parameters()), torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(CheckpointError, match="opt_func='adamw'"):
        load_optimizer_state(two, net, *optimizer_state(one, net))


def draws() -> tuple:
    return random.random(), random.gauss(0, 1), numpy.random.rand(), torch.rand(3).tolist()


def test_random_states_go_through_json_and_back() -> None:
    draws()
    tensors, values = random_state()
    values = json.loads(json.dumps(values))
    expected = draws()
    assert draws() != expected
    load_random_state(tensors, values)
    assert draws() == expected


def test_weights_that_do_not_fit_are_named_and_nothing_is_loaded() -> None:
    net, other = model(), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 5))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    weights = other.state_dict() | {"extra": torch.ones(1)}
    del weights["0.bias"]
    with pytest.raises(CheckpointError) as caught:
        load_weights(net, weights, "a.safetensors")
    for part in ("a.safetensors", "0.bias", "extra", "2.weight (file [5, 4], model [2, 4])"):
        assert part in str(caught.value)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
