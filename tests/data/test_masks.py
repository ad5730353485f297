"""Masks of every form, and what is wrong with some of them, found before training by path."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.data.masks import LABELS, NAMES, layers, shapes

from layergroups._drawing import palette
from layergroups.data import SegmentationDataLoaders
from layergroups.data.image import size_of_image
from layergroups.data.sources import LayerReader, MaskReader
from layergroups.data.sources._masks import class_names
from layergroups.errors import BrokenImagesError, DataError

SMALL: dict[str, Any] = {"size": (24, 32), "batch_size": 4, "num_workers": 0, "cache": False}
MASK = np.array([[0, 1, 2], [2, 1, 255]], np.uint8)
EXPECTED = torch.tensor([[0, 1, 2], [2, 1, -100]])


def loaders(folders: tuple[Path, Path], **options: Any) -> SegmentationDataLoaders:
    return SegmentationDataLoaders.from_folders(*folders, **{"classes": NAMES, **SMALL, **options})


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


def test_black_and_white_masks_need_no_classes(tmp_path: Path) -> None:
    dls = loaders(shapes(tmp_path, n=8, values=(0, 255, 0)), classes=None)
    assert dls.vocab == ("background", "foreground")
    assert set(dls.one_batch()[1].unique().tolist()) == {0, 1}


def test_a_class_ignored_by_name_has_no_output(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    dls = loaders(folders, classes=tmp_path / "classes.txt", ignore="square")
    assert dls.vocab == ("background", "disc")
    assert set(dls.one_batch()[1].unique().tolist()) == {-100, 0, 1}


def test_faults_are_found_first_and_named_by_path(folders: tuple[Path, Path]) -> None:
    masks = folders[1]
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(masks / "01.png")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(masks / "02.png")
    (masks / "03.png").write_bytes(b"not an image")
    with pytest.raises(BrokenImagesError) as caught:
        loaders(folders)
    message = str(caught.value)
    assert all(text in message for text in ("01.png", "value 7", "02.png", "20 x 20", "03.png"))
    dls = loaders(folders, on_error="skip")
    assert len(dls.train_images) + len(dls.valid_images) == 5
    assert {broken.path.name for broken in dls.broken} == {"01.png", "02.png", "03.png"}
    (masks / "04.png").unlink()
    with pytest.raises(DataError, match=r"1 of 8 images have no mask.*04\.jpg"):
        loaders(folders)
    dls = loaders(folders, on_error="skip")
    assert len(dls.train_images) + len(dls.valid_images) == 4
    assert "04.jpg" in {broken.path.name for broken in dls.broken}
    for path in masks.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="8 of 8 images have no mask"):
        loaders(folders, on_error="skip")


def test_rows_without_a_mask_are_left_out_if_asked(folders: tuple[Path, Path]) -> None:
    files = [sorted(map(str, folder.iterdir())) for folder in folders]
    table: dict[str, list[Any]] = {"image": files[0], "mask": [None, *files[1][1:7], "gone.png"]}
    options: dict[str, Any] = {"classes": NAMES, **SMALL}
    with pytest.raises(DataError, match="Rows 0 "):
        SegmentationDataLoaders.from_table(table, **options)
    dls = SegmentationDataLoaders.from_table(table, on_error="skip", **options)
    assert [broken.path.name for broken in dls.broken] == ["00.jpg", "gone.png"]
    assert len(dls.train_images) + len(dls.valid_images) == 6


def test_names_that_differ_by_a_suffix_get_a_hint(folders: tuple[Path, Path]) -> None:
    masks = folders[1]
    for path in list(masks.iterdir()):
        path.rename(path.with_name(f"{path.stem}_mask.png"))
    with pytest.raises(DataError, match="suffix='_mask'"):
        loaders(folders)
    assert len(loaders(folders, suffix="_mask").train_images) == 6


def test_masks_of_one_class_only_are_refused(folders: tuple[Path, Path]) -> None:
    for path in folders[1].iterdir():
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"'background'.*nothing to learn"):
        loaders(folders)


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


def test_folders_with_parts_are_divided_as_they_are(tmp_path: Path) -> None:
    source = shapes(tmp_path / "all", n=8)
    for folder in source:
        for number, path in enumerate(sorted(folder.iterdir())):
            part = tmp_path / folder.name / ("valid" if number % 4 == 0 else "train")
            part.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, part)
    dls = loaders((tmp_path / "images", tmp_path / "masks"))
    assert [path.name for path in dls.valid_images.paths] == ["00.jpg", "04.jpg"]


def overlapping(folders: tuple[Path, Path], **options: Any) -> SegmentationDataLoaders:
    options = {"classes": LABELS, "overlapping": True, **SMALL, **options}
    return SegmentationDataLoaders.from_folders(*folders, **options)


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


def test_faults_of_layers_are_found_first_and_named_by_path(tmp_path: Path) -> None:
    images, masks = layers(tmp_path, 8, form="folders")
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(masks / "disc/01.png")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(masks / "square/02.png")
    Image.fromarray(np.zeros((64, 48), np.uint8)).save(masks / "disc/03.png")
    (masks / "square/04.png").write_bytes(b"not an image")
    with pytest.raises(BrokenImagesError) as caught:
        overlapping((images, masks))
    message = str(caught.value)
    assert all(
        file in message for file in ("disc/01.png", "square/02.png", "disc/03.png", "04.png")
    )
    assert all(why in message for why in ("value 7 for 'disc'", "20 x 20", "64 x 48"))
    assert " + " not in message  # the one file that is wrong
    (masks / "disc/05.png").unlink()
    with pytest.raises(DataError, match=r"1 of 8 images have no mask in .*disc.*05\.jpg"):
        overlapping((images, masks))
    with pytest.raises(DataError, match="'ring'"):
        overlapping((images, masks), classes=["disc", "ring"])
    pages = layers(tmp_path / "pages", 4)
    with pytest.raises(BrokenImagesError, match="2 layers for 3 labels"):
        overlapping(pages, classes=[*LABELS, "ring"])
    with pytest.raises(DataError, match="give the names of the labels"):
        overlapping(pages, classes=None)
    with pytest.raises(DataError, match="overlapping=True"):
        SegmentationDataLoaders.from_lists(["a.jpg"], [["a.png", "b.png"]], classes=LABELS)
    for path in pages[1].iterdir():
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)
    with pytest.raises(DataError, match="nothing to learn"):
        overlapping(pages, classes=["one"])


def test_classes_without_masks_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, values in (("train", (0, 1, 1)), ("valid", (0, 2, 2))):
        for folder in shapes(tmp_path / name, n=4, values=values):
            (tmp_path / folder.name).mkdir(exist_ok=True)
            folder.rename(tmp_path / folder.name / name)
    loaders((tmp_path / "images", tmp_path / "masks"), classes=[*NAMES, "ring"])
    assert "No training mask has 'disc', 'ring'" in caplog.text
    assert "No validation mask has 'square'" in caplog.text


def test_files_that_do_not_pair_are_named(
    folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    Image.open(folders[1] / "01.png").save(folders[1] / "99.png")
    loaders(folders)
    assert "99.png" in caplog.text
    Image.open(folders[1] / "01.png").save(folders[1] / "01.bmp")
    with pytest.raises(DataError, match=r"01\.bmp and .*01\.png have the same name"):
        loaders(folders)


def test_masks_as_jpeg_are_refused_with_the_reason(folders: tuple[Path, Path]) -> None:
    for path in list(folders[1].iterdir()):
        Image.open(path).convert("L").save(path.with_suffix(".jpg"), quality=50)
        path.unlink()
    with pytest.raises(BrokenImagesError, match="JPEG changes the values"):
        loaders(folders)
    with pytest.raises(DataError, match="JPEG changes the values"):
        loaders(folders, classes=None)


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


def test_images_of_many_channels_may_have_them_first(folders: tuple[Path, Path]) -> None:
    for number, path in enumerate(sorted(folders[0].iterdir())):
        pixels = np.repeat(np.asarray(Image.open(path)), 2, -1)[..., :5]
        np.save(path.with_suffix(".npy"), pixels if number % 2 else pixels.transpose(2, 0, 1))
        path.unlink()
    dls = loaders(folders, channels=5)
    assert dls.one_batch()[0].shape == (4, 5, 24, 32)
    assert size_of_image(folders[0] / "00.npy", 5) == (48, 64)


def test_augmentation_that_forgets_the_masks_is_refused_first(folders: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="without their masks"):
        loaders(folders, augment="rand")
    assert set(loaders(folders, augment="erase").one_batch()[1].unique().tolist()) <= {0, 1, 2}
