"""The maps of networks of different design, found in a dry run without a table."""

from __future__ import annotations

import pytest
import torch

from layergroups.anatomy import trace
from layergroups.models import create_body, load_model
from layergroups.models._feature_maps import (
    FIRST,
    LAST,
    TOKENS,
    Encoder,
    FeatureMap,
    find_maps,
    padded_to,
)

MAPS = {
    "torchvision:resnet18": [(2, 64), (4, 64), (8, 128), (16, 256), (32, 512)],
    "torchvision:vgg11": [(1, 64), (2, 128), (4, 256), (8, 512), (16, 512), (32, 512)],
    "timm:tf_efficientnet_lite0": [(2, 16), (4, 24), (8, 40), (16, 112), (32, 1280)],
    "timm:convnext_atto": [(4, 40), (8, 80), (16, 160), (32, 320)],
}


def maps_of(name: str, size: tuple[int, int]) -> tuple[torch.nn.Module, tuple[FeatureMap, ...]]:
    body = create_body(load_model(name, pretrained=False).model, size=size).eval()
    return body, find_maps(trace(body, torch.zeros(2, 3, *size)), body)


@pytest.mark.parametrize("name", MAPS)
def test_each_resolution_has_its_last_map(name: str) -> None:
    body, maps = maps_of(name, (128, 96))
    assert [(each.stride, each.channels) for each in maps] == MAPS[name]
    found = Encoder(body, maps)(torch.rand(2, 3, 128, 96))
    assert [tuple(each.shape) for each in found] == [
        (2, channels, 128 // stride, 96 // stride) for stride, channels in MAPS[name]
    ]
    assert not any(module._forward_hooks for module in body.modules())


def test_tokens_become_a_map_without_the_class_token() -> None:
    size = load_model("timm:test_vit", pretrained=False).input.size
    body, (found,) = maps_of("timm:test_vit", size)
    assert (found.layout, found.prefix) == (TOKENS, 1)
    (map_of,) = Encoder(body, (found,))(torch.rand(2, 3, *size))
    assert map_of.shape == (2, found.channels, *(side // found.stride for side in size))


def test_each_layout_gives_the_same_map() -> None:
    wanted = torch.rand(2, 5, 4, 3)
    for layout, value, prefix in (
        (FIRST, wanted, 0),
        (LAST, wanted.permute(0, 2, 3, 1), 0),
        (TOKENS, torch.cat([torch.zeros(2, 1, 5), wanted.flatten(2).transpose(1, 2)], 1), 1),
    ):
        assert torch.equal(FeatureMap("x", 8, 5, layout, prefix).of(value, 32, 24), wanted)


def test_padding_repeats_the_edges() -> None:
    image = torch.rand(1, 3, 30, 33)
    padded = padded_to(image, 32)
    assert padded.shape == (1, 3, 32, 64)
    assert torch.equal(padded[..., :30, :33], image)
    assert torch.equal(padded[..., 31, :33], image[..., 29, :])
    assert padded_to(padded, 32) is padded


@pytest.mark.parametrize(
    ("name", "options", "strides"),
    [
        ("timm:levit_128s", {}, (2, 4, 8, 16, 32, 56)),
        ("timm:cait_xxs24_224", {"depth": 2}, (16,)),
    ],
)
def test_grids_of_tokens_have_the_aspect_of_the_image(
    name: str, options: dict[str, int], strides: tuple[int, ...]
) -> None:
    """Maps with channels last show them too; four heads of attention do not."""
    size = (224, 224)
    body = create_body(load_model(name, pretrained=False, **options).model, size=size).eval()
    maps = find_maps(trace(body, torch.zeros(2, 3, *size)), body)
    assert tuple(each.stride for each in maps) == strides
    found = Encoder(body, maps)(torch.rand(1, 3, *size))
    assert [each.shape[2] for each in found] == [224 // stride for stride in strides]
