"""Masks of every form: files, colours, layers of labels that overlap."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.masks import LABELS, SMALL, layers, loaders, overlapping, shapes

from layergroups._drawing import palette
from layergroups.data import SegmentationDataLoaders
from layergroups.data.sources import LayerReader, MaskReader
from layergroups.errors import BrokenImagesError, DataError

MASK = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)
EXPECTED = torch.tensor([[0, 1, 2], [2, 1, -100]])


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return shapes(tmp_path, n=8)


@pytest.mark.parametrize("form", ["grey", "palette", "equal channels", "npy", "16 bits"])
def test_values_are_classes_in_every_form(tmp_path: Path, form: str) -> None:
    path = tmp_path / ("mask.npy" if form == "npy" else "mask.png")
    image = Image.fromarray(MASK)
    if form == "palette":
        image.putpalette([v for colour in palette(256) for v in colour])
        assert image.mode == "P"
    elif form == "equal channels":
        image = Image.merge("RGB", [image] * 3)
    elif form == "16 bits":
        image = Image.fromarray(MASK.astype(np.uint16))
    np.save(path, MASK) if form == "npy" else image.save(path)
    assert torch.equal(MaskReader((0, 1, 2), (255,)).open([str(path)]).long(), EXPECTED)


def test_colours_are_classes(tmp_path: Path) -> None:
    colours = np.array([(0, 0, 0), (128, 64, 128), (70, 70, 70)], np.uint8)
    pixels = np.append(colours, [[9, 9, 9]], 0)[np.where(MASK == 255, 3, MASK)]
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "mask.png")
    classes = tuple(tuple(map(int, colour)) for colour in colours)
    found = MaskReader(classes, ((9, 9, 9),)).open([str(tmp_path / "mask.png")])  # type: ignore[arg-type] # parametrised
    assert torch.equal(found.long(), EXPECTED)
    with pytest.raises(DataError, match=r"\(9, 9, 9\)"):
        MaskReader(classes).open([str(tmp_path / "mask.png")])  # type: ignore[arg-type] # parametrised


def test_labels_that_overlap_are_the_same_in_every_form(tmp_path: Path) -> None:
    expected = None
    for form in ("folders", "tif", "png", "npy"):
        dls = overlapping(layers(tmp_path / form, 6, form=form))
        x, y = next(iter(dls.valid))
        assert (y.dtype, y.shape[1:], x.shape[1:]) == (torch.float32, (2, 24, 32), (3, 24, 32))
        assert (y.sum(1) == 2).any()  # some pixel has both
        assert expected is None or torch.equal(y, expected)
        expected = y
    named = overlapping((tmp_path / "folders/images", tmp_path / "folders/masks"), classes=None)
    assert named.vocab == ("disc", "square")
    assert torch.equal(next(iter(named.valid))[1].flip(1), expected)  # type: ignore[arg-type] # not None


def test_a_label_may_have_no_file_where_the_image_does_not_have_it(tmp_path: Path) -> None:
    images, masks = layers(tmp_path, 6, form="folders")
    files = sorted(images.iterdir())
    paths: list[Any] = [[masks / label / f"{f.stem}.png" for label in LABELS] for f in files]
    paths[0] = [None, paths[0][1]]
    paths[1] = [None, None]
    marks = [i < 2 for i in range(6)]
    dls = SegmentationDataLoaders.from_lists(
        files, paths, is_valid=marks, classes=LABELS, overlapping=True, **SMALL
    )
    y = next(iter(dls.valid))[1]
    assert y.sum((2, 3)).bool().tolist() == [[False, True], [False, False]]
    assert dls.valid_images.counts(2) == (0, 1)
    table = {"image": files, "square": [p[0] for p in paths], "disc": [p[1] for p in paths]}
    also = SegmentationDataLoaders.from_table(
        table | {"valid": marks}, mask_col=["square", "disc"], valid_col="valid",
        overlapping=True, **SMALL,
    )  # fmt: skip
    assert also.vocab == LABELS
    assert torch.equal(next(iter(also.valid))[1], y)


def test_a_value_is_ignored_for_the_label_of_its_layer_alone(tmp_path: Path) -> None:
    mask = np.stack([[[1, 0], [7, 1]], [[0, 0], [1, 1]]], -1).astype(np.uint8)
    np.save(tmp_path / "a.npy", mask)
    found = LayerReader(LABELS, (7,)).open([str(tmp_path / "a.npy")])
    assert found.tolist() == [[[1, 0], [-100, 1]], [[0, 0], [1, 1]]]


def test_masks_as_jpeg_are_refused_with_the_reason(folders: tuple[Path, Path]) -> None:
    for path in list(folders[1].iterdir()):
        Image.open(path).convert("L").save(path.with_suffix(".jpg"), quality=50)
        path.unlink()
    with pytest.raises(BrokenImagesError, match="JPEG changes the values"):
        loaders(folders)
    with pytest.raises(DataError, match="JPEG changes the values"):
        loaders(folders, classes=None)
