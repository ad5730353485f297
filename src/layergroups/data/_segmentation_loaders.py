"""`SegmentationDataLoaders`: images and masks as training and validation batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, Unpack

from layergroups._paths import path_of
from layergroups.data._batches import BatchMaker, EvalLoader, ImageDataset
from layergroups.data._image_loaders import ImageDataLoaders
from layergroups.data.sources import (
    Classes,
    Column,
    Files,
    MaskReader,
    Options,
    Settings,
    find_files,
    items_of,
    list_of_files,
    mask_files,
    masks_by,
    paired,
    read_masked,
    read_table,
    rows_of,
)
from layergroups.errors import DataError

_DEFAULTS: Options = {"size": 256, "batch_size": 8}
Ignore = int | str | tuple[int, int, int] | list[Any] | None


class SegmentationDataLoaders(ImageDataLoaders):
    """Images and their masks as batches for training and for validation.

    Make it with `from_folders`, `from_lists`, `from_table`, `from_function` or `from_dataset`.
    Batches are pairs (x, y): x is float32 (N, channels, height, width), normalised; y is int64
    (N, height, width), the class of every pixel, -100 where it is ignored. Image and mask are
    varied together. The whole image is resized to `size`, masks without interpolation.

    All masks are read once, first: missing ones, those of another size than their image, and those
    with values that no class has are named by their paths.

    Attributes: those of `ImageDataLoaders`.
    """

    @classmethod
    def from_folders(
        cls,
        images: str | os.PathLike[str],
        masks: str | os.PathLike[str],
        *,
        classes: Classes | None = None,
        ignore: Ignore = None,
        suffix: str = "",
        **options: Unpack[Options],
    ) -> Self:
        """Images below one folder, and masks of the same names below the other.

        Where both have sub-folders `train` and `valid`, these are the parts; else the seed chooses
        a share for validation, so that both parts have every class.

        Args:
            images: the folder of images.
            masks: the folder of masks: PNG with a palette or grey, RGB, or arrays in .npy files.
            classes: names in the order of the values 0, 1, ...; or a text file with a name in each
                line; or a dict with the value or the colour (red, green, blue) of each. None: the
                values 0 and 1, or 0 and 255, are background and foreground.
            ignore: a class, a value or a colour, or a list of them, whose pixels count neither in
                the loss nor in metrics; 255 where no class has it.
            suffix: what the names of masks have more than those of their images, such as "_mask".
            **options: those of `ImageDataLoaders.from_folder`, as in all of these constructors.

        Raises:
            DataError: folders or arguments are not as expected, or masks are missing.
            BrokenImagesError: images or masks are broken, and `on_error` is "raise".
        """
        settings = Settings(_DEFAULTS | options, cls.from_folders)
        found = paired(images, masks, suffix, settings.n_channels)
        return cls._masked(*found[:2], found[2], settings, classes, ignore)

    @classmethod
    def from_lists(  # type: ignore[override] # masks instead of labels
        cls,
        images: Iterable[str | os.PathLike[str]],
        masks: Iterable[str | os.PathLike[str]],
        *,
        is_valid: Iterable[bool] | None = None,
        classes: Classes | None = None,
        ignore: Ignore = None,
        **options: Unpack[Options],
    ) -> Self:
        """Images and their masks, side by side; the arguments are those of `from_folders`.

        Args:
            images: paths of the images.
            masks: the path of the mask of each image.
            is_valid: for each, whether it is for validation; else the seed chooses.
            classes: as for `from_folders`.
            ignore: as for `from_folders`.
            **options: those of `ImageDataLoaders.from_folder`.
        """
        settings = Settings(_DEFAULTS | options, cls.from_lists)
        files = (list_of_files(images), list_of_files(masks))
        marks = None if is_valid is None else [bool(mark) for mark in is_valid]
        return cls._masked(*files, marks, settings, classes, ignore)

    @classmethod
    def from_table(  # type: ignore[override] # masks instead of labels
        cls,
        table: Any,
        folder: str | os.PathLike[str] | None = None,
        *,
        fn_col: Column = 0,
        mask_col: Column = 1,
        valid_col: Column | None = None,
        header: bool = True,
        classes: Classes | None = None,
        ignore: Ignore = None,
        **options: Unpack[Options],
    ) -> Self:
        """A table with a row for each image; both columns hold paths below `folder`.

        Args:
            table: a CSV or TSV file, a frame of pandas or polars, or a dict of columns.
            folder: of the files; by default that of the CSV file, or the current one.
            fn_col: the column of images, by name or position.
            mask_col: the column of masks.
            valid_col: a column that marks which rows are for validation.
            header: whether the first line of a CSV file names the columns.
            classes: as for `from_folders`.
            ignore: as for `from_folders`.
            **options: those of `ImageDataLoaders.from_folder`.
        """
        settings = Settings(_DEFAULTS | options, cls.from_table)
        if folder is None:
            folder = Path(table).parent if isinstance(table, str | os.PathLike) else "."
        where = path_of(folder, DataError, 'folder="images"').expanduser()
        rows = rows_of(
            read_table(table, header=header), where, fn_col=fn_col, label_col=mask_col,
            label_delim=None, valid_col=valid_col, suff="", task=None,
        )  # fmt: skip
        masks = [os.fspath(where / str(mask)) for mask in rows.labels]
        return cls._masked(rows.files, masks, rows.valid, settings, classes, ignore)

    @classmethod
    def from_function(
        cls,
        images: Files,
        function: Callable[[Path], str | os.PathLike[str]],
        *,
        is_valid: Callable[[Path], bool] | None = None,
        classes: Classes | None = None,
        ignore: Ignore = None,
        **options: Unpack[Options],
    ) -> Self:
        """Images whose masks a function finds; `from_label_func` of fastai.

        Args:
            images: a folder, searched at any depth, or a list of paths.
            function: the path of the mask of an image, from the image's path.
            is_valid: whether an image is for validation, from its path; else the seed chooses.
            classes: as for `from_folders`.
            ignore: as for `from_folders`.
            **options: those of `ImageDataLoaders.from_folder`.
        """
        settings = Settings(_DEFAULTS | options, cls.from_function)
        files = find_files(images, settings.n_channels)
        marks = None if is_valid is None else [bool(is_valid(Path(file))) for file in files]
        return cls._masked(files, masks_by(function, files), marks, settings, classes, ignore)

    @classmethod
    def from_dataset(  # type: ignore[override] # masks instead of labels
        cls,
        train: Any,
        valid: Any | None = None,
        *,
        image: str | int | None = None,
        mask: str | int | None = None,
        classes: Classes | None = None,
        ignore: Ignore = None,
        **options: Unpack[Options],
    ) -> Self:
        """Any map-style dataset of images and masks, such as torchvision's `VOCSegmentation`.

        Args:
            train: has len(train) and train[i], an (image, mask) or a dict with both.
            valid: the same, for validation; else `valid_pct` of `train` is.
            image: key or position of the image in an item; None to find it.
            mask: key or position of the mask; None to find it.
            classes: as for `from_folders`.
            ignore: as for `from_folders`.
            **options: those of `ImageDataLoaders.from_folder`; `cache` does nothing.
        """
        settings = Settings(_DEFAULTS | options, cls.from_dataset)
        parts = {"train": train} if valid is None else {"train": train, "valid": valid}
        items = items_of(parts, image, mask, masks=True)
        names = [f"{part}[{i}]" for part in parts for i in range(len(parts[part]))]
        marks = None if valid is None else [name.startswith("valid[") for name in names]
        found = read_masked(
            names, names, settings, classes=classes, ignore=ignore, is_valid=marks, items=items
        )
        return cls._of(found, settings)

    @classmethod
    def _masked(
        cls,
        images: Sequence[str],
        masks: Sequence[str],
        is_valid: Sequence[bool] | None,
        settings: Settings,
        classes: Classes | None,
        ignore: Ignore,
    ) -> Self:
        if len(images) != len(masks) or (is_valid is not None and len(is_valid) != len(images)):
            raise DataError(
                f"{len(images)} images, but {len(masks)} masks"
                + ("" if is_valid is None else f" and {len(is_valid)} marks")
                + "; expected one for each."
            )
        found = read_masked(
            images, masks, settings, classes=classes, ignore=ignore, is_valid=is_valid
        )
        return cls._of(found, settings)

    def test_dl(
        self, source: Any, labels: Iterable[Any] | None = None, *, with_labels: bool = False
    ) -> EvalLoader:
        """Batches x of other images, or (x, y) with `labels`, the path of the mask of each."""
        if labels is None:
            return super().test_dl(source)
        images, masks = list_of_files(source), list_of_files(labels)
        reader = self.train_images.masks
        if len(images) != len(masks) or not isinstance(reader, MaskReader):
            raise DataError(f"{len(images)} images, but {len(masks)} masks; expected one for each.")
        reader = replace(reader, items=None)
        positions = range(len(images))
        found, _ = mask_files(reader, images, masks, positions, self.channels, self.on_error)
        chosen = replace(
            self.train_images,
            files=tuple(images[i] for i in found),
            labels=tuple(found.values()),
            items=None,
            masks=reader,
        )
        maker = BatchMaker(ImageDataset(chosen, self.transform), 0, self.device)
        return EvalLoader(maker, self.batch_size)
