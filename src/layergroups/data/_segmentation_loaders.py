"""`SegmentationDataLoaders`: images and masks as training and validation batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self, Unpack

from layergroups._paths import path_of
from layergroups.data._batches import EvalLoader
from layergroups.data._eval_loaders import varied_views
from layergroups.data._image_loaders import ImageDataLoaders
from layergroups.data._samples import names_of
from layergroups.data._source import View
from layergroups.data.image import Augmentation, OnError
from layergroups.data.sources import (
    Classes,
    Column,
    Files,
    Options,
    Settings,
    checked_marks,
    find_files,
    items_of,
    list_of_files,
    masks_by,
    paired,
    paired_by_label,
    paths_of_masks,
    read_masked,
    read_table,
    rows_of,
    values_of,
)
from layergroups.errors import DataError, TrainingError
from layergroups.tasks import missing

_DEFAULTS: Options = {"size": 256, "batch_size": 8, "augment": True}
# Milder than for labels: smaller parts lowered the IoU on two data sets (benchmarks/README.md).
_VARIED: Final = Augmentation(scale=(0.8, 1.0))
Ignore = int | str | tuple[int, int, int] | list[Any] | None


def _settings(options: Options, way: Any) -> Settings:
    """The arguments of a constructor, with the defaults of masks."""
    known = _DEFAULTS | options
    if known["augment"] is True:
        known["augment"] = _VARIED
    return Settings(known, way)


class SegmentationDataLoaders(ImageDataLoaders):
    """Images and their masks as batches for training and for validation.

    Make it with `from_folders`, `from_lists`, `from_table`, `from_function` or `from_dataset`.
    Batches are pairs (x, y): x is float32 (N, channels, height, width), normalised; y is int64
    (N, height, width), the class of every pixel, -100 where it is ignored. Image and mask are
    varied together; with `augment=True`, the default, at least 0.8 of the image is cut out. The
    whole image is resized to `size`, masks without interpolation. With `overlapping=True` a pixel
    has any number of labels: y is float32 (N, labels, height, width).

    All masks are read once, first: missing ones, those of another size than their image, and those
    with values that no class has are named by their paths.

    Attributes: those of `ImageDataLoaders`.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.augment, Augmentation) and self.augment.policy is not None:
            raise DataError(
                f"augment={self.augment.policy!r} varies images without their masks. Use True, "
                '"erase", "document", an Augmentation without policy, or transforms of '
                "torchvision.transforms.v2 that take both."
            )

    def tta_views(self, batches: Iterable[Any], n: int) -> Sequence[View]:
        """The mirrored images, whatever n is: predictions of other parts would lie elsewhere."""
        super().tta_views(batches, n)  # refuses what cannot be augmented
        assert isinstance(batches, EvalLoader)
        if isinstance(self.augment, Augmentation) and not self.augment.flip:
            raise TrainingError(
                "tta of masks averages the predictions of an image and of its mirror image, but "
                "augment= never mirrors these data. Use learn.get_preds()."
            )
        mirrored = Augmentation(scale=(1.0, 1.0), flip=1.0, brightness=0.0, contrast=0.0)
        (view,) = varied_views(batches, mirrored, self.seed, 1)
        return [View(view, lambda predictions: predictions.flip(-1))]

    @classmethod
    def from_folders(
        cls,
        images: str | os.PathLike[str],
        masks: str | os.PathLike[str],
        *,
        classes: Classes | None = None,
        ignore: Ignore = None,
        overlapping: bool = False,
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
                line; or a dict with the value or the colour (red, green, blue) of each. In a file
                or a list, colours are written as "road #804080", "road 128 64 128" or
                "128 64 128 road", and values as "7 road" or "7: road". None: the values 0 and 1, or
                0 and 255, are background and foreground.
            ignore: a class, a value or a colour, or a list of them, whose pixels count neither in
                the loss nor in metrics; 255 where no class has it.
            overlapping: labels may overlap. Their masks, of 0 and 1, or 255, are in a folder below
                `masks` for each label; or each file holds a layer for each: channels of a PNG,
                pages of a TIFF, an array (H, W, labels). `classes` are the names in the order of
                the layers; `ignore` is a value of pixels that do not count for one label.
            suffix: what the names of masks have more than those of their images, such as "_mask".
            **options: those of `ImageDataLoaders.from_folder`, as in all of these constructors.

        Raises:
            DataError: folders or arguments are not as expected, or masks are missing.
            BrokenImagesError: images or masks are broken, and `on_error` is "raise".
        """
        settings = _settings(options, cls.from_folders)
        pairs = (images, masks, suffix, settings.n_channels)
        if overlapping:
            files, layers, marks, names = paired_by_label(*pairs, classes, settings.on_error)
            return cls._masked(files, layers, marks, settings, names, ignore, overlapping)
        files, found, marks = paired(*pairs, settings.on_error)
        return cls._masked(files, [(path,) for path in found], marks, settings, classes, ignore)

    @classmethod
    def from_lists(  # type: ignore[override] # masks instead of labels
        cls,
        images: Iterable[str | os.PathLike[str]],
        masks: Iterable[Any],
        *,
        is_valid: Iterable[bool] | None = None,
        classes: Classes | None = None,
        ignore: Ignore = None,
        overlapping: bool = False,
        **options: Unpack[Options],
    ) -> Self:
        """Images and their masks, side by side; the arguments are those of `from_folders`.

        Args:
            images: paths of the images.
            masks: the path of the mask of each image; or, with `overlapping`, a list of the paths
                of its labels, None for a label that it does not have.
            is_valid: for each, whether it is for validation; else the seed chooses.
            classes: as for `from_folders`.
            ignore: as for `from_folders`.
            overlapping: as for `from_folders`.
            **options: those of `ImageDataLoaders.from_folder`.
        """
        settings = _settings(options, cls.from_lists)
        files, found = list_of_files(images), paths_of_masks(masks, overlapping)
        marks = None if is_valid is None else checked_marks(is_valid)
        return cls._masked(files, found, marks, settings, classes, ignore, overlapping)

    @classmethod
    def from_table(  # type: ignore[override] # masks instead of labels
        cls,
        table: Any,
        folder: str | os.PathLike[str] | None = None,
        *,
        fn_col: Column = 0,
        mask_col: Column | Sequence[Column] = 1,
        valid_col: Column | None = None,
        header: bool = True,
        classes: Classes | None = None,
        ignore: Ignore = None,
        overlapping: bool = False,
        **options: Unpack[Options],
    ) -> Self:
        """A table with a row for each image; both columns hold paths below `folder`.

        Args:
            table: a CSV or TSV file, a frame of pandas or polars, or a dict of columns.
            folder: of the files; by default that of the CSV file, or the current one.
            fn_col: the column of images, by name or position.
            mask_col: the column of masks; or, with `overlapping`, a column for each label, whose
                names are those of the labels, and in which an empty cell means no such label.
            valid_col: a column that marks which rows are for validation.
            header: whether the first line of a CSV file names the columns.
            classes: as for `from_folders`.
            ignore: as for `from_folders`.
            overlapping: as for `from_folders`.
            **options: those of `ImageDataLoaders.from_folder`.
        """
        settings = _settings(options, cls.from_table)
        if folder is None:
            folder = Path(table).parent if isinstance(table, str | os.PathLike) else "."
        where = path_of(folder, DataError, 'folder="images"').expanduser()
        read = read_table(table, header=header)
        columns = [mask_col] if isinstance(mask_col, str | int) else list(mask_col)
        named = [read.column(key, "mask_col") for key in columns]
        rows = rows_of(
            read, where, fn_col=fn_col, label_col=columns[0], label_delim=None,
            valid_col=valid_col, suff="", task=None,
        )  # fmt: skip
        masks = [
            [None if missing(cell) else os.fspath(where / str(cell)) for cell in row]
            for row in zip(*(cells for _, cells in named), strict=True)
        ]
        if overlapping and classes is None and len(named) > 1:
            classes = [name for name, _ in named]
        single = masks if overlapping else _only(masks, settings.on_error)
        found = paths_of_masks(single, overlapping)
        return cls._masked(rows.files, found, rows.valid, settings, classes, ignore, overlapping)

    @classmethod
    def from_function(
        cls,
        images: Files,
        function: Callable[[Path], Any],
        *,
        is_valid: Callable[[Path], bool] | None = None,
        classes: Classes | None = None,
        ignore: Ignore = None,
        overlapping: bool = False,
        **options: Unpack[Options],
    ) -> Self:
        """Images whose masks a function finds; `from_label_func` of fastai.

        Args:
            images: a folder, searched at any depth, or a list of paths.
            function: the path of the mask of an image, from the image's path; or, with
                `overlapping`, a list of paths as for `from_lists`.
            is_valid: whether an image is for validation, from its path; else the seed chooses.
            classes: as for `from_folders`.
            ignore: as for `from_folders`.
            overlapping: as for `from_folders`.
            **options: those of `ImageDataLoaders.from_folder`.
        """
        settings = _settings(options, cls.from_function)
        files = find_files(images, settings.n_channels)
        marks = None if is_valid is None else [bool(is_valid(Path(file))) for file in files]
        masks = masks_by(function, files, overlapping)
        return cls._masked(files, masks, marks, settings, classes, ignore, overlapping)

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
        overlapping: bool = False,
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
            overlapping: a mask is an array (H, W, labels) or (labels, H, W), or a list with a mask
                for each label, None for one that the image does not have.
            **options: those of `ImageDataLoaders.from_folder`; `cache` does nothing.
        """
        settings = _settings(options, cls.from_dataset)
        parts = {"train": train} if valid is None else {"train": train, "valid": valid}
        items = items_of(parts, image, mask, masks=True)
        names = [f"{part}[{i}]" for part in parts for i in range(len(parts[part]))]
        marks = None if valid is None else [name.startswith("valid[") for name in names]
        found = read_masked(
            names, [(name,) for name in names], settings, classes=classes, ignore=ignore,
            overlapping=overlapping, is_valid=marks, items=items,
        )  # fmt: skip
        return cls._of(found, settings)

    @classmethod
    def _masked(
        cls,
        images: Sequence[str],
        masks: Sequence[Sequence[str]],
        is_valid: Sequence[bool] | None,
        settings: Settings,
        classes: Classes | None,
        ignore: Ignore,
        overlapping: bool = False,
    ) -> Self:
        if len(images) != len(masks) or (is_valid is not None and len(is_valid) != len(images)):
            raise DataError(
                f"{len(images)} images, but {len(masks)} masks"
                + ("" if is_valid is None else f" and {len(is_valid)} marks")
                + "; expected one for each."
            )
        found = read_masked(
            images, masks, settings, classes=classes, ignore=ignore, overlapping=overlapping,
            is_valid=is_valid,
        )  # fmt: skip
        return cls._of(found, settings)

    @property
    def mask_values(self) -> tuple[Any, ...]:
        return values_of(self.train_images.masks)

    def transform_config(self) -> dict[str, Any]:
        reader = self.train_images.masks
        return super().transform_config() | ({"masks": reader.to_config()} if reader else {})


def _only(rows: Sequence[Sequence[str | None]], on_error: OnError) -> list[str]:
    """The one mask of each row; with `on_error="skip"` it may be ""."""
    empty = [i for i, row in enumerate(rows) if len(row) != 1 or row[0] is None]
    columns = max(map(len, rows), default=1)
    if empty and (on_error == "raise" or columns > 1 or len(empty) == len(rows)):
        raise DataError(
            f"Rows {names_of(empty)} (counted from 0) do not have one mask each. A column for each "
            "label, in which cells may be empty, needs overlapping=True."
        )
    return [row[0] or "" for row in rows]
