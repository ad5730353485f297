"""Images and their masks: paired, read once, and what is wrong found before training by path."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.data.masks import LABELS, NAMES, SMALL, layers, loaders, overlapping, shapes

from layergroups.data import SegmentationDataLoaders
from layergroups.data.image import size_of_image
from layergroups.errors import BrokenImagesError, DataError


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return shapes(tmp_path, n=8)


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


def test_folders_with_parts_are_divided_as_they_are(tmp_path: Path) -> None:
    source = shapes(tmp_path / "all", n=8)
    for folder in source:
        for number, path in enumerate(sorted(folder.iterdir())):
            part = tmp_path / folder.name / ("valid" if number % 4 == 0 else "train")
            part.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, part)
    dls = loaders((tmp_path / "images", tmp_path / "masks"))
    assert [path.name for path in dls.valid_images.paths] == ["00.jpg", "04.jpg"]


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
    dls = overlapping((images, masks), on_error="skip")  # without the five above
    assert len(dls.train_images) + len(dls.valid_images) == 3
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
