"""Pictures can be read: no text meets another, or leaves the picture."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from torch import nn

from layergroups import LayerGroups, load_model
from layergroups._drawing import fitted, group_colours, text_width, wrapped
from layergroups.errors import LayerGroupsError
from layergroups.reports import confusion_matrix_picture, network_picture
from layergroups.reports.figures._network import draw_network
from layergroups.reports.figures._result_figures import draw_confusion


def assert_readable(figure: Figure) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts]
    width, height = canvas.get_width_height()
    for words, box in boxes:
        assert min(box.x0, box.y0) >= 0, words
        assert max(box.x1 - width, box.y1 - height) <= 0, words
    for (words, box), (other, place) in combinations(boxes, 2):
        across = min(box.x1, place.x1) - max(box.x0, place.x0)
        along = min(box.y1, place.y1) - max(box.y0, place.y0)
        assert across <= 1 or along <= 1, f"{words!r} meets {other!r}"


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


def test_an_svg_is_the_same_file_each_time(tmp_path: Path) -> None:
    files = [
        confusion_matrix_picture([[2, 0], [1, 1]], ["a", "b"], tmp_path / f"{i}.svg")
        for i in range(2)
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LayerGroupsError, match=r"\.png, \.svg"):
        confusion_matrix_picture([[1]], ["a"], tmp_path / "a.bmp")


@pytest.mark.parametrize(
    "classes",
    [
        ["a", "b"],
        ["cat", "dog", "a very long name of a class that has no end"],
        [f"class {i}" for i in range(15)],
        [f"class {i}" for i in range(30)],
        ["кот", "собака"],
    ],
)
def test_confusion_matrices_can_be_read(classes: list[str]) -> None:
    n = len(classes)
    matrix = [[40 if i == j else (i + j) % 3 for j in range(n)] for i in range(n)]
    assert_readable(draw_confusion(matrix, classes))


def test_a_matrix_without_photos() -> None:
    assert_readable(draw_confusion([[0, 0], [0, 0]], ["a", "b"]))


def test_text_is_fitted_and_wrapped() -> None:
    assert fitted("short", 5, 9) == "short"
    shorter = fitted("encoder.layers.encoder_layer_11", 1, 9)
    assert "…" in shorter
    assert shorter.endswith("_11")
    assert text_width(shorter, 9) <= 1
    lines = wrapped("one two three four five six", 0.8, 9)
    assert len(lines) > 1
    assert " ".join(lines) == "one two three four five six"


@pytest.mark.parametrize("n", [1, 2, 3, 8])
def test_every_group_has_its_colour(n: int) -> None:
    colours = group_colours(n, True)
    assert len(set(colours)) == len(colours) == n + 1


def test_a_matrix_of_many_classes_is_drawn_in_seconds_and_stays_small() -> None:
    sizes = []
    for n in (100, 300):
        figure = draw_confusion(torch.eye(n).int().tolist(), ["x"] * n)
        assert max(figure.get_size_inches()) < 16
        sizes.append(len(figure.findobj()))
    assert sizes[1] < 1.5 * sizes[0]  # artists do not grow with the number of cells
