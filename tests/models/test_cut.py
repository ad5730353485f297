"""Bodies that lose nothing, and the model that fact 1 and 2 of fastai's users name."""

from __future__ import annotations

from types import NoneType

import pytest
import torch
import torchvision
from tests.laws.models import TinyResNet
from tests.models.pictures import assert_same_picture, picture
from torch import Tensor, nn

from layergroups.errors import CutError, GroupingError, InputSizeError, LayerGroupsError
from layergroups.models import AdaptiveConcatPool2d, apply_cut, assemble, create_body, load_model
from layergroups.models._cut import Assembled


def made(name: str, n_out: int = 2, size: int = 64, **options: object) -> Assembled:
    return assemble(load_model(name, pretrained=False), n_out, size=size, **options)


def test_fact_1_the_model_of_resnet18() -> None:
    body, head = made("torchvision:resnet18").model
    assert [name for name, _ in body.named_children()] == [
        "conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4",
    ]  # fmt: skip
    kinds = [AdaptiveConcatPool2d, nn.Flatten, nn.BatchNorm1d, nn.Dropout, nn.Linear, nn.ReLU,
             nn.BatchNorm1d, nn.Dropout, nn.Linear]  # fmt: skip
    assert [type(m) for m in head] == kinds
    assert [name for name, _ in head[0].named_children()] == ["ap", "mp"]
    assert (head[2].num_features, head[3].p, head[6].num_features, head[7].p) == (
        1024, 0.25, 512, 0.5,
    )  # fmt: skip
    assert head[4].weight.shape == (512, 1024)
    assert head[4].bias is not None
    assert head[8].weight.shape == (2, 512)


def test_fact_2_the_classic_groups_of_resnet18() -> None:
    groups = made("torchvision:resnet18").layer_groups("classic")
    assert [len(g.layers) for g in groups] == [26, 24, 10]
    assert groups[0].layers[-1] is groups.model[0].layer2[-1].bn2
    first = groups[1].layers[0]
    assert isinstance(first, nn.Conv2d)
    assert (first.in_channels, first.out_channels, first.stride) == (128, 256, (2, 2))
    assert [type(m).__name__ for m in groups[2].layers][:3] == [
        "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "Flatten",
    ]  # fmt: skip


def test_a_map_of_one_pixel_is_still_a_map() -> None:
    assembled = made("torchvision:resnet18", size=32)
    assert not assembled.pooled
    assert len(assembled.model[0]) == 8
    assert [len(g.layers) for g in assembled.layer_groups("classic")] == [26, 24, 10]


CLASSIC = [
    ("resnet34", "layer3"),
    pytest.param("resnet50", "layer3", marks=pytest.mark.slow),
    ("vgg11_bn", "features.22"),
    pytest.param("vgg16_bn", "features.22", marks=pytest.mark.slow),
    pytest.param("vgg19_bn", "features.22", marks=pytest.mark.slow),
    ("densenet121", "features.denseblock3"),
    ("squeezenet1_1", "features.5"),
    ("alexnet", "features.6"),
    ("mobilenet_v2", "features.10"),
]


@pytest.mark.parametrize(("name", "place"), CLASSIC)
def test_fact_2_the_classic_table(name: str, place: str) -> None:
    groups = made(name).layer_groups("classic")
    features = groups.model[0]
    index = {"densenet121": 7}.get(name)
    container = dict(features.named_modules())
    expected = container[place] if index is None else list(features.features.children())[index]
    inside = {id(m) for m in expected.modules()}
    assert len(groups) == 3
    first = next(m for m in groups[1].layers)
    assert id(first) in inside
    assert not any(id(m) in inside for m in groups[0].layers)


def test_a_split_names_modules_as_the_network_does() -> None:
    assembled = made("resnet18")
    groups = assembled.layer_groups(["layer2", "0.layer4", "1"])
    assert groups.names == assembled.layer_groups(["0.layer2", "0.layer4", "1"]).names
    assert groups[1].layers[0] is assembled.model[0].layer2[0].conv1
    with pytest.raises(GroupingError, match="layer9"):
        assembled.layer_groups(["layer9"])


def test_the_older_table_of_squeezenet_has_two_splits() -> None:
    assert len(made("squeezenet1_1").layer_groups("classic-v1")) == 4


def test_networks_outside_the_classic_table_say_so() -> None:
    with pytest.raises(GroupingError, match="no split for SwinTransformer"):
        made("swin_t").layer_groups("classic")


FACT_4 = [
    "mobilenet_v2", "swin_t", "squeezenet1_1", "vit_b_16",
    *(pytest.param(n, marks=pytest.mark.slow) for n in ("convnext_tiny", "efficientnet_b0")),
]  # fmt: skip


@pytest.mark.parametrize("name", FACT_4)
def test_fact_4_no_cut_is_needed(name: str) -> None:
    size = 224 if name == "vit_b_16" else 64
    assembled = made(name, 10, size)
    groups = assembled.layer_groups()
    assert groups.names == ("early", "late", "head")
    groups.freeze()
    assert {n for n, p in groups.model.named_parameters() if p.requires_grad} == {
        n for n, _ in groups.model.named_parameters() if n.startswith("1.")
    }
    assembled.model.eval()
    with torch.no_grad():
        assert assembled.model(torch.randn(2, 3, size, size)).shape == (2, 10)


# what the old classifier received must be what the body gives, pooled as the network pooled it
SAME_FEATURES = [
    ("resnet18", "fc"),
    ("mobilenet_v2", "classifier.1"),
    ("densenet121", "classifier"),
    pytest.param("convnext_tiny", "classifier.2", marks=pytest.mark.slow),
    ("mobilenet_v3_small", "classifier.3"),
    pytest.param("efficientnet_b0", "classifier.1", marks=pytest.mark.slow),
    ("swin_t", "head"),
    ("shufflenet_v2_x0_5", "fc"),
    ("timm:tf_efficientnet_lite0", "classifier"),
    pytest.param("timm:vgg11", "head.fc", marks=pytest.mark.slow),
    ("timm:mobilenetv3_small_100", "classifier"),
    ("timm:vit_tiny_patch16_224", "head"),
]


@pytest.mark.parametrize(("name", "classifier"), SAME_FEATURES)
def test_the_body_keeps_the_pretrained_features(name: str, classifier: str) -> None:
    torch.manual_seed(1)
    size = 224 if "vit" in name else 64
    loaded = load_model(name, pretrained=False)
    network = loaded.model.eval()
    seen: list[Tensor] = []
    hook = network.get_submodule(classifier).register_forward_pre_hook(
        lambda m, args: seen.append(args[0].flatten(1))
    )
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        network(x)
        hook.remove()
        assembled = assemble(loaded, 2, size=size)
        given = assembled.model[0].eval()(x)
    pooled = given if given.ndim == 2 else given.mean((2, 3))
    assert torch.allclose(pooled, seen[0], atol=1e-5)


def test_layers_replaced_together_with_the_classifier_are_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assembled = made("vgg11")
    assert assembled.cut.removed == ("classifier.6", "classifier.3", "classifier.0")
    assert "classifier.3, classifier.0" in caplog.text


def test_cut_by_index_by_name_and_by_function() -> None:
    by_index = made("mobilenet_v2", cut=-1)
    by_name = made("mobilenet_v2", cut="classifier")
    assert by_index.cut.children == by_name.cut.children == ("features",)
    by_function = made("mobilenet_v2", cut=lambda network: network.features[:7])
    assert by_function.features == 32
    shallow = made("resnet18", cut=6)
    assert shallow.features == 128


def test_cut_by_the_path_of_a_module_inside_a_child() -> None:
    assembled = made("mobilenet_v2", cut="features.7")
    assert assembled.features == 32
    assert len(assembled.model[0].features) == 7
    assert [name for name, _ in made("resnet18", cut="layer2.1").model[0].named_children()][-1] == (
        "layer2"
    )
    with pytest.raises(CutError, match="only a Sequential"):
        made("resnet18", cut="layer2.1.conv2")
    with pytest.raises(CutError, match="the children of Sequential are 0: 0, 1: 1"):
        made("resnet18", cut="layer2.9")


def test_a_cut_that_is_impossible_tells_the_children_and_the_way_out() -> None:
    with pytest.raises(CutError, match=r"the children of ResNet are 0: conv1, 1: bn1"):
        made("resnet18", cut="layer9")
    with pytest.raises(CutError, match=r"leaves nothing .* cut=-1 keeps all but the last"):
        made("resnet18", cut=0)
    with pytest.raises(CutError, match=r"cannot run.*Leave cut= out"):
        made("vit_b_16", size=224, cut=-1)


def test_a_size_that_the_network_cannot_take_is_refused_with_those_that_it_can() -> None:
    with pytest.raises(InputSizeError, match=r"cannot take images of 160×160 pixels; it takes 224"):
        made("vit_b_16", size=160)


def test_a_module_of_ones_own_and_a_head_of_ones_own() -> None:
    network = torchvision.models.resnet18(weights=None)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 4))
    assembled = assemble(load_model(network), 4, size=64, custom_head=head)
    assert assembled.model[1] is head
    assert assembled.layer_groups()["head"].layers[-1] is head[2]


def test_create_body_gives_the_body_alone() -> None:
    body = create_body(torchvision.models.resnet18(weights=None))
    assert body(torch.zeros(2, 3, 64, 64)).shape == (2, 512, 2, 2)


def test_a_body_that_gives_tokens_gets_a_head_that_pools_them() -> None:
    class Tokens(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> Tensor:
            return self.network.forward_features(x)

    assembled = made("timm:test_vit", 4, 160, cut=Tokens)
    assert not assembled.pooled
    assembled.model.eval()
    with torch.no_grad():
        assert assembled.model(torch.randn(3, 3, 160, 160)).shape == (3, 4)
    assert assembled.layer_groups().names[-1] == "head"


def test_several_classifiers_are_taken_out_together() -> None:
    assembled = made("timm:deit_tiny_distilled_patch16_224", 4, 224)
    assert assembled.cut.removed == ("head", "head_dist")
    assert assembled.pooled


class NoBody(nn.Module):
    """It counts on its three classes, so it does not run without its classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.fc = nn.Conv2d(3, 8, 3, 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.stem(x).mean((2, 3)).tanh() + 1).view(len(x), 3)


class Aliased(nn.Module):
    """The classifier runs under a name that is registered second."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3, 2), "fc": nn.Linear(8, 3)})
        self.outer = self.inner
        self.run = self.steps

    def steps(self, x: Tensor) -> Tensor:
        return self.outer["fc"](self.outer["stem"](x).mean((2, 3)).tanh() + 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


NETWORKS = {
    "chain": (lambda: torchvision.models.resnet18(weights=None), 64),
    "whole": (lambda: load_model("timm:test_vit", pretrained=False).model, 160),
    "reset": (lambda: load_model("timm:deit_tiny_distilled_patch16_224", pretrained=False).model,
              224),
    "constructed from back to front": (TinyResNet, 64),
    "under two names": (Aliased, 32),
}  # fmt: skip


@pytest.mark.parametrize("kind", NETWORKS)
def test_create_body_leaves_the_network_as_it_is(kind: str) -> None:
    make, size = NETWORKS[kind]
    network = make().eval()
    x = torch.randn(2, 3, size, size)
    before = picture(network, x)
    body = create_body(network, size=size)
    with torch.no_grad():
        assert body(x).shape[1] not in (3, 1000)  # features, not classes
    assert_same_picture(picture(network, x), before)
    shared = {id(p) for p in network.parameters()}
    assert all(id(p) in shared for p in body.parameters())
    assert len(list(body.parameters())) < len(shared)


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (NoBody, {}),
        (NETWORKS["whole"][0], {"cut": -1, "size": 160}),
        (NETWORKS["whole"][0], {"cut": lambda network: nn.Flatten(0), "size": 160}),
        (NETWORKS["chain"][0], {"cut": "layer9"}),
    ],
)
def test_a_failing_create_body_leaves_the_network_as_it_is(make, options) -> None:
    network = make().eval()
    x = torch.randn(2, 3, 160, 160)
    before = picture(network, x)
    with pytest.raises(LayerGroupsError):
        create_body(network, **{"size": 64, **options})
    assert_same_picture(picture(network, x), before)


def test_the_channels_of_a_body_are_found_by_running() -> None:
    class Stereo(nn.Module):
        """Two cameras of five channels; the convolution registered first takes 16."""

        def __init__(self) -> None:
            super().__init__()
            self.fc, self.late, self.stem = (
                nn.Linear(8, 3), nn.Conv2d(16, 8, 3), nn.Conv2d(5, 16, 3),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.late(self.stem(x)).mean((2, 3)))

    assert create_body(Stereo(), size=32)(torch.zeros(2, 5, 32, 32)).shape[1] == 8
    given = create_body(Stereo(), example_input=torch.zeros(2, 5, 24, 40))
    assert given(torch.zeros(2, 5, 24, 40)).shape[1] == 8


def test_a_cut_is_applied_again_to_a_network_of_the_same_kind() -> None:
    for make, size in NETWORKS.values():
        torch.manual_seed(0)
        network, again = make().eval(), make().eval()
        again.load_state_dict(network.state_dict())
        assembled = assemble(load_model(network), 2, size=size)
        x = torch.randn(2, 3, size, size)
        with torch.no_grad():
            one, two = assembled.model[0].eval()(x), apply_cut(again, assembled.cut).eval()(x)
        assert torch.equal(one, two)


@pytest.mark.parametrize(
    "cut", [lambda network: network.nothing, lambda network: 1 / 0, lambda network: None]
)
def test_a_cut_function_that_fails_is_explained(cut) -> None:
    with pytest.raises(CutError, match="cut=lambda network: network") as caught:
        create_body(torchvision.models.resnet18(weights=None), cut=cut, size=64)
    assert isinstance(caught.value.__cause__, (AttributeError, ZeroDivisionError, NoneType))
