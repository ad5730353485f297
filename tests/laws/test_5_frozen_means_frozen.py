"""Law 5: nothing of a frozen group changes or draws, also after model.train()."""

from __future__ import annotations

import copy
import gc

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW

from layergroups import LayerGroups
from layergroups.groups._freezing import BeforeForward
from tests.laws.models import TinyResNet, image


class Stateful(nn.Module):
    """A layer with all state that training changes: statistics, masks, spectral norm, EMA."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 6, 3))
        self.batch = nn.BatchNorm2d(6)
        self.instance = nn.InstanceNorm2d(6, affine=True, track_running_stats=True)
        self.drop = nn.Dropout2d(0.5)
        self.register_buffer("average", torch.zeros(6))
        self.average: Tensor

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.instance(self.batch(self.conv(x))))
        if self.training:
            self.average.lerp_(x.detach().mean((0, 2, 3)), 0.1)
        return x


def frozen_body() -> tuple[nn.Sequential, LayerGroups]:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    model = nn.Sequential(Stateful(), head)
    groups = LayerGroups(model, example_input=image(), head="1")
    groups.freeze()
    return model, groups


def train(model: nn.Module, groups: LayerGroups, steps: int = 3) -> None:
    optimizer = AdamW(groups.param_groups(lr=0.1, weight_decay=0.5))
    for _ in range(steps):
        model.train()
        optimizer.zero_grad()
        model(image()).square().sum().backward()
        optimizer.step()
        model.eval()
        model(image())


def test_frozen_weights_and_buffers_do_not_change_and_others_do() -> None:
    model, groups = frozen_body()
    before = copy.deepcopy(model.state_dict())
    train(model, groups)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) == name.startswith("0."), name


def test_no_mask_is_drawn() -> None:
    model, _ = frozen_body()
    model.train()
    state = torch.get_rng_state()
    x = image()
    torch.set_rng_state(state)
    first, second = model(x), model(x)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), state)


def test_no_gradient_is_computed_below_the_lowest_group_that_trains() -> None:
    model, _ = frozen_body()
    features: list[Tensor] = []
    model[0].register_forward_hook(lambda m, i, out: features.append(out))
    model(image()).sum().backward()
    assert not features[0].requires_grad
    assert all(p.grad is None for p in model[0].parameters())


def test_unfrozen_layers_train_again() -> None:
    model, groups = frozen_body()
    train(model, groups, 1)
    groups.unfreeze()
    before = copy.deepcopy(model.state_dict())
    train(model, groups)
    same = [n for n, v in model.state_dict().items() if torch.equal(v, before[n])]
    assert same == ["0.instance.num_batches_tracked"]  # torch never counts there


def test_norms_train_only_where_that_is_asked_for() -> None:
    model, groups = frozen_body()
    groups.freeze(norm="train")
    before = copy.deepcopy(model.state_dict())
    train(model, groups)
    moved = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert "0.batch.weight" in moved
    assert "0.batch.running_mean" in moved
    assert not any(n.startswith(("0.conv", "0.average")) for n in moved)


@pytest.mark.parametrize("freeze_to", [1, 2])
def test_a_rate_of_zero_is_like_frozen(freeze_to: int) -> None:
    torch.manual_seed(0)
    model = TinyResNet()
    groups = LayerGroups(model, example_input=image())
    groups.set_rates([0.0 if i < freeze_to else 0.1 for i in range(3)])
    before = copy.deepcopy(model.state_dict())
    train_at_base_rates(model, groups)
    where = {n: g.index for g in groups for n, _ in g.named_parameters()}
    for name, value in model.state_dict().items():
        group = where.get(name, where.get(name.rpartition(".")[0] + ".weight"))
        assert group is not None
        assert torch.equal(value, before[name]) == (group < freeze_to), name


def train_at_base_rates(model: nn.Module, groups: LayerGroups) -> None:
    optimizer = AdamW(groups.param_groups(weight_decay=0.5))
    for _ in range(2):
        model.train()
        optimizer.zero_grad()
        model(image()).square().sum().backward()
        optimizer.step()


def test_a_copy_of_the_model_keeps_its_own_freezing() -> None:
    model, _ = frozen_body()
    twin = copy.deepcopy(model)
    twin.train()
    twin(image())
    assert not twin[0].batch.training
    model.train()
    assert model[0].batch.training  # the twin's hooks do not reach over


@pytest.mark.parametrize("where", ["inside", "beside"])
@pytest.mark.parametrize("attached", [True, False])
def test_a_norm_that_joins_a_frozen_group_does_not_move_in_its_first_run(
    where: str, attached: bool
) -> None:
    model = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()), nn.Conv2d(6, 6, 3),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)),
    )  # fmt: skip
    groups = LayerGroups(model, ["1", "2"], example_input=image())
    if attached:
        optimizer = AdamW(groups.param_groups())
        groups.attach(optimizer)
    groups.freeze()
    norm = nn.BatchNorm2d(6)
    if where == "inside":
        model[0].append(norm)
    else:
        model.insert(1, norm)
    before = copy.deepcopy(norm.state_dict())
    for _ in range(2):
        model.train()
        model(image()).sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in norm.state_dict().items())
    assert not any(p.requires_grad for p in norm.parameters())


@pytest.mark.parametrize("path", ["0.batch", "0"])
def test_a_norm_that_joins_a_frozen_group_is_frozen_in_a_loop_that_calls_only_parts(
    path: str,
) -> None:
    model, groups = frozen_body()
    optimizer = groups.optimizer(AdamW, lr=0.1)
    model.train()
    model.set_submodule(path, nn.BatchNorm2d(6) if path == "0.batch" else Stateful())
    before = copy.deepcopy(model[0].state_dict())
    model[1](model[0](image())).square().sum().backward()
    optimizer.step()
    assert not [
        n for n, value in model[0].state_dict().items() if not torch.equal(value, before[n])
    ]
    assert not any(isinstance(h, BeforeForward) for h in model[0].batch._forward_pre_hooks.values())


def test_a_norm_that_joins_a_group_that_trains_moves_and_groups_that_are_gone_do_nothing() -> None:
    for gone in (False, True):
        model, groups = frozen_body()
        model.train()
        if gone:
            del groups
            gc.collect()
        model[1] = nn.Sequential(nn.BatchNorm2d(6), model[1])
        model[1](model[0](image()))
        assert model[1][0].running_mean.any()
        assert model[1][0].training
