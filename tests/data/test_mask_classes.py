"""The classes of masks, as lists, files and dicts, and those that do not count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.masks import NAMES, loaders, shapes

from layergroups.data.sources._mask_classes import class_names
from layergroups.errors import DataError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return shapes(tmp_path, n=8)


def test_black_and_white_masks_need_no_classes(tmp_path: Path) -> None:
    dls = loaders(shapes(tmp_path, n=8, values=(0, 255, 0)), classes=None)
    assert dls.vocab == ("background", "foreground")
    assert set(dls.one_batch()[1].unique().tolist()) == {0, 1}
    dls = loaders(shapes(tmp_path / "void", n=8, values=(0, 1, 255)), classes=None)
    assert dls.vocab == ("background", "foreground")
    assert set(dls.one_batch()[1].unique().tolist()) == {-100, 0, 1}


def test_a_class_ignored_by_name_has_no_output(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    dls = loaders(folders, classes=tmp_path / "classes.txt", ignore="square")
    assert dls.vocab == ("background", "disc")
    assert set(dls.one_batch()[1].unique().tolist()) == {-100, 0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ["one"]}, "at least two different names"),
        ({"classes": None}, "give the names of their classes"),
        ({"classes": "nowhere.txt"}, "cannot be read"),
        ({"classes": {"a": 0, "b": (1, 2, 3)}}, "a different value for each"),
        ({"ignore": "circle"}, "neither a class"),
        ({"ignore": list(NAMES)}, "leaves no class"),
        ({"ignore": list(NAMES[1:])}, "leaves 'background'"),
    ],
)
def test_wrong_classes_are_refused(
    folders: tuple[Path, Path], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        loaders(folders, **options)


def test_colours_may_be_text() -> None:
    assert class_names({"road": "#804080", "sky": (70, 130, 180)})[1] == (
        (128, 64, 128), (70, 130, 180),
    )  # fmt: skip
    for wrong in ("blau", (1, 2), (1, 2, 3, 4), None):
        with pytest.raises(DataError, match="'road' is"):
            class_names({"road": wrong, "sky": (70, 130, 180)})


@pytest.mark.parametrize(
    "lines",
    [
        ["road #804080", "far sky\t70 130 180"],
        ["128 64 128 road", "70 130 180\t\tfar sky"],  # label_colors.txt of CamVid
        ["name,r,g,b", "road,128,64,128", "far sky, 70, 130, 180"],
    ],
)
def test_a_file_gives_names_with_colours(tmp_path: Path, lines: list[str]) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(lines), "utf-8-sig")
    expected = (("road", "far sky"), ((128, 64, 128), (70, 130, 180)))
    assert class_names(tmp_path / "classes.txt") == class_names(lines) == expected


def test_a_file_gives_values_and_has_comments(tmp_path: Path) -> None:
    file = tmp_path / "classes.txt"
    for lines in (["7 road", "11\tfar sky"], ["# value: name", "7: road", "11: far sky", ""]):
        file.write_text("\n".join(lines))
        assert class_names(file) == (("road", "far sky"), (7, 11))
    for lines in (["2 lanes", "road"], ["2 lanes", "2 lanes of a road"], ["1 2", "3 4"]):
        assert class_names(lines) == (tuple(lines), (0, 1))


def test_colours_of_some_classes_alone_are_refused() -> None:
    for wrong in (["road #804080", "sky"], ["road 1 2 3", "road 4 5 6"], ["a 1 2 256", "b 1 2 3"]):
        with pytest.raises(DataError, match="colour"):
            class_names(wrong)
    assert class_names(["section 1", "lane 1 2"])[0] == ("section 1", "lane 1 2")


def test_ignored_colours(folders: tuple[Path, Path]) -> None:
    lines = ["background #000000", "square 128 64 128", "disc 70 130 180"]
    colours = np.array(class_names(lines)[1], np.uint8)
    for path in folders[1].iterdir():
        Image.fromarray(colours[np.asarray(Image.open(path))]).save(path)
    dls = loaders(folders, classes=lines, ignore="#804080")
    assert dls.vocab == ("background", "disc")
    assert set(dls.one_batch()[1].unique().tolist()) == {-100, 0, 1}
    with pytest.raises(DataError, match="a colour such as"):
        loaders(folders, classes=lines, ignore=255)  # is not the colour (0, 0, 255)
