"""Law 5 for each kind of layer that draws or has state: not in frozen groups, in all others."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import timm.layers
import torch
import torchvision
from torch import Tensor, nn

from layergroups import LayerGroups
from tests.laws.models import TinyTransformer, image

WIDTH = 8


class Tokens(nn.Module):
    """Runs a layer on the pixels of a map as tokens."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.layer(x.flatten(2).transpose(1, 2))
        tokens = tokens[0] if isinstance(tokens, tuple) else tokens
        return tokens.transpose(1, 2).reshape(len(x), -1, *x.shape[2:])


class Attention(nn.Module):
    """`nn.MultiheadAttention` on itself: functional dropout guarded by the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.MultiheadAttention(WIDTH, 2, dropout=0.5, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x, x, x)[0]
        return out


class Average(nn.Module):
    """A moving average of what it sees, in a buffer, moved by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(WIDTH, 1, 1))
        self.mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mean.lerp_(x.detach().mean((0, 2, 3))[:, None, None], 0.5)
        return x - self.mean


class Container(nn.Module):
    """Holds a weight, a buffer and functional dropout of its own, beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(WIDTH, WIDTH, 1)
        self.scale = nn.Parameter(torch.ones(WIDTH, 1, 1))
        self.register_buffer("calls", torch.zeros(()))
        self.calls: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.calls.add_(1)
        return nn.functional.dropout(self.conv(x) * self.scale, 0.5, self.training)


class Listed(nn.Module):
    """Layers in a `ModuleList`, which is never called itself."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([nn.Dropout(0.5), nn.BatchNorm2d(WIDTH)])

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(WIDTH, 2, 16, dropout=0.5, batch_first=True)


def timm_attention() -> nn.Module:
    from timm.models.vision_transformer import Attention as VitAttention

    return VitAttention(WIDTH, num_heads=2, attn_drop=0.5, proj_drop=0.5)


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "Dropout": lambda: nn.Dropout(0.5),
    "Dropout2d": lambda: nn.Dropout2d(0.5),
    "AlphaDropout": lambda: nn.AlphaDropout(0.5),
    "RReLU": nn.RReLU,
    "StochasticDepth": lambda: torchvision.ops.StochasticDepth(0.5, "row"),
    "DropPath": lambda: timm.layers.DropPath(0.5),
    "MultiheadAttention": lambda: Tokens(Attention()),
    "TransformerEncoderLayer": lambda: Tokens(encoder_layer()),
    "TransformerEncoder": lambda: Tokens(
        nn.TransformerEncoder(encoder_layer(), 2, enable_nested_tensor=False)
    ),
    "timm Attention": lambda: Tokens(timm_attention()),
    "LSTM": lambda: Tokens(nn.LSTM(WIDTH, WIDTH, 2, dropout=0.5, batch_first=True)),
    "BatchNorm2d": lambda: nn.BatchNorm2d(WIDTH),
    "InstanceNorm2d": lambda: nn.InstanceNorm2d(WIDTH, affine=True, track_running_stats=True),
    "timm BatchNormAct2d": lambda: timm.layers.BatchNormAct2d(WIDTH),
    "spectral_norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3)),
    "older spectral_norm": lambda: nn.utils.spectral_norm(nn.Conv2d(WIDTH, WIDTH, 3)),
    "average": Average,
    "container": Container,
    "ModuleList": Listed,
}


def model_with(layer: nn.Module, where: int) -> tuple[nn.Sequential, LayerGroups]:
    """Three groups; the layer is in one of them."""
    parts = [nn.Sequential(nn.Conv2d(3, WIDTH, 3, 4)), nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1)),
             nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 1))]  # fmt: skip
    parts[where].append(layer)
    parts[2].extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, 2)])
    model = nn.Sequential(*parts)
    return model, LayerGroups(model, ["0", "1", "2"], example_input=image())


def step(model: nn.Module, groups: LayerGroups) -> None:
    optimizer = torch.optim.AdamW(groups.param_groups(lr=0.1, weight_decay=0.5))
    model.train()
    model(image()).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("where", [0, 1, 2])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_frozen_layer_neither_draws_nor_changes(kind: str, where: int) -> None:
    torch.manual_seed(0)
    model, groups = model_with(LAYERS[kind](), where)
    groups.freeze(where)
    step(model, groups)
    model.eval()
    before = copy.deepcopy(model.state_dict())
    for _ in range(2):
        step(model, groups)
        model.eval()
        model(image())
    after = model.state_dict()
    assert {
        n for n, v in after.items() if n.startswith(f"{where}.") and not v.equal(before[n])
    } == set()
    assert all(
        not after[f"{i}.0.weight"].equal(before[f"{i}.0.weight"]) for i in {0, 1, 2} - {where}
    )
    model.train()
    x, state = image(), torch.get_rng_state()
    assert torch.equal(model(x), model(x))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("kind", LAYERS)
def test_the_same_layer_changes_or_draws_when_its_group_is_unfrozen(kind: str) -> None:
    torch.manual_seed(0)
    model, groups = model_with(LAYERS[kind](), 1)
    groups.freeze("1")
    step(model, groups)
    groups["1"].unfreeze()
    model.train()
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    for _ in range(4):
        model(image())
    x = image()
    state = torch.get_rng_state()
    model(x)
    draws = not torch.equal(torch.get_rng_state(), state)
    moves = any(not v.equal(before[n]) for n, v in model.state_dict().items())
    assert draws or moves


def test_layers_of_a_list_that_the_model_loops_over() -> None:
    model = TinyTransformer()
    LayerGroups(model, example_input=image()).freeze()
    model.train()
    x = image()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("path", ["0", "0.0", "0.0.drop"])
def test_a_part_that_a_person_calls_by_itself(path: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.drop = nn.Conv2d(3, 3, 1), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(self.conv(x))

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    model = nn.Sequential(nn.Sequential(Block()), head)
    LayerGroups(model, example_input=image(), head="1").freeze()
    model.train()
    part, x = model.get_submodule(path), image()
    assert torch.equal(part(x), part(x))


def shared() -> tuple[nn.Sequential, LayerGroups]:
    """Dropout and batch norm that two groups run; they belong to the first."""
    drop, norm = nn.Dropout(0.5), nn.BatchNorm2d(4)
    first = nn.Sequential(nn.Conv2d(3, 4, 1), norm, drop)
    last = nn.Sequential(nn.Conv2d(4, 4, 1), norm, drop, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(4, 2))  # fmt: skip
    model = nn.Sequential(first, last)
    return model, LayerGroups(model, ["0", "1"], example_input=image())


def test_a_layer_that_two_groups_share_is_frozen_with_the_first() -> None:
    model, groups = shared()
    groups.freeze("0")
    model.train()
    before, x = copy.deepcopy(model[0].state_dict()), image()
    assert torch.equal(model(x), model(x))
    assert all(value.equal(before[name]) for name, value in model[0].state_dict().items())
    assert not model[1][1].weight.requires_grad


def test_a_layer_that_two_groups_share_trains_with_the_first() -> None:
    model, groups = shared()
    groups.freeze("1")
    model.train()
    before, x = model[0][1].running_mean.clone(), image()
    assert not torch.equal(model(x), model(x))
    assert not torch.equal(model[0][1].running_mean, before)
    assert model[0][1].weight.requires_grad
    assert not model[1][0].weight.requires_grad


def test_a_container_of_frozen_and_other_groups_trains_by_itself() -> None:
    """What is stated in `groups/freezing.py`: only what lies wholly in frozen groups is held."""

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(nn.functional.dropout(self.body(x), 0.5, self.training))

    model = Whole()
    groups = LayerGroups(model, ["body", "head"], example_input=torch.zeros(2, 4))
    groups.freeze()
    model.train()
    x = torch.randn(2, 4)
    assert torch.equal(model.body(x), model.body(x))
    assert not torch.equal(model(x), model(x))


def test_a_recurrent_layer_without_dropout_keeps_its_mode() -> None:
    """It has no state, and cuDNN computes its gradients in training mode only."""
    model = nn.Sequential(nn.Linear(4, 4), Tail(nn.GRU(4, 4, batch_first=True)), nn.Linear(4, 2))
    groups = LayerGroups(model, ["0", "1", "2"], example_input=torch.zeros(2, 3, 4))
    groups.freeze("1")
    model.train()
    before = copy.deepcopy(model[1].state_dict())
    model(torch.randn(2, 3, 4)).sum().backward()
    assert model[1].inner.training
    assert model[0].weight.grad is not None
    assert all(p.grad is None for p in model[1].parameters())
    assert all(value.equal(before[name]) for name, value in model[1].state_dict().items())


class Tail(nn.Module):
    """The output of a recurrent layer, without its state."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x)[0]
        return out
