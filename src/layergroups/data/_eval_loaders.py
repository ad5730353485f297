"""Batches of images for prediction, validation and test-time augmentation."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch

from layergroups.data._batches import (
    BatchMaker,
    EvalLoader,
    PhotoDataset,
    checked_workers,
    default_workers,
    view_seed,
)
from layergroups.data._samples import Samples
from layergroups.data._source import Batches, DataSource
from layergroups.data.image import (
    Augmentation,
    EvalTransform,
    ImageSource,
    OnError,
    TrainTransform,
    Transform,
)
from layergroups.data.sources import (
    Column,
    Items,
    Settings,
    check_batch_size,
    is_dataset,
    list_of_files,
    photos_of,
    read_labelled,
    read_table,
    read_test_dataset,
    read_unlabelled,
    rows_of,
    sound_positions,
)
from layergroups.errors import DataError, TrainingError
from layergroups.tasks import Task, parse_labels

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def test_samples(
    source: Any,
    labels: Iterable[Any] | None,
    with_labels: bool,
    *,
    train: Samples,
    vocab: Sequence[str],
    settings: Settings,
) -> Samples:
    """The images of `ImageDataLoaders.test_dl`, whose arguments the first three are."""

    def labelled(photos: Samples, known: Sequence[Any]) -> Samples:
        targets = parse_labels(known, photos.files, task=train.task, vocab=vocab)
        return photos_of(photos.files, targets, photos.items)

    how: dict[str, Any] = {"on_error": settings.on_error, "channels": settings.n_channels}
    if is_dataset(source):
        own = train.items if isinstance(train.items, Items) else None
        photos, known = read_test_dataset(source, settings, own)
        return labelled(photos, known) if with_labels else photos
    if labels is not None:
        files, given = list_of_files(source), list(labels)
        if len(files) != len(given):
            raise DataError(f"{len(files)} images, but {len(given)} labels; expected one for each.")
        sound, _ = sound_positions(files, settings)
        return labelled(Samples(tuple(files[i] for i in sound)), [given[i] for i in sound])
    if not with_labels:
        return read_unlabelled(source, **how)
    if isinstance(source, str | os.PathLike) and train.task.reads_folders:
        return read_labelled(source, vocab, **how)
    raise DataError(
        "with_labels=True takes the classes from the folders in a folder, or the labels from a "
        "dataset. For a list: test_dl(paths, labels=[...]), a label for each."
    )


class LoaderOptions(TypedDict, total=False):
    """How images are read.

    Attributes:
        batch_size: images in a batch, 64.
        num_workers: processes that prepare batches; None to choose as `ImageDataLoaders` does.
        on_error: "raise" or "skip", what to do with broken images.
    """

    batch_size: int
    num_workers: int | None
    on_error: OnError


def unlabelled_batches(
    paths: Paths, transform: EvalTransform, **options: Unpack[LoaderOptions]
) -> EvalLoader:
    """Batches x of an image, a list of images or all images below a folder, without labels.

    Args:
        paths: the images.
        transform: applied to each; for an exported model, `transform_from_config`.
        **options: see `LoaderOptions`.

    Raises:
        DataError: there are no images.
        BrokenImagesError: images are broken, and `on_error` is "raise".
    """
    how = options.get("on_error", "raise")
    photos = read_unlabelled(paths, on_error=how, channels=transform.channels)
    return _loader(photos, transform, options)


def labelled_batches(
    path: str | os.PathLike[str],
    vocab: Sequence[str],
    transform: EvalTransform,
    **options: Unpack[LoaderOptions],
) -> EvalLoader:
    """Batches (x, y) of a folder of class folders, to validate a model.

    Args:
        path: the folder; classes of `vocab` may be missing, but others are an error.
        vocab: the classes of the model.
        transform: as for `unlabelled_batches`.
        **options: see `LoaderOptions`.

    Raises:
        DataError: the folder has no images, or classes that `vocab` does not have.
        BrokenImagesError: images are broken, and `on_error` is "raise".
    """
    how = options.get("on_error", "raise")
    photos = read_labelled(path, vocab, on_error=how, channels=transform.channels)
    return _loader(photos, transform, options)


def table_batches(
    table: str | os.PathLike[str],
    vocab: Sequence[str],
    task: Task,
    transform: EvalTransform,
    *,
    label_col: Column | Sequence[Column] = 1,
    label_delim: str | None = None,
    valid_col: Column | None = None,
    folder: Path | None = None,
    **options: Unpack[LoaderOptions],
) -> EvalLoader:
    """Batches (x, y) of the images in a CSV or TSV file; of its validation rows, if it marks them.

    Args:
        table: the file.
        vocab: names of the model's outputs.
        task: what they predict.
        transform: as for `unlabelled_batches`.
        label_col: as for `ImageDataLoaders.from_table`.
        label_delim: likewise.
        valid_col: likewise.
        folder: where the images are; None: beside the table.
        **options: see `LoaderOptions`.

    Raises:
        DataError: the table is not as expected, or has labels that `vocab` does not have.
        BrokenImagesError: images are broken, and `on_error` is "raise".
    """
    rows = rows_of(
        read_table(table),
        Path(table).parent if folder is None else folder,
        fn_col=0,
        label_col=label_col,
        label_delim=label_delim,
        valid_col=valid_col,
        suff="",
        task=task,
    )
    wanted = [i for i in range(len(rows.files)) if rows.valid is None or rows.valid[i]]
    files = [rows.files[i] for i in wanted]
    how = options.get("on_error", "raise")
    sound, _ = sound_positions(files, Settings(on_error=how, channels=transform.channels))
    files = [files[i] for i in sound]
    labels = [rows.labels[wanted[i]] for i in sound]
    photos = photos_of(files, parse_labels(labels, files, task=task, vocab=vocab))
    return _loader(photos, transform, options)


def _loader(photos: Samples, transform: EvalTransform, options: LoaderOptions) -> EvalLoader:
    workers = checked_workers(options.get("num_workers"))
    maker = BatchMaker(
        PhotoDataset(photos, transform), default_workers(photos) if workers is None else workers
    )
    return EvalLoader(maker, check_batch_size(options.get("batch_size", 64)))


class InferenceData(DataSource):
    """The data of a learner loaded for prediction: a transform, no images.

    Args:
        vocab: names of the classes.
        transform: makes a tensor (C, H, W) of a path, a PIL image, an array or a tensor.
        task: what the model predicts.
    """

    seed = 0
    batch_size = 64

    def __init__(self, vocab: tuple[str, ...], transform: EvalTransform, task: Task) -> None:
        self.vocab = vocab
        self.transform = transform
        self.input, self.size = transform.input, transform.size
        self._task = task

    @property
    def task(self) -> Task:
        """What the model predicts."""
        return self._task

    @property
    def train(self) -> Batches:
        """Training batches.

        Raises:
            TrainingError: always.
        """
        raise TrainingError(_NO_PHOTOS)

    valid = train

    def load(self, item: ImageSource) -> torch.Tensor:
        """One image as the network takes it."""
        return self.transform(item)

    def test_dl(self, paths: Paths) -> EvalLoader:
        """Batches of an image, a list of images or all images below a folder, without labels."""
        return unlabelled_batches(paths, self.transform, batch_size=self.batch_size)

    def test_batches(self, items: Any) -> EvalLoader:
        """As `test_dl`."""
        return self.test_dl(items)

    def transform_config(self) -> dict[str, Any]:
        """The transform as JSON-ready values."""
        return self.transform.to_config()


_NO_PHOTOS = (
    "This learner was loaded without data; it can only predict. To train or validate it, give it "
    "images: learn.dls = ImageDataLoaders.from_folder(...), with the same classes."
)


def varied_views(
    batches: EvalLoader, augment: Augmentation | Transform, seed: int, n: int
) -> Sequence[EvalLoader]:
    """The images of some batches n times, in their order, each time augmented differently.

    A view depends only on the seed, its number and the position of the image.
    """
    dataset = copy.copy(batches.maker.dataset)
    dataset.augmented = TrainTransform(augment, dataset.plain)
    maker = BatchMaker(dataset, batches.maker.num_workers, batches.maker.device)

    def view(number: int) -> EvalLoader:
        return EvalLoader(maker, batches.batch_size, lambda i: view_seed(seed, number, i))

    return [view(number) for number in range(n)]
