"""Other numbers of input channels: weights adapted, models told, groups in step."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.laws.models import TinyResNet, TinyTransformer, image, run
from torch import Tensor, nn

from layergroups import LayerGroups
from layergroups.errors import ModelError
from layergroups.models import assemble, change_input_channels, load_model
from layergroups.models._input_channels import adapted_weight


@settings(max_examples=40, deadline=None)
@given(before=st.integers(1, 6), after=st.integers(1, 9), double=st.booleans())
def test_equal_channels_give_what_they_gave(before: int, after: int, double: bool) -> None:
    dtype = torch.float64 if double else torch.float32
    weight = torch.randn(4, 1, 3, 3, dtype=dtype).expand(4, before, 3, 3)
    grey = torch.rand(2, 1, 8, 8, dtype=dtype)
    old = nn.functional.conv2d(grey.expand(2, before, 8, 8), weight)
    new = nn.functional.conv2d(grey.expand(2, after, 8, 8), adapted_weight(weight, after))
    assert new.dtype == dtype
    torch.testing.assert_close(new, old, rtol=1e-4, atol=1e-4)  # sums of up to 81 products


def test_the_channels_come_in_a_cycle() -> None:
    weight = torch.arange(3.0).view(1, 3, 1, 1)
    assert adapted_weight(weight, 5).flatten().tolist() == pytest.approx([0, 0.6, 1.2, 0, 0.6])
    assert adapted_weight(weight, 2).flatten().tolist() == [0, 1.5]
    assert adapted_weight(weight, 1).flatten().tolist() == [3]


@pytest.mark.parametrize("make", [TinyResNet, TinyTransformer])
def test_a_grey_image_gives_what_three_equal_channels_gave(make: Any) -> None:
    model = make().eval()
    grey = torch.rand(2, 1, 32, 32)
    before = model(grey.expand(2, 3, 32, 32))
    change = change_input_channels(model, 1, example_input=image())
    assert (change.before, change.after) == (3, 1)
    torch.testing.assert_close(model(grey), before)
    assert "summed" in str(change)
    assert json.loads(json.dumps(change.to_dict()))["after"] == 1


def test_what_takes_no_image_says_so() -> None:
    with pytest.raises(ModelError, match="takes no image"):
        change_input_channels(nn.Linear(4, 2), 1)


def test_groups_and_optimizer_follow(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(run(3, 8), run(8, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.append(nn.Linear(8, 3))
    groups = LayerGroups(model, example_input=image())
    optimizer = torch.optim.SGD(groups.param_groups(lr=0.1))
    groups.attach(optimizer)
    groups.freeze()
    assert change_input_channels(model, 4, example_input=image()).paths == ("0.0",)
    assert model[0][0].in_channels == 4
    change = groups.sync()
    assert change is not None
    assert change.added == (("0.0.weight", groups.names[0]),)
    assert "cannot be run" not in caplog.text
    assert groups.anatomy.source == "fake run"
    assert not model[0][0].weight.requires_grad
    assert any(p is model[0][0].weight for g in optimizer.param_groups for p in g["params"])
    assert model(torch.randn(2, 4, 32, 32)).shape == (2, 3)


def test_an_assembled_model_of_body_and_head() -> None:
    assembled = assemble(load_model("timm:test_resnet", pretrained=False), 3, size=(64, 64))
    change = change_input_channels(assembled.model, 2)
    assert all(path.startswith("0.") for path in change.paths)
    assert assembled.model.eval()(torch.zeros(2, 2, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("arch", ["test_vit", "test_resnet", "test_nfnet", "test_byobnet"])
def test_models_of_timm_are_as_if_made_for_these_channels(arch: str) -> None:
    model = timm.create_model(arch, num_classes=3).eval()
    shared = dict(model.pretrained_cfg)
    change_input_channels(model, 5)
    assert model.pretrained_cfg["input_size"][0] == 5
    assert timm.create_model(arch).pretrained_cfg["input_size"] == shared["input_size"]
    made = timm.create_model(arch, num_classes=3, in_chans=5).eval()
    made.load_state_dict(model.state_dict())
    x = torch.randn(2, *model.pretrained_cfg["input_size"])
    torch.testing.assert_close(model(x), made(x))
    LayerGroups(model)  # the example input that it tells of fits again


def test_as_many_channels_as_before_change_nothing() -> None:
    model = TinyResNet()
    weight = model.stem[0].weight
    assert change_input_channels(model, 3, example_input=image()).how == "unchanged"
    assert model.stem[0].weight is weight


def test_a_model_that_counts_on_its_channels_elsewhere_stays_as_it_was() -> None:
    model = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=False)
    model.transform_input = True
    layer, weight = model.conv1.conv, model.conv1.conv.weight
    with pytest.raises(ModelError, match="transform_input = False"):
        change_input_channels(model, 1)
    assert layer.weight is weight
    assert layer.in_channels == 3
    model.transform_input = False
    assert change_input_channels(model, 1).paths == ("conv1.conv",)


class Patches(nn.Module):
    """Cuts images into patches by hand; a linear layer takes them."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(3 * 64, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.unfold(x, 8, stride=8).transpose(1, 2)
        return self.head(self.project(x).mean(1))


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Patches(), "channel dimension"),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3)), "batch_norm"),
        (nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 2, 1)), "several groups"),
        (nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 2, 3)), "different layout"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 2)), "channel dimension"),
        (
            nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 2, 3))),
            "computed from others",
        ),
    ],
)
def test_what_cannot_be_adapted_is_named(model: nn.Module, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        change_input_channels(model, 1, example_input=image())


@pytest.mark.parametrize("channels", [0, -1, 1.5, True, None])
def test_an_image_has_channels(channels: Any) -> None:
    with pytest.raises(ModelError, match="channels="):
        change_input_channels(TinyResNet(), channels, example_input=image())


@pytest.mark.slow
def test_models_of_transformers_are_told() -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        image_size=32, patch_size=8,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    grey = torch.rand(2, 1, 32, 32)
    before = model(grey.expand(2, 3, 32, 32)).logits
    change_input_channels(model, 1)
    assert model.config.num_channels == 1
    torch.testing.assert_close(model(grey).logits, before)


def test_in_a_frozen_group_the_new_weight_rests_and_thaws_with_it() -> None:
    model = load_model("timm:test_resnet", pretrained=False).model
    groups = LayerGroups(model)
    groups.freeze_to(-1)
    change_input_channels(model, 1)
    change = groups.sync()
    assert change is not None
    assert not change.fixed
    assert not model.conv1[0].weight.requires_grad
    groups.unfreeze()
    assert model.conv1[0].weight.requires_grad


def test_a_weight_that_a_hand_has_fixed_stays_fixed() -> None:
    model = load_model("timm:test_resnet", pretrained=False).model
    model.conv1[0].weight.requires_grad_(False)
    change_input_channels(model, 1)
    assert not model.conv1[0].weight.requires_grad
