"""Images and masks as batches: from each source, varied together, the same in every pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.data.masks import NAMES, shapes

from layergroups.data import Augmentation, SegmentationDataLoaders
from layergroups.errors import DataError

SMALL: dict[str, Any] = {
    "size": (24, 32),
    "batch_size": 4,
    "num_workers": 0,
    "cache": False,
    "classes": NAMES,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return shapes(tmp_path_factory.mktemp("shapes"), n=8)


def pairs(folders: tuple[Path, Path]) -> list[tuple[Path, Path]]:
    return [(path, folders[1] / f"{path.stem}.png") for path in sorted(folders[0].iterdir())]


class Pairs:
    """A dataset of opened images and masks."""

    def __init__(self, items: list[tuple[Path, Path]]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> tuple[Image.Image, Image.Image]:
        image, mask = self.items[i]
        with Image.open(image) as opened, Image.open(mask) as masked:
            return opened.copy(), masked.copy()


def test_masks_tell_their_classes_where_some_are_broken_or_empty(tmp_path: Path) -> None:
    images, masks = tmp_path / "images", tmp_path / "masks"
    images.mkdir()
    masks.mkdir()
    for n in range(30):
        Image.new("RGB", (32, 24)).save(images / f"{n:02}.png")
        mask = Image.new("L", (32, 24))
        if n >= 22:  # the first ones show nothing
            mask.paste(255, (0, 0, 8, 8))
        mask.save(masks / f"{n:02}.png")
    options = {name: value for name, value in SMALL.items() if name != "classes"}
    dls = SegmentationDataLoaders.from_folders(images, masks, **options)
    assert dls.vocab == ("background", "foreground")
    (masks / "03.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"03\.png"):
        SegmentationDataLoaders.from_folders(images, masks, **options)
    rest = SegmentationDataLoaders.from_folders(images, masks, on_error="skip", **options)
    assert len(rest.train_images.files) + len(rest.valid_images.files) == 29


def test_every_source_gives_the_same_batches(folders: tuple[Path, Path], tmp_path: Path) -> None:
    items = pairs(folders)
    marks = [number % 4 == 0 for number in range(len(items))]
    table = tmp_path / "masks.csv"
    rows = [f"{image},{mask},{mark}" for (image, mask), mark in zip(items, marks, strict=True)]
    table.write_text("\n".join(["image,mask,is_valid", *rows]))
    make = SegmentationDataLoaders
    made = [
        make.from_lists(*zip(*items, strict=True), is_valid=marks, **SMALL),
        make.from_table(table, valid_col="is_valid", **SMALL),
        make.from_function(
            folders[0],
            lambda path: folders[1] / f"{path.stem}.png",
            is_valid=lambda path: int(path.stem) % 4 == 0,
            **SMALL,
        ),
        make.from_dataset(
            Pairs([item for item, mark in zip(items, marks, strict=True) if not mark]),
            Pairs([item for item, mark in zip(items, marks, strict=True) if mark]),
            **SMALL,
        ),
    ]
    x, y = next(iter(made[0].valid))
    assert x.shape == (2, 3, 24, 32)
    assert (y.shape, y.dtype) == ((2, 24, 32), torch.int64)
    for dls in made[1:]:
        other_x, other_y = next(iter(dls.valid))
        assert torch.equal(other_x, x)
        assert torch.equal(other_y, y)
    assert "2 validation images of 3 classes" in str(made[0])
    assert made[0].train_images.counts(3) == (6, 6, 6)


class PathsOfMasks(Pairs):
    def __getitem__(self, i: int) -> Any:
        return super().__getitem__(i)[0], self.items[i][1]


@pytest.mark.parametrize("kind", [Pairs, PathsOfMasks])
def test_colours_of_a_palette_are_read_from_a_dataset(
    folders: tuple[Path, Path], tmp_path: Path, kind: type[Pairs]
) -> None:
    """As torchvision's VOCSegmentation has them, or as paths."""
    items = []
    for image, mask in pairs(folders):
        with Image.open(mask) as positions:
            coloured = positions.copy()
        coloured.putpalette([0, 0, 0, 128, 64, 128, 70, 130, 180])
        coloured.save(tmp_path / mask.name)
        items.append((image, tmp_path / mask.name))
    colours = {"background": (0, 0, 0), "square": (128, 64, 128), "disc": (70, 130, 180)}
    options = SMALL | {"classes": colours}
    dls = SegmentationDataLoaders.from_dataset(kind(items[2:]), kind(items[:2]), **options)
    marks = [i < 2 for i in range(len(items))]
    files = zip(*pairs(folders), strict=True)
    plain = SegmentationDataLoaders.from_lists(*files, is_valid=marks, **SMALL)
    assert torch.equal(next(iter(dls.valid))[1], next(iter(plain.valid))[1])


def test_image_and_mask_are_varied_together(folders: tuple[Path, Path]) -> None:
    """The colour of a pixel tells its class, also after crops and flips."""
    dls = SegmentationDataLoaders.from_folders(
        *folders, augment=Augmentation(scale=(0.3, 0.6), brightness=0, contrast=0), **SMALL
    )
    x, y = dls.one_batch()
    plain = dls.train_eval.at([p for p, _ in next(dls.train.plan(0))])
    assert not torch.equal(x, plain[0])
    red, blue = x[:, 0], x[:, 2]
    for masks, (r, b) in ((y, (red, blue)), (plain[1], (plain[0][:, 0], plain[0][:, 2]))):
        assert (r - b)[masks == 1].mean() > 1 > -1 > (r - b)[masks == 2].mean()
        assert ((r - b).abs() > 1)[masks == 0].float().mean() < 0.05


def test_batches_depend_on_the_seed_and_the_epoch_alone(folders: tuple[Path, Path]) -> None:
    made = [SegmentationDataLoaders.from_folders(*folders, **SMALL) for _ in range(2)]
    torch.rand(3)
    for (x, y), (other_x, other_y) in zip(made[0].train, made[1].train, strict=True):
        assert torch.equal(x, other_x)
        assert torch.equal(y, other_y)


def test_masks_have_a_milder_augmentation_unless_another_is_given(
    folders: tuple[Path, Path],
) -> None:
    def scale(**options: Any) -> tuple[float, float] | None:
        found = SegmentationDataLoaders.from_folders(*folders, **SMALL, **options).augment
        return found.scale if isinstance(found, Augmentation) else None

    assert scale() == scale(augment=True) == (0.8, 1.0)
    assert scale(augment=False) is None
    assert scale(augment=Augmentation()) == Augmentation().scale


@pytest.mark.parametrize("mark", ["False", float("nan"), 2])
def test_a_mark_that_is_neither_true_nor_false_is_refused(
    mark: object, folders: tuple[Path, Path]
) -> None:
    items = pairs(folders)
    marks: list[Any] = [True, mark, *[False] * (len(items) - 2)]
    with pytest.raises(DataError, match="is_valid has"):
        SegmentationDataLoaders.from_lists(*zip(*items, strict=True), is_valid=marks, **SMALL)


def test_an_augmentation_without_masks_is_refused(folders: tuple[Path, Path]) -> None:
    dls = SegmentationDataLoaders.from_folders(
        *folders, augment=lambda image: image.rotate(10), **SMALL
    )
    with pytest.raises(DataError, match=r"together.*torchvision\.transforms\.v2"):
        dls.one_batch()


def test_a_changed_mask_changes_the_stamp(tmp_path: Path) -> None:
    folders = shapes(tmp_path, n=8)
    dls = SegmentationDataLoaders.from_folders(*folders, **SMALL)
    before = dls.file_stamps()
    Image.open(folders[1] / "00.png").resize((9, 9)).save(folders[1] / "00.png")
    assert dls.file_stamps() != before


def test_both_parts_have_every_class(folders: tuple[Path, Path]) -> None:
    dls = SegmentationDataLoaders.from_folders(*folders, valid_pct=0.25, **SMALL)
    assert dls.valid_images.counts(3) == (2, 2, 2)
