"""`ImageDataLoaders`: images as training and validation batches."""

from __future__ import annotations

import logging
import os
import re
import zlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self, Unpack

import torch

from layergroups._checks import whole_number
from layergroups._fingerprint import checksum, stable_text
from layergroups._formatting import count, first_few
from layergroups._random import derived_seed
from layergroups._suggestions import SuggestsNames
from layergroups.data._batches import (
    CPU,
    Balance,
    BatchMaker,
    EvalLoader,
    ImageDataset,
    Item,
    TrainLoader,
    item_weights,
)
from layergroups.data._eval_loaders import Paths as Paths
from layergroups.data._eval_loaders import loader_of, varied_views
from layergroups.data._samples import Samples, Split, folds_of, joined
from layergroups.data._source import DataFacts, DataSource, View, few
from layergroups.data.image import (
    CROP_PCT,
    Augmentation,
    BrokenImage,
    DecodedCache,
    EvalTransform,
    ImageSource,
    OnError,
    Size,
    TrainTransform,
    Transform,
)
from layergroups.data.inspect import BatchPicture, DataSummary, draw_batch, image_facts, summarise
from layergroups.data.sources import (
    Column,
    Files,
    Labeller,
    Options,
    Settings,
    find_files,
    labels_by_name,
    read_datasets,
    read_folder,
    read_lists,
    read_table,
    rows_of,
)
from layergroups.errors import DataError, TrainingError
from layergroups.input_spec import InputSpec
from layergroups.tasks import Task

_LOG = logging.getLogger("layergroups")
_CLASSES_SHOWN = 10


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataLoaders(SuggestsNames, DataSource):
    """Images and their labels as batches for training and for validation.

    Make it with `from_folder`, `from_table`, `from_lists`, `from_pattern` or `from_dataset`.
    Batches are pairs (x, y): x is float32 (N, channels, height, width), normalised, in
    channels-last memory format. Where each image has one class, y is int64 (N,), positions in
    `vocab`; where it has several labels, float32 (N, C), 1 for its labels and else 0; where numbers
    are predicted, float32 (N, C). The batches depend only on the seed, the epoch and
    the images, not on the number of workers or the global random state, which stays unchanged.

    Attributes:
        train_images: files and labels for training.
        valid_images: files and labels for validation.
        vocab: names of the classes, sorted; of the labels; or of the numbers to predict.
        size: height and width of the images in a batch, in pixels.
        batch_size: images in a batch.
        augment: how training images are augmented; None for no augmentation.
        input: the statistics and the interpolation in use.
        input_is_default: whether the library chose them (ImageNet's, or those of the weights that
            `bind` was given) and not the user.
        broken: items left out, where `on_error` is "skip": images that cannot be read, or that
            have no label or mask.
        device: where the batches are, see `to`.

    The others are options of `from_folder`.
    """

    train_images: Samples
    valid_images: Samples
    vocab: tuple[str, ...]
    size: Size
    batch_size: int
    augment: Augmentation | Transform | None = field(default_factory=Augmentation)
    input: InputSpec = field(default_factory=InputSpec)
    input_is_default: bool = True
    crop_pct: float = CROP_PCT
    seed: int = 42
    num_workers: int = 0
    on_error: OnError = "raise"
    cache: DecodedCache | None = None
    broken: tuple[BrokenImage, ...] = ()
    balance: Balance = False
    device: torch.device = CPU

    def __post_init__(self) -> None:
        item_weights(self.balance, self.train_images, self.vocab)  # checks the argument

    @classmethod
    def from_folder(
        cls,
        path: str | os.PathLike[str],
        *,
        train: str = "train",
        valid: str = "valid",
        **options: Unpack[Options],
    ) -> Self:
        """Read a folder with a sub-folder of images for each class.

        If the folder has both sub-folders `train` and `valid`, these hold the class folders, else
        the seed chooses a share of each class for validation. Images may be at any depth below the
        folder of their class. Hidden files are left out. All images are checked once, first.

        Args:
            path: the folder.
            train: name of the sub-folder with the training images.
            valid: name of the sub-folder with the validation images.
            **options: the arguments below, which all of these constructors have.

        Options:
            valid_pct: share for validation, if there are no such sub-folders.
            seed: decides split, order and augmentation.
            size: side of the images in a batch, or (height, width), in pixels.
            batch_size: images in a batch, at most the number of training images.
            bs: fastai's name of `batch_size`.
            augment: True for `Augmentation()`, False for none, a name for stronger augmentation
                ("rand", "trivial", "auto", "augmix", "erase"), "document" for letters, signs and
                spectrograms (neither mirrored nor cut), an `Augmentation`, or any function of a
                Pillow image, such as a transform of torchvision.transforms.v2.
            normalize: statistics and interpolation, if not those of the weights that are trained.
            crop_pct: share of the resized image's side that validation keeps.
            channels: of the images: 3 for RGB, the default; 1 keeps them grey; any number for
                arrays (height, width, channels) in .npy files and for TIFF files of as many bands.
                The statistics follow: of the weights' three, the mean, or repeated in a cycle.
            num_workers: processes that prepare batches. By default none where all training images
                are read in two seconds; else, with an accelerator, one for each core but one, and
                without, none for small images, because training keeps all cores busy, and one for
                every two cores for large ones (about 200 kB or more); never more than 8.
            on_error: "raise" to stop at broken images, and at items without a label or a mask;
                "skip" to leave them out and log it.
            cache: store the decoded pixels for the next epoch and the next run, in the user's cache
                folder ($LAYERGROUPS_CACHE, else ~/.cache/layergroups; at most 10 GB and a quarter
                of the free disk). A folder, or `DecodedCache(folder, limit)`, for another place;
                False to decode the images each time. Batches are the same in any case.
            balance: True samples all classes equally often in training; a dict by class name
                gives the relative frequency of each; a list gives a weight to each
                training image. An epoch has as many images as before, some of them repeatedly.

        Raises:
            DataError: folder or arguments are not as expected.
            BrokenImagesError: images are broken, and `on_error` is "raise"; it lists them.
        """
        settings = Settings(options, cls.from_folder)
        found = read_folder(
            path,
            train=train,
            valid=valid,
            valid_pct=settings.valid_pct,
            seed=settings.seed,
            on_error=settings.on_error,
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
        task: Task | str | None = None,
        vocab: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Images and their labels, side by side.

        Strings and integers are classes, other numbers are to be predicted, lists of strings
        are several labels of an image, lists of zeros and ones too, other lists of numbers are
        several numbers to predict. If this rule is wrong, give `task`: "multiclass" (one class
        each), "multilabel" (any number of labels, perhaps none) or "regression".

        Args:
            files: paths of the images.
            labels: the label of each image.
            is_valid: for each, whether it is for validation; else the seed chooses
                `valid_pct` of each class.
            task: what the labels are.
            vocab: names of the classes, labels or numbers in the order of the network's outputs.
            **options: the options of `from_folder`, as in all of these constructors.

        Raises:
            DataError, BrokenImagesError: as for `from_folder`, in all of these constructors.
        """
        settings = Settings(options, cls.from_lists)
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
        task: Task | str | None = None,
        vocab: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """A table with a row for each image; fastai's `from_df` and `from_csv`.

        One label column holds classes, or fractions to predict, or, with `label_delim`, several
        labels. Several label columns hold 0 and 1, a column for each label, or numbers to predict.
        Integers in one column are classes; to predict them give task="regression".

        Args:
            table: the path of a CSV or TSV file, a frame of pandas or polars, or a dict of columns.
            folder: of the files; by default that of the CSV file, or the current one.
            fn_col: the column of file names, by name or position.
            label_col: the column of labels, or a list of columns.
            label_delim: separates several labels in one column, such as " ".
            valid_col: a column that marks which rows are for validation (True or False, 1 or 0,
                "valid" or "train"); else `valid_pct` of them are, chosen by the seed.
            suff: what is added to each file name, such as ".jpg".
            header: whether the first line of a CSV file names the columns.
            task: as for `from_lists`.
            vocab: as for `from_lists`.
            **options: the options of `from_folder`.
        """
        settings = Settings(options, cls.from_table)
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
            task=task,
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
        task: Task | str | None = None,
        vocab: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        """Any map-style dataset: of torchvision, of Hugging Face, or your own class.

        An item is (image, label), or a dict with both. Images are Pillow images, paths, or arrays
        and tensors that are not yet normalised. All items are read once, to check them. They are
        opened again for each batch and not cached. Random numbers that the dataset draws depend on
        the seed too; augmentation belongs in `augment=`.

        Args:
            train: has len(train) and train[i].
            valid: the same, for validation; else `valid_pct` of `train` is.
            image: key or position of the image in an item; None to find it.
            label: key or position of the label; None to find it.
            task: as for `from_lists`.
            vocab: names of classes or labels; None for those that the dataset knows (`classes`, or
                the features of Hugging Face), or the labels themselves.
            **options: the options of `from_folder`; `cache` does nothing.
        """
        settings = Settings(options, cls.from_dataset)
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
        task: Task | str = "multiclass",
        vocab: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> Self:
        r"""Images with labels in their names; `from_name_re` and `from_path_re` of fastai.

        Args:
            files: a folder, searched at any depth, or a list of paths.
            pattern: a regular expression that is searched for in each file's name, with the label
                in its one group: r"^(.+)_\d+\.jpg$" for great_pyrenees_173.jpg. If it has a "/", it
                is searched for in the whole path. Or a function from path to label.
            is_valid: as for `from_lists`.
            task: as for `from_lists`; classes by default.
            vocab: as for `from_lists`.
            **options: the options of `from_folder`.
        """
        settings = Settings(options, cls.from_pattern)
        paths = find_files(files, settings.n_channels)
        labels = labels_by_name(paths, pattern)
        found = read_lists(paths, labels, settings, is_valid=is_valid, task=task, vocab=vocab)
        return cls._of(found, settings)

    @classmethod
    def _of(cls, found: Split, settings: Settings) -> Self:
        n, wanted = len(found.train), settings.batch_size
        if n < wanted:
            _LOG.warning("Only %d training images: batch_size is %d instead of %d.", n, n, wanted)
        made = settings.loading(found.train)
        if made["cache"] is not None and found.train.items is None:
            made["cache"].announce()
        return cls(found.train, found.valid, found.vocab, broken=found.broken, **made)

    @cached_property
    def train(self) -> TrainLoader:
        """Shuffled and augmented training batches; its `epoch` is that of the next pass."""
        weights = item_weights(self.balance, self.train_images, self.vocab)
        return TrainLoader(self._train_maker, self.batch_size, self.seed, weights)

    @cached_property
    def valid(self) -> EvalLoader:
        """Validation batches, in the order of `valid_images`."""
        samples = ImageDataset(self.valid_images, self.transform, cache=self.cache)
        maker = BatchMaker(samples, self.num_workers, self.device)
        return EvalLoader(maker, self.batch_size)

    @cached_property
    def train_eval(self) -> EvalLoader:
        """The training images as they are, not shuffled and not augmented."""
        return EvalLoader(self._train_maker, self.batch_size)

    def views(self, epoch: int | None) -> EvalLoader:
        """The training images in their order, augmented as in an epoch (any whole number)."""
        if self.augment is None or epoch is None:
            return self.train_eval
        return EvalLoader(
            self._train_maker, self.batch_size, lambda i: derived_seed(self.seed, epoch, i)
        )

    def tta_views(self, batches: Iterable[Any], n: int) -> Sequence[View]:
        if not isinstance(batches, EvalLoader):
            return super().tta_views(batches, n)
        if self.augment is None:
            raise TrainingError(
                "The data have no augmentation, so all views would be the same. Give them one: "
                "ImageDataLoaders.from_folder(..., augment=True)."
            )
        return [View(view) for view in varied_views(batches, self.augment, self.seed, n)]

    def test_batches(self, items: Any) -> EvalLoader:
        return self.test_dl(items)

    def test_dl(
        self, source: Any, labels: Iterable[Any] | None = None, *, with_labels: bool = False
    ) -> EvalLoader:
        """Batches x of other images, or (x, y) where their labels are known; with `paths`.

        Args:
            source: an image, a list of images, a folder of images at any depth, or a dataset.
            labels: of a list of images, a label for each, as these data were made of.
            with_labels: take them from the class folders in the folder, or from the dataset.

        Raises:
            DataError: there are no images, or labels do not fit them or are not known.
            BrokenImagesError: images are broken, and `on_error` is "raise".
        """
        return loader_of(
            source,
            labels,
            with_labels,
            task=self.task,
            vocab=self.vocab,
            transform=self.transform,
            items=self.train_images.items,
            masks=self.train_images.masks,
            batch_size=self.batch_size,
            on_error=self.on_error,
            device=self.device,
        )

    def folds(self, n: int = 5, *, seed: int | None = None) -> Iterator[ImageDataLoaders]:
        """All images, training and validation, as n loaders, for cross-validation.

        Each part is for validation once. Every fold has the same share of each class; the same seed
        gives the same folds, however the images were split before.

        Args:
            n: how many folds.
            seed: decides the folds; None for that of these data.
        """
        samples = joined(self.train_images, self.valid_images)
        parts = folds_of(samples, n, self.seed if seed is None else seed)
        return (
            replace(
                self,
                train_images=samples.take(train),
                valid_images=samples.take(valid),
                batch_size=min(self.batch_size, len(train)),
            )
            for train, valid in parts
        )

    def load(self, source: ImageSource) -> torch.Tensor:
        """One image as the network takes it: float32 (channels, height, width), normalised."""
        return self.transform(source)

    def one_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first batch of the next training epoch; changes nothing."""
        return self._train_maker.batch(next(self.train.plan(self.train.epoch)))

    def show_batch(
        self,
        path: str | os.PathLike[str] | None = None,
        n: int = 9,
        *,
        valid: bool = False,
        unique: bool = False,
    ) -> BatchPicture:
        """Draw images as the network sees them, with their labels; changes nothing.

        Args:
            path: a file ending with .png, .svg or .pdf to write; a notebook shows the result.
            n: how many images.
            valid: of the validation images, instead of those of the next training epoch.
            unique: one image in n variations, to see the augmentation.
        """
        whole_number("n", n, 1, 9, DataError)
        items = self._shown_items(n, valid, unique)
        x, y = (self.valid if valid else self.train).maker.batch(items)
        picture = draw_batch(x.cpu(), y, self.task, self.vocab, self.input)
        if path is not None:
            picture.save(path)
        return picture

    def _shown_items(self, n: int, valid: bool, unique: bool) -> list[Item]:
        if valid:
            return [(0 if unique else i, None) for i in range(min(n, len(self.valid_images)))]
        planned = list(islice(chain.from_iterable(self.train.plan(self.train.epoch)), n))
        position, seed = planned[0]
        if not unique or seed is None:
            return planned[:1] if unique else planned
        return [(position, derived_seed(seed, i) if i else seed) for i in range(n)]

    def summary(self) -> DataSummary:
        """What the images are like: counts, sizes, broken files, copies; prints as a table.

        It reads the header of every file, about 0.1 ms each, and the content of files of equal
        size; of a dataset it opens every item.
        """
        return summarise(
            self.train_images, self.valid_images, self.vocab, self.size, self.channels, self.broken
        )

    def to(self, device: torch.device | str) -> Self:
        """Put all further batches on a device; a learner calls this itself.

        Pixels are copied as bytes, a quarter of the size of normalised ones.
        """
        object.__setattr__(self, "device", torch.device(device))
        for loader in (self.train, self.valid):
            loader.maker.to(self.device)
        return self

    def bind(self, spec: InputSpec) -> ImageDataLoaders:
        """The same images with the statistics and the interpolation of the weights in use.

        Size and channels stay, and so do epoch and `input_is_default`; statistics of other channels
        are adapted, as `InputSpec.for_channels` says.
        """
        bound = replace(self, input=spec.for_channels(self.channels))
        bound.train.set_epoch(self.train.epoch)
        return bound

    @property
    def augmentation(self) -> object:
        return self.augment

    @property
    def augmented(self) -> bool:
        return self.augment is not None

    @property
    def sampling_weights(self) -> torch.Tensor | None:
        return self.train.weights

    def targets(self) -> torch.Tensor:
        return self.train_images.targets()

    def training(
        self,
        *,
        size: Size | None = None,
        batch_size: int = 0,
        left_out: Collection[int] = (),
        plain: bool = False,
    ) -> TrainLoader:
        varied: dict[str, Any] = {} if size is None else {"size": size}
        varied |= {"augment": None} if plain else {}
        own = replace(self, **varied).train if varied else self.train
        return TrainLoader(
            own.maker, batch_size or own.batch_size, self.seed, own.weights, left_out
        )

    def fingerprint(self) -> str:
        settings = (self.size, self.input, self.augment, self.crop_pct, self.seed)
        masks = () if self.train_images.masks is None else (self.train_images.masks,)
        return stable_text((*settings, self._names_checksum, *masks))

    @cached_property
    def _names_checksum(self) -> int:
        """Checksum of the last two parts of each path, so that the folder may be moved."""
        found = 0
        for file in (*self.train_images.read_files, *self.valid_images.read_files):
            found = zlib.crc32(os.fsencode("/".join(Path(file).parts[-2:])), found)
        return found

    def file_stamps(self) -> str:
        """Sizes and times of the files, as a checksum."""
        found = 0
        for file in (*self.train_images.read_files, *self.valid_images.read_files):
            with suppress(OSError):  # an item of a dataset, or removed
                status = os.stat(file)
                found = zlib.crc32(b"%d %d" % (status.st_size, status.st_mtime_ns), found)
        return str(found)

    def checksums(self) -> str:
        parts = (self.train_images, self.valid_images)
        labels, sizes = 0, 0
        for part in parts:
            labels = checksum(part.targets(), labels)
            for file in part.files:
                with suppress(OSError):  # an item of a dataset, or removed
                    sizes = zlib.crc32(b"%d" % os.stat(file).st_size, sizes)
        return f"names {self._names_checksum:08x}, labels {labels:08x}, sizes {sizes:08x}"

    def facts(self, *, read_files: bool = True) -> DataFacts:
        general = super().facts().facts
        parts = (self.train_images, self.valid_images)
        summary = self.summary() if read_files else None
        return image_facts(*parts, self.vocab, self.augment, self.broken, general, summary)

    def transform_config(self) -> dict[str, Any]:
        return self.transform.to_config()

    @cached_property
    def transform(self) -> EvalTransform:
        """The transform of validation and prediction."""
        return EvalTransform(self.size, self.input, self.crop_pct, self.task.per_pixel)

    @property
    def task(self) -> Task:
        return self.train_images.task

    @property
    def channels(self) -> int:
        """Channels of the images: 3 for RGB, 1 for grey."""
        return self.input.channels

    @cached_property
    def _train_maker(self) -> BatchMaker:
        varied = None if self.augment is None else TrainTransform(self.augment, self.transform)
        samples = ImageDataset(self.train_images, self.transform, varied, self.cache)
        return BatchMaker(samples, self.num_workers, self.device)

    def __repr__(self) -> str:
        spec, kind, counts = self.input, self.task.many, self._counts()
        channels = "" if self.channels == 3 else f", {self.channels} channel(s)"
        workers = count(self.num_workers, "worker") if self.num_workers else "no workers"
        return (
            f"{type(self).__name__}: {len(self.train_images)} training and "
            f"{len(self.valid_images)} validation images of {self.c} {kind}\n"
            f"  {kind} (train + valid): {counts}\n"
            f"  images: {self.size[0]} x {self.size[1]} pixels (height x width){channels}, "
            f"in batches of {self.batch_size}, {workers}\n"
            f"  training images: {'not augmented' if self.augment is None else self.augment}\n"
            f"  statistics: mean ({few(spec.mean)}), std ({few(spec.std)}), "
            f"{spec.interpolation} ({spec.source})"
        )

    def _counts(self) -> str:
        if not self.task.has_counts:
            return ", ".join(self.vocab)
        train, valid = (p.counts(self.c) for p in (self.train_images, self.valid_images))
        each = (f"{name} {t} + {v}" for name, t, v in zip(self.vocab, train, valid, strict=True))
        return first_few(each, _CLASSES_SHOWN)
