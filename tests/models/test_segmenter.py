"""Encoders, decoders and padding: masks of the image's size from networks of every design."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from layergroups.errors import InputSizeError, ModelError
from layergroups.models import Segmenter, assemble_segmenter, load_model

SMALL = (
    ("torchvision:resnet18", (2, 4, 8, 16, 32)),
    ("torchvision:mobilenet_v3_small", (2, 4, 8, 16, 32)),
    ("torchvision:squeezenet1_1", (2, 4, 8, 16)),
    ("timm:convnext_atto", (4, 8, 16, 32)),
    ("timm:mobilenetv4_conv_small", (2, 4, 8, 16, 32)),  # a norm with an activation after the maps
)


def segmenter(name: str, size: tuple[int, int] = (72, 100), **options: object) -> Segmenter:
    made = assemble_segmenter(load_model(name, pretrained=False), 4, size=size, **options)  # type: ignore[arg-type] # of any type
    assert isinstance(made.model, Segmenter)
    return made.model.eval()


@pytest.mark.parametrize(("name", "strides"), SMALL)
def test_the_maps_are_found_and_the_mask_has_the_size_of_the_image(
    name: str, strides: tuple[int, ...]
) -> None:
    model = segmenter(name)
    decoder = model[1][0]
    assert (decoder.strides, decoder.stride) == ((1, *strides), 1)  # the image is a map too
    assert model(torch.rand(2, 3, 72, 100)).shape == (2, 4, 72, 100)


def test_the_last_step_of_a_unet_reads_the_image() -> None:
    encoder, head = segmenter("timm:test_resnet")
    maps = encoder(torch.rand(1, 3, 64, 96))
    other = [torch.rand_like(maps[0]), *maps[1:]]
    assert not torch.equal(head[0](maps), head[0](other))


def test_every_layer_of_body_and_decoder_gets_a_gradient() -> None:
    model = segmenter("timm:convnext_atto").train()
    model(torch.rand(2, 3, 64, 96)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


def test_a_vision_transformer_gets_a_plain_decoder() -> None:
    loaded = load_model("timm:test_vit", pretrained=False)
    size = loaded.input.size
    model = assemble_segmenter(loaded, 4, size=size).model
    assert model[1][0].kind == "plain"
    assert model.eval()(torch.rand(2, 3, *size)).shape == (2, 4, *size)
    with pytest.raises(ModelError, match=r'decoder="unet" or "plain"'):
        assemble_segmenter(loaded, 4, size=size, decoder="fpn")


def test_sizes_that_a_vision_transformer_cannot_take_are_padded() -> None:
    loaded = load_model("timm:test_vit", pretrained=False, dynamic_img_size=True)
    model = assemble_segmenter(loaded, 4, size=(50, 70)).model.eval()
    assert model(torch.rand(2, 3, 50, 70)).shape == (2, 4, 50, 70)


def test_the_size_that_a_network_was_trained_with_is_offered() -> None:
    loaded = load_model("timm:vit_tiny_patch16_224", pretrained=False, img_size=(528, 528))
    with pytest.raises(InputSizeError, match=r"takes 528: .*img_size=\(96, 64\)"):
        assemble_segmenter(loaded, 4, size=(96, 64))


def test_dpt_reads_blocks_of_a_vision_transformer() -> None:
    size = (144, 144)  # nine patches a side: the decoder halves maps, so it pads them
    loaded = load_model("timm:test_vit", pretrained=False, img_size=size)
    made = assemble_segmenter(loaded, 4, size=size, decoder="dpt", widths=(16,))
    assert [each.path for each in made.cut.maps] == ["blocks.0", "blocks.2", "blocks.3", "norm"]
    scores = made.model.train()(torch.rand(2, 3, *size))
    assert scores.shape == (2, 4, *size)
    scores.square().mean().backward()
    assert [name for name, p in made.model.named_parameters() if p.grad is None] == []
    with pytest.raises(ModelError, match=r"four blocks or more of one resolution"):
        segmenter("timm:test_resnet", decoder="dpt")


@pytest.mark.parametrize("decoder", ["unet", "fpn", "deeplabv3+", "plain"])
def test_each_decoder_reads_the_maps(decoder: str) -> None:
    assert segmenter("timm:test_resnet", decoder=decoder)(torch.rand(1, 3, 72, 100)).shape[1:] == (
        4, 72, 100,
    )  # fmt: skip


def test_padding_does_not_move_the_image() -> None:
    """Scores of an image whose sides need no padding are the same in a larger, padded one."""
    model = segmenter("timm:test_resnet", decoder="plain", widths=(8,))
    nn.init.constant_(model[1][1].bias, 1.0)
    image = torch.rand(1, 3, 64, 64)
    cropped = image[..., :60, :50]
    found = model(cropped)
    assert found.shape == (1, 4, 60, 50)
    assert torch.allclose(found[..., :8, :8], model(image)[..., :8, :8], atol=0.2)


def test_an_unknown_decoder_and_a_network_without_maps_are_refused() -> None:
    with pytest.raises(ModelError, match="unet"):
        segmenter("timm:test_resnet", decoder="u-net")
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8))
    with pytest.raises(ModelError, match="no feature maps"):
        assemble_segmenter(load_model(flat), 4, size=32)
    with pytest.raises(ModelError, match="does not run without the layers after"):
        segmenter("timm:crossvit_9_240", (240, 240))
