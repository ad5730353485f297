"""Features of several depths: which maps are read, and what comes out."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from layergroups.anatomy import trace
from layergroups.checkpoints import Blueprint
from layergroups.checkpoints._export_folder import rebuild
from layergroups.models import ChannelStatistics, DepthFeatures, assemble, describe_head, load_model
from layergroups.models._depths import find_depths
from layergroups.models._feature_maps import FeatureMap

CASES = {
    "torchvision:resnet18": ["relu", "layer1", "layer2", "layer3"],
    "torchvision:mobilenet_v2": [
        "features.1", "features.3", "features.6", "features.13", "features.17",
    ],
    "timm:vit_tiny_patch16_224": ["blocks.2", "blocks.5", "blocks.8", "blocks.11"],
    "timm:swin_tiny_patch4_window7_224": ["layers.0", "layers.1", "layers.2", "norm"],
}  # fmt: skip


def assembled(name: str, **options: bool):
    loaded = load_model(name, pretrained=False)
    size = 224 if "224" in name else 64
    return assemble(loaded, 3, size=size, lin_ftrs=(), concat_pool=False, **options)


@pytest.mark.parametrize("name", CASES)
def test_the_last_map_of_each_resolution_is_read_and_blocks_of_a_vit(name: str) -> None:
    made = assembled(name, depths=True)
    maps = made.cut.depths
    assert [each.path for each in maps] == CASES[name]
    body = made.model[0]
    assert isinstance(body, DepthFeatures)
    x = torch.randn(3, *made.example.shape[1:])
    body.eval()
    with torch.no_grad():
        features = body(x)
        alone = body.body(x)
    assert features.shape == (3, made.features)
    alone = alone if alone.ndim == 2 else alone.mean(1 if alone.ndim == 3 else (2, 3))
    n = alone.shape[1]
    torch.testing.assert_close(features[:, :n], alone)
    assert made.features == n + 2 * sum(each.channels for each in maps)
    assert made.model[1][2].inner == made.features - n


def test_a_map_gives_the_mean_and_deviation_of_its_channels() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Conv2d(4, 6, 3, stride=2))
    made = DepthFeatures(body, (FeatureMap("0", 2, 4),))
    x = torch.randn(5, 3, 16, 16)
    inner = body[0](x)
    expected = [body(x).mean((2, 3)), inner.mean((2, 3)), inner.flatten(2).std(2, correction=0)]
    torch.testing.assert_close(made(x), torch.cat(expected, 1), rtol=1e-3, atol=1e-3)


def test_statistics_of_tokens_leave_out_those_that_are_no_patches() -> None:
    tokens = torch.randn(2, 5 + 9, 4)
    statistics = ChannelStatistics(FeatureMap("0", 8, 4, layout="tokens", prefix=5))
    changed = torch.cat([torch.randn(2, 5, 4), tokens[:, 5:]], 1)
    assert torch.equal(statistics(tokens), statistics(changed))
    torch.testing.assert_close(statistics(tokens)[:, :4], tokens[:, 5:].mean(1))


def test_a_constant_map_has_a_finite_gradient() -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 3, stride=2))
    nn.init.constant_(body[0].bias, -100.0)  # no value passes the ReLU
    made = DepthFeatures(body, (FeatureMap("1", 1, 4),))
    made(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in body.parameters())


def test_a_copy_reads_its_own_maps() -> None:
    made = assembled("torchvision:resnet18", depths=True).model.eval()
    other = copy.deepcopy(made)
    for p in other[0].parameters():
        nn.init.zeros_(p)
    x = torch.randn(2, 3, 64, 64)
    before = made(x)
    other(x)
    torch.testing.assert_close(made(x), before)


def test_a_model_is_rebuilt_from_its_blueprint() -> None:
    made = assembled("torchvision:resnet18", depths=True)
    head = describe_head(made.model[1])
    blueprint = Blueprint(
        arch="torchvision:resnet18", kwargs={}, cut=made.cut, network="ResNet", size=(64, 64),
        input=made.input,
    )  # fmt: skip
    again = rebuild(blueprint, head)
    assert made.model.state_dict().keys() == again.state_dict().keys()
    assert again[0].maps == made.model[0].maps


def test_a_body_without_maps_is_left_as_it_is() -> None:
    body = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 16), nn.ReLU(), nn.Linear(16, 8))
    assert find_depths(trace(body, torch.zeros(2, 3, 8, 8)), body) == ()


@pytest.mark.parametrize(
    "maps", [{"path": "9", "stride": 2, "channels": 4}, {"layout": "upside down"}]
)
def test_maps_that_cannot_be_read_are_refused(maps: dict[str, object]) -> None:
    body = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises((AttributeError, ValueError)):
        DepthFeatures(body, (FeatureMap(**{"path": "0", "stride": 2, "channels": 4, **maps}),))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["convnext_atto", "mobilenetv3_small_050", "levit_128s"])
def test_depths_are_exported_and_compiled(name: str) -> None:
    model = timm.create_model(name, num_classes=0)
    found = find_depths(trace(model, torch.zeros(2, 3, 224, 224)), model)
    made = DepthFeatures(model, found).eval()
    x = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        expected = made(x)
        program = torch.export.export(made, (x,), strict=False)
        torch.testing.assert_close(program.module()(x), expected, rtol=1e-3, atol=1e-3)
        compiled = torch.compile(made, backend="eager")
        torch.testing.assert_close(compiled(x), expected, rtol=1e-3, atol=1e-3)


def test_a_map_inside_a_tuple_is_read() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return self.conv(x), 7

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = Pair(), nn.Conv2d(4, 6, 3, stride=2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x)[0])

    body = Body()
    maps = find_depths(trace(body, torch.zeros(2, 3, 32, 32)), body)
    assert [each.path for each in maps] == ["first"]
    assert DepthFeatures(body, maps)(torch.randn(2, 3, 32, 32)).shape == (2, 6 + 2 * 4)
