"""The catalog: names, functions and modules become models, with what their weights expect."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torchvision.transforms import v2

from layergroups.errors import ModelError, UnknownArchitectureError, WeightsError
from layergroups.input_spec import IMAGENET_MEAN, InputSpec
from layergroups.models._catalog import LoadedModel, list_models, load_model

SMALL = "timm:test_resnet.r160_in1k"


def _again(loaded: LoadedModel) -> nn.Module:
    kwargs = json.loads(json.dumps(loaded.kwargs))
    return load_model(loaded.name, pretrained=False, **kwargs).model


def test_torchvision_input_is_that_of_its_weights() -> None:
    with torch.device("meta"):
        found = {n: load_model(n, pretrained=False).input for n in ("resnet50", "efficientnet_b0")}
    assert found["resnet50"] == InputSpec(
        crop_pct=224 / 232, source="torchvision ResNet50_Weights.IMAGENET1K_V2"
    )
    assert found["efficientnet_b0"].interpolation == "bicubic"


def test_timm_input_is_that_of_its_weights_for_the_arguments() -> None:
    lite = load_model("timm:tf_efficientnet_lite0", pretrained=False).input
    vit = load_model("timm:vit_tiny_patch16_224", pretrained=False, img_size=160)
    grey = load_model("timm:resnet18", pretrained=False, in_chans=1).input
    tall = load_model("timm:vit_tiny_patch16_224", pretrained=False, img_size=(160, 96))
    assert (lite.size, lite.mean, lite.std) == ((224, 224), (0.5,) * 3, (0.5,) * 3)
    assert lite.interpolation == "bicubic"
    assert lite.source == "timm tf_efficientnet_lite0.in1k"
    assert (vit.input.size, vit.kwargs) == ((160, 160), {"img_size": 160})
    assert (tall.input.size, tall.kwargs) == ((160, 96), {"img_size": [160, 96]})
    assert grey.mean == (pytest.approx(sum(IMAGENET_MEAN) / 3),)


@pytest.mark.parametrize(
    ("arch", "kwargs"),
    [
        ("timm:vit_tiny_patch16_224", {"img_size": (32, 64), "depth": 1}),
        ("torchvision:squeezenet1_1", {"num_classes": 7}),
        ("torchvision:googlenet", {}),
    ],
)
def test_a_model_can_be_made_again_from_name_and_arguments(
    arch: str, kwargs: dict[str, Any]
) -> None:
    loaded = load_model(arch, pretrained=False, **kwargs)
    again = _again(loaded)
    again.load_state_dict(loaded.model.state_dict(), strict=True)
    size = loaded.input.size if "vit" in arch else (64, 64)
    x = torch.randn(2, 3, *size)
    with torch.inference_mode():
        assert torch.equal(loaded.model.eval()(x), again.eval()(x))


def test_wrong_arguments_are_explained() -> None:
    with pytest.raises(ModelError, match=r"resnet18 cannot be created with depth=3: .*depth"):
        load_model("resnet18", pretrained=False, depth=3)
    with pytest.raises(ModelError, match="cannot be created with global_pool='sum'"):
        load_model(SMALL, pretrained=False, global_pool="sum")
    with pytest.raises(ModelError, match=r"cannot be written as JSON(.|\n)*create the module"):
        load_model("resnet18", pretrained=False, norm_layer=nn.BatchNorm2d)


def test_a_module_is_taken_as_it_is(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2))
    loaded = load_model(module)
    assert loaded.model is module
    assert loaded.name == "module:Sequential"
    assert loaded.input.source == "ImageNet defaults (unknown for a custom module)"
    with pytest.raises(ModelError, match=r"factory arguments.*depth"):
        load_model(module, depth=3)
    ones = {name: torch.ones_like(tensor) for name, tensor in module.state_dict().items()}
    save_file(ones, tmp_path / "ones.safetensors")
    assert load_model(module, weights=tmp_path / "ones.safetensors").pretrained
    assert module[0].weight.eq(1).all()


def test_a_timm_module_brings_its_input() -> None:
    with torch.device("meta"):
        loaded = load_model(timm.create_model("tf_efficientnet_lite0"))
    assert loaded.name == "module:EfficientNet"
    assert loaded.input.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("name", ["torchvision:googlenet", "torchvision:inception_v3"])
def test_auxiliary_classifiers_are_off_and_the_input_is_transformed(name: str) -> None:
    with torch.device("meta"):
        model = load_model(name, pretrained=False).model.train()
        assert isinstance(model(torch.empty(2, 3, 96, 96)), torch.Tensor)
    assert model.transform_input
    with pytest.raises(ModelError, match="aux_logits=True"):
        load_model(name, aux_logits=True)


def test_old_densenet_names_are_understood(tmp_path: Path) -> None:
    source = torchvision.models.densenet121().state_dict()
    old = {
        name.replace(".norm1.", ".norm.1.")
        .replace(".norm2.", ".norm.2.")
        .replace(".conv1.", ".conv.1.")
        .replace(".conv2.", ".conv.2."): tensor
        for name, tensor in source.items()
        if "num_batches" not in name
    }
    assert len(old.keys() - source.keys()) > 100
    save_file(old, tmp_path / "old.safetensors")
    model = load_model("densenet121", weights=tmp_path / "old.safetensors").model
    ours = model.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in source.items())


def test_position_embeddings_of_a_file_are_resized(tmp_path: Path) -> None:
    source = timm.create_model("vit_tiny_patch16_224", depth=1).state_dict()
    save_file(source, tmp_path / "vit.safetensors")
    loaded = load_model(
        "vit_tiny_patch16_224", weights=tmp_path / "vit.safetensors", depth=1, img_size=96
    )
    ours = loaded.model.state_dict()
    assert ours["pos_embed"].shape == (1, 1 + 6 * 6, 192)
    assert torch.equal(ours["pos_embed"][:, 0], source["pos_embed"][:, 0])
    assert torch.equal(ours["blocks.0.attn.qkv.weight"], source["blocks.0.attn.qkv.weight"])
    assert loaded.input.size == (96, 96)
    assert loaded.input.source.endswith("(assumed for file vit.safetensors)")


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="different architecture"):
        load_model("squeezenet1_1", weights=tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match="does not exist"):
        load_model("resnet18", weights=tmp_path / "b.safetensors")


@pytest.mark.parametrize("name", ["mobilenet_v2", "squeezenet1_1"])
def test_real_weights_recognise_real_photos(shared: Path, name: str) -> None:
    file = shared / "data" / "weights" / name / f"{name}.safetensors"
    loaded = load_model(f"torchvision:{name}", weights=file)
    assert loaded.pretrained
    assert loaded.weights == f"file {name}.safetensors"
    photos = sorted((shared / "data/images/clothing_small/valid/pants").glob("*.jpg"))[:12]
    spec = loaded.input
    prepare = v2.Compose(
        [
            v2.PILToTensor(),
            v2.Resize([round(spec.size[0] / spec.crop_pct)], antialias=True),
            v2.CenterCrop(list(spec.size)),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(spec.mean, spec.std),
        ]
    )
    batch = torch.stack([prepare(Image.open(photo).convert("RGB")) for photo in photos])
    labels = torchvision.models.ResNet18_Weights.DEFAULT.meta["categories"]
    with torch.inference_mode():
        found = loaded.model.eval()(batch).argmax(1)
    assert [labels[index] for index in found].count("jean") >= 3  # by chance: one in a thousand


def test_an_entry_of_torchvision_is_taken_as_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import ResNet18_Weights, ResNet34_Weights, resnet18

    state = resnet18(weights=None).state_dict()
    for entry in (ResNet18_Weights.DEFAULT, ResNet18_Weights.IMAGENET1K_V1):
        with monkeypatch.context() as hub:  # no network: the hub hands out these weights
            hub.setattr("torchvision.models._api.load_state_dict_from_url", lambda *_, **__: state)
            hub.setattr("layergroups.models._downloads.check_torchvision", lambda *_: None)
            loaded = load_model("resnet18", weights=entry)
            by_name = load_model("resnet18", weights=entry.name)
        assert loaded.pretrained
        assert torch.equal(loaded.model.get_parameter("fc.weight"), state["fc.weight"])
        assert loaded.input.source == f"torchvision {entry}" == by_name.input.source
    for arch in ("resnet18", "timm:resnet18"):
        with pytest.raises(WeightsError, match=r"(does not fit|belongs to torchvision, not to)"):
            load_model(arch, weights=ResNet34_Weights.DEFAULT)


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("resnet18", "torchvision:resnet18"),
        ("torchvision:squeezenet1_1", "torchvision:squeezenet1_1"),
        ("timm:resnet18", "timm:resnet18"),
        ("test_resnet", "timm:test_resnet"),
        (SMALL, SMALL),
        (torchvision.models.resnet18, "torchvision:resnet18"),
        (timm.models.resnet18, "timm:resnet18"),
        (timm.models.resnet.resnet18, "timm:resnet18"),
    ],
)
def test_names_and_functions_become_prefixed_names(arch: Any, name: str) -> None:
    with torch.device("meta"):
        loaded = load_model(arch, pretrained=False)
    assert loaded.name == name
    assert not loaded.pretrained
    assert loaded.weights == "none (random initialisation)"
    assert type(loaded.model).__module__.startswith(name.partition(":")[0])


def test_list_models_matches_full_and_plain_names() -> None:
    names = list_models()
    assert len(names) == len(set(names)) > 1000
    assert {"torchvision:resnet18", "timm:resnet18"} <= set(list_models("resnet18"))
    assert list_models("torchvision:*") == [n for n in names if n.startswith("torchvision:")]
    assert not [n for n in names if "rcnn" in n or "quantized" in n]
    assert list_models("*/*") == []


@pytest.mark.parametrize(
    ("arch", "words"),
    [
        ("resnet19", r'"torchvision:resnet18", "timm:resnet18".*list_models\(\'\*resnet\*\'\)'),
        ("ResNet-18", '"torchvision:resnet18"'),
        ("torchvision:vit_base_patch16_224", '"timm:vit_base_patch16_224"'),
        ("tv:resnet18", r'\'tv\'.*"torchvision:" or "timm:"'),
        ("timm:resnet18.nonsense", r'"timm:resnet18.a1_in1k"'),
        ("fasterrcnn_resnet50_fpn", "not an image classification model.*not supported yet"),
        (torchvision.models.detection.fasterrcnn_resnet50_fpn, "not supported yet"),
        (torchvision.models.ResNet, r"Call it yourself and pass the module: ResNet\(...\)"),
        (lambda: nn.Linear(1, 1), "Call it yourself"),
        ("module:Net", "Pass the module"),
        ("", "No architecture"),
        (3, "not int"),
    ],
)
def test_unknown_architectures_are_explained(arch: Any, words: str) -> None:
    with pytest.raises(UnknownArchitectureError, match=words):
        load_model(arch)


def test_names_that_timm_has_changed_are_followed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "layergroups"), torch.device("meta"):
        loaded = load_model("timm:tf_efficientnet_b0_ap", pretrained=False)
    assert loaded.name == "timm:tf_efficientnet_b0.ap_in1k"
    assert caplog.messages == [
        "timm has renamed tf_efficientnet_b0_ap to tf_efficientnet_b0.ap_in1k"
    ]


def test_what_timm_has_saved_elsewhere_loads_by_its_address(tmp_path: Path) -> None:
    saved = timm.create_model("test_vit", num_classes=7, img_size=96)
    saved.pretrained_cfg["mean"] = (0.1, 0.2, 0.3)
    for safe in (False, True):
        timm.models.save_for_hf(
            saved, tmp_path / "m", model_args={"img_size": 96}, safe_serialization=safe
        )
        load_model(f"local-dir:{tmp_path / 'm'}")
    (tmp_path / "m" / "pytorch_model.bin").unlink()
    loaded = load_model(f"local-dir:{tmp_path / 'm'}")
    assert (loaded.name, loaded.kwargs["num_classes"]) == ("timm:test_vit", 7)
    assert (loaded.input.size, loaded.input.mean) == ((96, 96), (0.1, 0.2, 0.3))
    theirs = saved.state_dict()
    assert all(torch.equal(value, theirs[n]) for n, value in loaded.model.state_dict().items())
    assert load_model(f"local-dir:{tmp_path / 'm'}", pretrained=False).pretrained is False
    again = load_model(loaded.name, pretrained=False, **loaded.kwargs)  # as an export does
    again.model.load_state_dict(theirs)
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"model\.safetensors"):
        load_model(f"local-dir:{tmp_path / 'm'}")
    (tmp_path / "m" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(UnknownArchitectureError, match="as timm writes it"):
        load_model(f"local-dir:{tmp_path / 'm'}")


@pytest.mark.parametrize(
    "address", ["hf://timm/resnet18", "hf-hub:timm/resnet18@main", "hf://x//y"]
)
def test_without_a_hub_an_address_is_refused_at_once(address: str) -> None:
    with pytest.raises(WeightsError, match="HF_ENDPOINT"):  # the tests are offline
        load_model(address)
