"""Pictures of results can be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.reports.readable import assert_readable

from layergroups.errors import LayerGroupsError
from layergroups.reports import confusion_matrix_picture
from layergroups.reports.figures._result_figures import draw_confusion


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


def test_a_matrix_of_many_classes_is_drawn_in_seconds_and_stays_small() -> None:
    sizes = []
    for n in (100, 300):
        figure = draw_confusion(torch.eye(n).int().tolist(), ["x"] * n)
        assert max(figure.get_size_inches()) < 16
        sizes.append(len(figure.findobj()))
    assert sizes[1] < 1.5 * sizes[0]  # artists do not grow with the number of cells
