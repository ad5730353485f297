"""The picture of a network can be read: no text meets another, or leaves the picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from tests.reports.readable import assert_readable
from torch import nn

from layergroups import LayerGroups, load_model
from layergroups.reports import network_picture
from layergroups.reports.figures._network import draw_network


@pytest.mark.parametrize(
    ("arch", "split"),
    [
        ("resnet18", "auto"),
        ("resnet18", "layerwise"),
        ("resnet18", 1),
        ("vgg11_bn", "classic"),
        ("vit_b_16", "auto"),
        pytest.param("densenet121", "auto", marks=pytest.mark.slow),
        pytest.param("densenet121", 12, marks=pytest.mark.slow),
    ],
)
def test_networks_can_be_read(arch: str, split: str | int) -> None:
    groups = LayerGroups(load_model(arch, pretrained=False).model, split)
    assert_readable(draw_network(groups, arch))


def test_many_blocks_are_drawn_as_runs() -> None:
    layers = [nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(150)]
    groups = LayerGroups(nn.Sequential(*layers, nn.Linear(8, 2)), example_input=torch.zeros(2, 8))
    figure = draw_network(groups)
    assert figure.get_figheight() < 20
    assert_readable(figure)


def test_frozen_groups_are_hatched() -> None:
    groups = LayerGroups(load_model("timm:test_resnet", pretrained=False).model)
    groups.freeze()
    figure = draw_network(groups)
    hatches = [patch.get_hatch() for patch in figure.axes[0].patches]
    n_frozen = sum(len(group.blocks) for group in groups if group.frozen)
    assert [hatch is not None for hatch in hatches].count(True) == n_frozen


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_files(tmp_path: Path, ending: str) -> None:
    groups = LayerGroups(load_model("timm:test_resnet", pretrained=False).model)
    file = network_picture(groups, tmp_path / f"new/folder/net.{ending}")
    assert file.stat().st_size > 1000
    if ending == "png":
        with Image.open(file) as picture:
            assert picture.width > 800
