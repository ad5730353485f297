"""Batches of photos that nothing is learned of: to predict, or to measure a model.

Photos that are not for training, varied as training photos are.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from layergroups.data._batches import (
    BatchMaker,
    EvalLoader,
    PhotoDataset,
    default_workers,
    view_seed,
)
from layergroups.data._samples import Samples
from layergroups.data._source import Batches, DataSource
from layergroups.data.image._image_checks import OnError
from layergroups.data.image._transforms import (
    Augmentation,
    EvalTransform,
    ImageSource,
    TrainTransform,
    Transform,
)
from layergroups.data.sources._datasets import Items, is_dataset, read_test_dataset
from layergroups.data.sources._folder import read_labelled, read_unlabelled
from layergroups.data.sources._lists import list_of_files, photos_of, sound_positions
from layergroups.data.sources._settings import Settings, check_batch_size
from layergroups.errors import DataError, TrainingError
from layergroups.tasks import Task, parse_labels

if TYPE_CHECKING:
    from collections.abc import Sequence

    from layergroups.data._image_loaders import ImageDataLoaders


Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def test_batches(
    dls: ImageDataLoaders, source: Any, labels: Iterable[Any] | None, with_labels: bool
) -> EvalLoader:
    """The batches of `ImageDataLoaders.test_dl`.

    Raises:
        DataError: there are no images, or labels that do not fit them or are not known.
        BrokenImagesError: images are broken, and `dls.on_error` is "raise".
    """
    photos = _test_photos(dls, source, labels, with_labels)
    feed = BatchMaker(PhotoDataset(photos, dls.transform), default_workers(photos), dls.device)
    return EvalLoader(feed, dls.batch_size)


def _test_photos(
    dls: ImageDataLoaders, source: Any, labels: Iterable[Any] | None, with_labels: bool
) -> Samples:
    settings = Settings(normalize=dls.input, on_error=dls.on_error)
    if is_dataset(source):
        own = dls.train_photos.items
        photos, known = read_test_dataset(source, settings, own if isinstance(own, Items) else None)
        return _labelled(dls, photos, known) if with_labels else photos
    if labels is not None:
        files, given = list_of_files(source), list(labels)
        if len(files) != len(given):
            raise DataError(f"{len(files)} images, but {len(given)} labels; expected as many.")
        kept, _ = sound_positions(files, settings)
        photos = Samples(tuple(files[i] for i in kept))
        return _labelled(dls, photos, [given[i] for i in kept])
    if not with_labels:
        return read_unlabelled(source, on_error=dls.on_error, channels=dls.channels)
    if isinstance(source, str | os.PathLike) and dls.task.reads_folders:
        return read_labelled(source, dls.vocab, on_error=dls.on_error, channels=dls.channels)
    raise DataError(
        "with_labels=True takes the classes from the folders in a folder, or the labels from a "
        "dataset. For a list: test_dl(paths, labels=[...]), a label for each."
    )


def _labelled(dls: ImageDataLoaders, photos: Samples, labels: Sequence[Any]) -> Samples:
    answers = parse_labels(labels, photos.files, task=dls.task, vocab=dls.vocab)
    return photos_of(photos.files, answers, photos.items)


def unlabelled_batches(
    paths: Paths,
    transform: EvalTransform,
    *,
    batch_size: int = 64,
    num_workers: int | None = None,
    on_error: OnError = "raise",
) -> EvalLoader:
    """Batches x of an image, a list of images or all images below a folder, without labels.

    Args:
        paths: the images.
        transform: what is done to them; for an exported model, `transform_from_config`.
        batch_size: photos in a batch.
        num_workers: processes that prepare batches; None to choose as `ImageDataLoaders` does.
        on_error: "raise" or "skip", what happens with broken images.

    Raises:
        DataError: there are no images.
        BrokenImagesError: images are broken, and `on_error` is "raise".
    """
    photos = read_unlabelled(paths, on_error=on_error, channels=transform.channels)
    return _ordered(photos, transform, batch_size, num_workers)


def labelled_batches(
    path: str | os.PathLike[str],
    vocab: Sequence[str],
    transform: EvalTransform,
    *,
    batch_size: int = 64,
    num_workers: int | None = None,
    on_error: OnError = "raise",
) -> EvalLoader:
    """Batches (x, y) of a folder of class folders, to measure a model whose classes are known.

    Args:
        path: the folder; a class of `vocab` may be absent in it, but no other may be there.
        vocab: the classes of the model.
        transform: what is done to the photos; for an exported model, `transform_from_config`.
        batch_size: photos in a batch.
        num_workers: processes that prepare batches; None to choose as `ImageDataLoaders` does.
        on_error: "raise" or "skip", what happens with broken images.

    Raises:
        DataError: the folder has no photos, or classes that `vocab` has not.
        BrokenImagesError: images are broken, and `on_error` is "raise".
    """
    photos = read_labelled(path, vocab, on_error=on_error, channels=transform.channels)
    return _ordered(photos, transform, batch_size, num_workers)


def _ordered(
    photos: Samples, transform: EvalTransform, batch_size: int, num_workers: int | None
) -> EvalLoader:
    workers = default_workers(photos) if num_workers is None else num_workers
    return EvalLoader(
        BatchMaker(PhotoDataset(photos, transform), workers), check_batch_size(batch_size)
    )


class InferenceData(DataSource):
    """Data of a learner that was loaded to predict: a transform, and no photos.

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
    "This learner was loaded without photos; it can predict. To train or validate it, give it "
    "some: learn.dls = ImageDataLoaders.from_folder(...), with the same classes."
)


def varied_views(
    batches: EvalLoader, augment: Augmentation | Transform, seed: int, n: int
) -> Sequence[EvalLoader]:
    """The photos of some batches n times, in their order, each time varied otherwise.

    What a view looks like depends on the seed, its number and the photo's position only.

    Args:
        batches: the photos.
        augment: how they are varied.
        seed: decides the variations.
        n: how many views.
    """
    dataset = copy.copy(batches.feed.dataset)
    dataset.varied = TrainTransform(augment, dataset.plain)
    feed = BatchMaker(dataset, batches.feed.num_workers, batches.feed.device)

    def view(number: int) -> EvalLoader:
        return EvalLoader(feed, batches.batch_size, lambda i: view_seed(seed, number, i))

    return [view(number) for number in range(n)]
