"""Names: what they stand for, which there are, and which are near a wrong one."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from layergroups.errors import UnknownArchitectureError
from layergroups.models._catalog import list_models, load_model

SMALL = "timm:test_resnet.r160_in1k"


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
    assert loaded.weights == "none, a random start"
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
        ("tv:resnet18", r'no library \'tv\'.*"torchvision:" and "timm:"'),
        ("timm:resnet18.nonsense", r'"timm:resnet18.a1_in1k"'),
        ("fasterrcnn_resnet50_fpn", "not an image classification model.*not supported yet"),
        (torchvision.models.detection.fasterrcnn_resnet50_fpn, "not supported yet"),
        (torchvision.models.ResNet, r"Call it yourself and give the module: ResNet\(...\)"),
        (lambda: nn.Linear(1, 1), "Call it yourself"),
        ("module:Net", "Make the module and give that"),
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
    assert caplog.messages == ["timm calls tf_efficientnet_b0_ap now tf_efficientnet_b0.ap_in1k"]
