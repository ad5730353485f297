"""Grad-CAM looks at the right place of any network, says what spoke, and changes nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.laws.models import TinyResNet, TinyTransformer, image
from tests.laws.test_8_looking_changes_nothing import differences, model_state, surroundings
from tests.reports.looked_at import squares
from tests.reports.readable import assert_readable
from timm.models import VisionTransformer
from torch import Tensor, nn

from layergroups import LayerGroups, load_model
from layergroups.errors import AnatomyError, LayerGroupsError
from layergroups.reports import HeatMap
from layergroups.reports._grad_cam import Place, explained, grad_cam


def trained(model: nn.Module, steps: int, lr: float = 2e-3) -> nn.Module:
    """To tell the colour of a square."""
    optimizer = torch.optim.AdamW(model.parameters(), lr)
    model.train()
    for step in range(steps):
        x, y, _ = squares(step)
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def transformer(**options: Any) -> nn.Module:
    """One whose norms come first, as those of timm do."""
    return VisionTransformer(
        img_size=48, patch_size=8, embed_dim=32, num_heads=2, num_classes=3, **options
    )


def answering(model: TinyResNet) -> TinyResNet:
    """For every class some channels speak, so that no heat map is empty."""
    with torch.no_grad():
        model.fc.weight.abs_()
        model.fc.weight[::2] *= torch.linspace(0, 2, model.fc.in_features)
    return model


def hits(model: nn.Module) -> float:
    """Part of the images in which most heat for the class lies in the quarter with the square."""
    x, y, quarters = squares(999, 60)
    assert (model(x).argmax(1) == y).float().mean() > 0.9
    maps = grad_cam(model, x, y)
    assert maps.shape == (60, 48, 48)
    assert float(maps.min()) >= 0
    assert float(maps.max()) == 1
    heat = nn.functional.avg_pool2d(maps[:, None], 24).flatten(1)
    return float((heat.argmax(1) == quarters).float().mean())


def test_the_heat_lies_where_the_class_is_decided() -> None:
    torch.manual_seed(0)
    assert hits(trained(TinyResNet(width=8, blocks=1), 30, 5e-3)) > 0.9  # 0.25 is chance


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "least"),
    [({"global_pool": "avg", "class_token": False}, 0.7), ({"class_token": True}, 0.5)],
)
def test_so_it_does_for_tokens(options: dict[str, Any], least: float) -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        found.append(hits(trained(transformer(depth=2, **options), 120)))
    assert sum(found) / 2 > least


def find_place(model: nn.Module, images: Tensor) -> Place:
    return explained(model, images)[1]


PLACES = {
    "resnet18": Place("layer4.1", "NCHW", (2, 2)),
    "mobilenet_v3_small": Place("features.12.2", "NCHW", (2, 2)),
    "timm:efficientnet_lite0": Place("bn2", "NCHW", (2, 2)),
    "timm:convnext_atto": Place("stages.3.blocks.1", "NCHW", (2, 2)),
    "timm:test_vit": Place("blocks.5.norm1", "NTC", (10, 10), 1),
}


@pytest.mark.parametrize("arch", PLACES)
def test_places_in_known_networks(arch: str) -> None:
    side = 160 if "vit" in arch else 64
    model = load_model(arch, pretrained=False).model
    assert find_place(model, torch.randn(1, 3, side, side)) == PLACES[arch]
    maps = grad_cam(model, torch.randn(2, 3, side, side))
    assert maps.shape == (2, side, side)
    assert bool(torch.isfinite(maps).all())


MORE = {
    "densenet121": Place("features.norm5", "NCHW", (2, 2)),
    "googlenet": Place("inception5b", "NCHW", (2, 2)),
    "vgg11_bn": Place("avgpool", "NCHW", (7, 7)),
    "swin_t": Place("norm", "NHWC", (2, 2)),
    "timm:deit_tiny_distilled_patch16_224": Place("blocks.11.norm1", "NTC", (14, 14), 2),
    "timm:vit_dwee_patch16_reg1_gap_256": Place("blocks.13", "NTC", (16, 16), 1),
    "timm:cait_xxs24_224": Place("blocks.23", "NTC", (14, 14)),
    "timm:swin_tiny_patch4_window7_224": Place("norm", "NHWC", (7, 7)),
    "timm:pvt_v2_b0": Place("stages.3.norm", "NTC", (2, 2)),
    "timm:eva02_tiny_patch14_224": Place("norm", "NTC", (16, 16), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", MORE)
def test_places_in_more_networks(arch: str) -> None:
    model = load_model(arch, pretrained=False).model
    fixed = {"vit": 224, "deit": 224, "cait": 224, "swin_tiny": 224, "eva": 224, "dwee": 256}
    side = next((n for word, n in reversed(fixed.items()) if word in arch), 64)
    assert find_place(model, torch.randn(1, 3, side, side)) == MORE[arch]


@pytest.mark.slow
def test_networks_of_transformers() -> None:
    from transformers import (
        SwinConfig,
        SwinForImageClassification,
        ViTConfig,
        ViTForImageClassification,
    )

    small: dict[str, Any] = {"image_size": 64, "num_labels": 3}
    vit = ViTForImageClassification(
        ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, patch_size=16,
                  intermediate_size=64, **small)
    )  # fmt: skip
    place = find_place(vit, torch.randn(1, 3, 64, 64))
    assert (place.layout, place.grid, place.prefix) == ("NTC", (4, 4), 1)
    assert grad_cam(vit, torch.randn(2, 3, 64, 64)).shape == (2, 64, 64)
    swin = SwinForImageClassification(
        SwinConfig(embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, **small)
    )
    place = find_place(swin, torch.randn(1, 3, 64, 64))
    assert (place.layout, place.grid, place.prefix) == ("NTC", (8, 8), 0)


def test_images_need_not_be_square() -> None:
    model = TinyResNet(width=4, blocks=1)
    assert find_place(model, torch.randn(1, 3, 64, 32)).grid == (8, 4)
    assert grad_cam(model, torch.randn(1, 3, 64, 32)).shape == (1, 64, 32)


@pytest.mark.parametrize("standing", ["as made", "in training", "frozen", "a group frozen"])
@pytest.mark.parametrize("kind", [TinyResNet, TinyTransformer])
def test_it_changes_nothing(kind: type[nn.Module], standing: str) -> None:
    model = kind()
    if standing == "frozen":
        model.requires_grad_(False)
    if standing == "a group frozen":
        LayerGroups(model, 2, example_input=image()).freeze()
    if standing == "in training":
        model(image()).sum().backward()
    model.train(standing != "as made")
    images = image()
    before = model_state(model), surroundings()
    first = grad_cam(model, images)
    assert differences(before, (model_state(model), surroundings())) == []
    assert first.shape == (2, 32, 32)


def test_frozen_or_not_it_is_the_same() -> None:
    model, images = answering(TinyResNet()), image()
    first = grad_cam(model, images, 1)
    assert first.max() == 1
    assert torch.equal(first, grad_cam(model, images, torch.tensor([1, 1])))
    model.requires_grad_(False).train()
    with torch.no_grad():
        assert torch.equal(first, grad_cam(model, images, [1, 1]))
    with torch.inference_mode():
        assert torch.equal(first, grad_cam(model, images, 1))
    assert torch.allclose(first[1:], grad_cam(model, images[1:], 1), atol=1e-5)


def test_each_image_may_have_a_target_of_its_own() -> None:
    model, images = answering(TinyResNet()), image()
    both = grad_cam(model, images, [0, 2])
    assert torch.allclose(both[0], grad_cam(model, images, 0)[0], atol=1e-5)
    assert torch.allclose(both[1], grad_cam(model, images, 2)[1], atol=1e-5)
    likeliest = copy.deepcopy(model).eval()(images).argmax(1)
    assert torch.equal(grad_cam(model, images), grad_cam(model, images, likeliest))


def test_it_is_grad_cam_as_published() -> None:
    """The gradient of the score, averaged, weighs the channels of the last map."""
    model, images = answering(TinyResNet(width=4, blocks=1)).eval(), image()
    given = model.layer3(model.layer2(model.layer1(model.stem(images))))
    scores = model.fc(model.pool(given).flatten(1))
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), given)
    small = (gradient.mean((2, 3), keepdim=True) * given).sum(1, keepdim=True).relu()
    large = nn.functional.interpolate(small, size=(32, 32), mode="bilinear")[:, 0].detach()
    wanted = large / large.amax((1, 2), keepdim=True)
    assert torch.allclose(grad_cam(model, images, 1), wanted, atol=1e-5)


class InPlace(nn.Module):
    """Works in place on what its last block gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        x += 1
        return self.fc(x.relu_().mean((2, 3)))


def test_what_comes_next_may_work_in_place() -> None:
    assert find_place(InPlace(), image()).path == "conv"
    assert grad_cam(InPlace(), image()).shape == (2, 32, 32)


class Deaf(nn.Module):
    """Its head hears nothing of the body that could be differentiated."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).mean((2, 3)).detach())


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 4), nn.ReLU(), nn.Linear(4, 2)), "no block"),
        (
            nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.Flatten(2)),
            r"\(2, 2, 900\)",
        ),
        (Deaf(), "not differentiable"),
    ],
)
def test_where_it_cannot_it_says_why(model: nn.Module, words: str) -> None:
    with pytest.raises(AnatomyError, match=words):
        grad_cam(model, image())


@pytest.mark.parametrize(
    ("images", "target", "words"),
    [
        ("a.jpg", None, r"learn\.grad_cam"),
        (torch.zeros(3, 32, 32), None, r"\(3, 32, 32\)"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.uint8), None, "uint8"),
        (torch.zeros(0, 3, 32, 32), None, "at least one image"),
        (torch.zeros(2, 3, 32, 32), 3, "from 0 to 2"),
        (torch.zeros(2, 3, 32, 32), -1, "from 0 to 2"),
        (torch.zeros(2, 3, 32, 32), 1.5, "target=1.5"),
        (torch.zeros(2, 3, 32, 32), "cat", "target='cat'"),
        (torch.zeros(2, 3, 32, 32), [0, 1, 2], "or 2 of them"),
    ],
)
def test_mistakes_are_answered(images: Any, target: Any, words: str) -> None:
    with pytest.raises(LayerGroupsError, match=words):
        grad_cam(TinyResNet(width=4, blocks=1), images, target)


def test_the_heat_map_of_one_photo(learn: Any, tmp_path: Path) -> None:
    file = learn.dls.valid_images.files[0]
    found = learn.grad_cam(file, path=tmp_path / "cam.png")
    assert isinstance(found, HeatMap)
    assert found.heat.shape == found.pixels.shape[:2] == (32, 32)
    said = learn.predict(file)
    assert (found.target, found.predicted) == (said.label, said.label)
    assert found.probability == pytest.approx(float(said.probabilities.max()))
    assert (tmp_path / "cam.png").stat().st_size > 1000
    by_name, by_number = learn.grad_cam(file, "dog"), learn.grad_cam(Image.open(file), 1)
    assert by_name.target == by_number.target == "dog"
    assert torch.allclose(by_name.heat, by_number.heat, atol=1e-3)
    assert_readable(found.plot())


def test_a_notebook_shows_a_heat_map_of_any_name(learn: Any) -> None:
    found = learn.grad_cam(torch.rand(3, 32, 32))
    named = HeatMap(found.heat, found.pixels, '"><script>', "$x_{", 0.5, "0")
    assert named._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize("target", ["cow", 2, -1, 1.5, True])
def test_classes_that_are_not_there(learn: Any, target: Any) -> None:
    with pytest.raises(LayerGroupsError, match="the classes 'cat', 'dog'"):
        learn.grad_cam(torch.rand(3, 32, 32), target)
