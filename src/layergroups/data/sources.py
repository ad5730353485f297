"""The ways in which photos and their labels become `ImageDataLoaders`."""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self, Unpack

from layergroups.calls import Taught
from layergroups.data.balance import Balance
from layergroups.data.cache import DecodedCache
from layergroups.data.checks import OnError
from layergroups.data.datasets import read_datasets
from layergroups.data.folders import read_folder
from layergroups.data.lists import Files, Labeller, find_files, labels_by_name, read_lists
from layergroups.data.photos import Divided, Task
from layergroups.data.pixels import Size
from layergroups.data.settings import Options, Settings
from layergroups.data.tables import Column, read_table, rows_of
from layergroups.data.transforms import CROP_PCT, Augmentation, Transform
from layergroups.input_spec import InputSpec


class Sources(Taught):
    """The constructors of `ImageDataLoaders`; each gives photos, labels and a division."""

    @classmethod
    @abstractmethod
    def _of(cls, found: Divided, settings: Settings) -> Self:
        """Loaders of divided photos."""

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        *,
        train: str = "train",
        valid: str = "valid",
        valid_pct: float = 0.2,
        seed: int = 42,
        size: int | Size = 224,
        batch_size: int = 64,
        bs: int | None = None,
        augment: bool | str | Augmentation | Transform = True,
        normalize: InputSpec | None = None,
        crop_pct: float = CROP_PCT,
        channels: int | None = None,
        num_workers: int | None = None,
        on_error: OnError = "raise",
        cache: bool | str | os.PathLike[str] | DecodedCache = True,
        balance: Balance = False,
    ) -> Self:
        """Read a folder with a sub-folder of photos for each class.

        If the folder has both sub-folders `train` and `valid`, the classes are looked for in those;
        otherwise a share of each class is kept for validation, chosen by the seed. Photos lie
        at any depth below the folder of their class. Hidden files are left out. All photos are
        checked once, before anything else is done.

        Args:
            path: the folder.
            train: name of the sub-folder with the training photos.
            valid: name of the sub-folder with the validation photos.
            valid_pct: share for validation, if there are no such sub-folders.
            seed: decides split, order and variations.
            size: side of the images in a batch, or (height, width), in pixels.
            batch_size: photos in a batch; with fewer training photos, that many.
            bs: another name of `batch_size`, as in fastai.
            augment: True for `Augmentation()`, False for none, a word for stronger variations
                ("rand", "trivial", "auto", "augmix", "erase"), an `Augmentation`, or any function
                of a Pillow image, such as a transform of torchvision.transforms.v2.
            normalize: statistics and interpolation, if not those of the weights that are trained.
            crop_pct: share of the resized image's side that validation keeps.
            channels: of the images: 3 for RGB, the default; 1 keeps them grey; any number for
                arrays (height, width, channels) in .npy files and for TIFF files of as many bands.
                The statistics follow: of the weights' three, the mean, or repeated in a cycle.
            num_workers: processes that prepare batches. By default none where all training photos
                are read in two seconds; else, with an accelerator, one for each core but one, and
                without, none for small photos, because training keeps all cores busy, and one for
                every two cores for large ones (about 200 kB or more); never more than 8.
            on_error: "raise" to stop at broken images, "skip" to leave them out and say so.
            cache: keep the decoded pixels for the next epoch and the next run, in the user's cache
                folder ($LAYERGROUPS_CACHE, else ~/.cache/layergroups; at most 10 GB and a quarter
                of the free disk). A folder, or `DecodedCache(folder, limit)`, for another place;
                False to decode the photos each time. Batches are the same in any case.
            balance: True lets all classes come equally often in training; a dict by class name
                says how often each comes against the others; a list gives a weight to each
                training photo. An epoch has as many photos as before, some of them repeatedly.

        Raises:
            DataError: folder or arguments are not as expected; the message says how.
            BrokenImagesError: images are broken, and `on_error` is "raise"; it lists them.
        """
        settings = Settings(
            valid_pct=valid_pct,
            seed=seed,
            size=size,
            batch_size=batch_size,
            bs=bs,
            augment=augment,
            normalize=normalize,
            crop_pct=crop_pct,
            channels=channels,
            num_workers=num_workers,
            on_error=on_error,
            cache=cache,
            balance=balance,
        )
        found = read_folder(
            path,
            train=train,
            valid=valid,
            valid_pct=valid_pct,
            seed=seed,
            on_error=on_error,
            channels=settings.n_channels,
        )
        return cls._of(found, settings)

    @classmethod
    def from_lists(
        cls,
        files: Iterable[str | os.PathLike[str]],
        labels: Iterable[Any],
        *,
        is_valid: Iterable[bool] | None = None,
        task: Task | None = None,
        vocab: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Photos and their labels, side by side.

        Strings and whole numbers are classes, fractions are numbers to predict, lists of strings
        are several labels of a photo, lists of zeros and ones too, other lists of numbers are
        several numbers to predict. `task` says it where this is wrong: "single" (one class each),
        "multi" (any number of labels, perhaps none) or "regression".

        Args:
            files: paths of the photos.
            labels: of each.
            is_valid: for each, whether it is for validation; else `valid_pct` of them are, of each
                class its share, chosen by the seed.
            task: what the labels are.
            vocab: names of the classes, labels or numbers in the order of the network's outputs.
            **options: the other arguments of `from_folder`: size, batch_size, augment, valid_pct,
                seed, channels, num_workers, on_error, cache, normalize, crop_pct.

        Raises:
            DataError: lists or arguments are not as expected; the message says how.
            BrokenImagesError: images are broken, and `on_error` is "raise"; it lists them.
        """
        settings = Settings.of(options, cls.from_lists)
        found = read_lists(files, labels, settings, is_valid=is_valid, task=task, vocab=vocab)
        return cls._of(found, settings)

    @classmethod
    def from_table(
        cls,
        table: Any,
        folder: str | os.PathLike[str] | None = None,
        *,
        fn_col: Column = 0,
        label_col: Column | Sequence[Column] = 1,
        label_delim: str | None = None,
        valid_col: Column | None = None,
        suff: str = "",
        header: bool = True,
        task: Task | None = None,
        vocab: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """A table with a row for each photo; fastai's `from_df` and `from_csv`.

        One label column holds classes, or fractions to predict, or, with `label_delim`, several
        labels. Several label columns hold 0 and 1, a column for each label, or numbers to predict.
        Whole numbers in one column are classes; to predict them give task="regression".

        Args:
            table: the path of a CSV or TSV file, a frame of pandas or polars, or a dict of columns.
            folder: where the files lie; by default beside the CSV file, or here.
            fn_col: the column of file names, by name or position.
            label_col: the column of labels, or a list of columns.
            label_delim: what stands between several labels in one column, such as " ".
            valid_col: a column that says which rows are for validation (True or False, 1 or 0,
                "valid" or "train"); else `valid_pct` of them are, chosen by the seed.
            suff: what is added to each file name, such as ".jpg".
            header: whether the first line of a CSV file names the columns.
            task: "single", "multi" or "regression", what the labels are.
            vocab: names in the order of the network's outputs, instead of those in the table.
            **options: the other arguments of `from_folder`.

        Raises:
            DataError: table or arguments are not as expected; the message says how.
            BrokenImagesError: images are broken, and `on_error` is "raise"; it lists them.
        """
        settings = Settings.of(options, cls.from_table)
        if folder is None:
            folder = Path(table).parent if isinstance(table, str | os.PathLike) else "."
        rows = rows_of(
            read_table(table, header=header),
            Path(folder).expanduser(),
            fn_col=fn_col,
            label_col=label_col,
            label_delim=label_delim,
            valid_col=valid_col,
            suff=suff,
        )
        found = read_lists(
            rows.files,
            rows.labels,
            settings,
            is_valid=rows.valid,
            task=task,
            vocab=vocab,
            columns=rows.columns,
        )
        return cls._of(found, settings)

    @classmethod
    def from_dataset(
        cls,
        train: Any,
        valid: Any | None = None,
        *,
        image: str | int | None = None,
        label: str | int | None = None,
        task: Task | None = None,
        vocab: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Any map-style dataset: of torchvision, of Hugging Face, or of one's own.

        An item is (image, label), or a dict with both. Images are Pillow images, paths, or arrays
        and tensors that are not yet normalised. All items are read once, to check them. They are
        opened anew for each batch, nothing of them is cached, and what a dataset draws by itself is
        drawn from the seeds too; what is to vary belongs in `augment=`.

        Args:
            train: has len(train) and train[i].
            valid: likewise, for validation; else `valid_pct` of `train` is.
            image: key or position of the image in an item; None to find it.
            label: key or position of the label; None to find it.
            task: as for `from_lists`.
            vocab: names of classes or labels; None for those that the dataset knows (`classes`, or
                the features of Hugging Face), or the labels themselves.
            **options: the other arguments of `from_folder`; `cache` does nothing.

        Raises:
            DataError: datasets, items or arguments are not as expected; the message says how.
            BrokenImagesError: items are broken, and `on_error` is "raise"; it lists them.
        """
        settings = Settings.of(options, cls.from_dataset)
        found = read_datasets(
            train, valid, settings, image=image, label=label, task=task, vocab=vocab
        )
        return cls._of(found, settings)

    @classmethod
    def from_pattern(
        cls,
        files: Files,
        pattern: str | re.Pattern[str] | Labeller,
        *,
        is_valid: Iterable[bool] | None = None,
        task: Task = "single",
        vocab: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        r"""Photos whose names tell their labels; `from_name_re` and `from_path_re` of fastai.

        Args:
            files: a folder, looked through at any depth, or a list of paths.
            pattern: a regular expression that is searched for in each file's name, with the label
                in its one group: r"^(.+)_\d+\.jpg$" for great_pyrenees_173.jpg. If it has a "/", it
                is searched for in the whole path. Or a function from path to label.
            is_valid: as for `from_lists`.
            task: as for `from_lists`; classes unless it says otherwise.
            vocab: as for `from_lists`.
            **options: the other arguments of `from_folder`.

        Raises:
            DataError: names do not fit the pattern, which lists them, or arguments are not as
                expected.
            BrokenImagesError: images are broken, and `on_error` is "raise"; it lists them.
        """
        settings = Settings.of(options, cls.from_pattern)
        paths = find_files(files, settings.n_channels)
        labels = labels_by_name(paths, pattern)
        found = read_lists(paths, labels, settings, is_valid=is_valid, task=task, vocab=vocab)
        return cls._of(found, settings)
