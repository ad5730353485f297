"""Batches of images for prediction, validation and test-time augmentation."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from layergroups._random import derived_seed
from layergroups.data._batches import (
    CPU,
    BatchMaker,
    EvalLoader,
    ImageDataset,
    checked_workers,
    default_workers,
)
from layergroups.data._samples import MaskOpener, Opener, Samples
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
    LayerReader,
    MaskReader,
    Settings,
    check_batch_size,
    is_dataset,
    labelled_positions,
    list_of_files,
    masked_samples,
    paired,
    paired_by_label,
    read_labelled,
    read_table,
    read_test_dataset,
    read_unlabelled,
    rows_of,
    samples_of,
    sound_positions,
    values_of,
)
from layergroups.errors import DataError, TrainingError
from layergroups.tasks import Task, parse_labels

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


def loader_of(
    source: Any,
    labels: Iterable[Any] | None,
    with_labels: bool,
    *,
    task: Task,
    vocab: Sequence[str],
    transform: EvalTransform,
    items: Opener | None = None,
    masks: MaskOpener | None = None,
    batch_size: int = 64,
    num_workers: int | None = None,
    on_error: OnError = "raise",
    device: torch.device = CPU,
) -> EvalLoader:
    """Batches of other images; the first arguments are those of `ImageDataLoaders.test_dl`."""
    settings = Settings({"normalize": transform.input, "on_error": on_error})
    if labels is not None and isinstance(masks, MaskReader | LayerReader):
        samples = masked_samples(masks, list_of_files(source), labels, task, settings)
    else:
        samples = _test_samples(source, labels, with_labels, task, vocab, settings, items)
    workers = checked_workers(num_workers)
    workers = default_workers(samples) if workers is None else workers
    maker = BatchMaker(ImageDataset(samples, transform), workers, device)
    return EvalLoader(maker, check_batch_size(batch_size))


def _test_samples(
    source: Any,
    labels: Iterable[Any] | None,
    with_labels: bool,
    task: Task,
    vocab: Sequence[str],
    settings: Settings,
    items: Opener | None,
) -> Samples:
    def labelled(samples: Samples, known: Sequence[Any]) -> Samples:
        targets = parse_labels(known, samples.files, task=task, vocab=vocab)
        return samples_of(samples.files, targets, samples.items)

    how: dict[str, Any] = {"on_error": settings.on_error, "channels": settings.n_channels}
    if is_dataset(source):
        own = items if isinstance(items, Items) else None
        samples, known = read_test_dataset(source, settings, own)
        return labelled(samples, known) if with_labels else samples
    if labels is not None:
        files, given = list_of_files(source), list(labels)
        if len(files) != len(given):
            raise DataError(f"{len(files)} images, but {len(given)} labels; expected one for each.")
        known, _ = labelled_positions(files, given, task, settings)
        positions, _ = sound_positions([files[i] for i in known], settings)
        sound = [known[i] for i in positions]
        return labelled(Samples(tuple(files[i] for i in sound)), [given[i] for i in sound])
    if not with_labels:
        return read_unlabelled(source, **how)
    if isinstance(source, str | os.PathLike) and task.reads_folders:
        return read_labelled(source, vocab, **how)
    raise DataError(
        "with_labels=True takes the classes from the folders in a folder, or the labels from a "
        "dataset. For a list: test_dl(paths, labels=[...]), a label for each."
    )


class InferenceData(DataSource):
    """The data of a learner loaded for prediction: a transform, no images.

    Args:
        vocab: names of the classes.
        transform: makes a tensor (C, H, W) of a path, a PIL image, an array or a tensor.
        task: what the model predicts.
        keyword: the argument of a network that takes the images by name.
        masks: reads masks, where labels are these.
    """

    seed = 0
    batch_size = 64

    def __init__(
        self,
        vocab: tuple[str, ...],
        transform: EvalTransform,
        task: Task,
        keyword: str = "",
        masks: MaskOpener | None = None,
    ) -> None:
        self.vocab, self.keyword, self.masks = vocab, keyword, masks
        self.transform = transform
        self.input, self.size = transform.input, transform.size
        self._task = task

    @property
    def task(self) -> Task:
        return self._task

    @property
    def train(self) -> Batches:
        """Raise an error: there are none."""
        masks = 'SegmentationDataLoaders.from_folders("images", "masks")'
        right = masks if self._task.per_pixel else "ImageDataLoaders.from_folder(...)"
        raise TrainingError(
            "This learner was loaded without data; it can only predict. To train or validate it, "
            f"give it images: learn.dls = {right}, with the same classes."
        )

    valid = train

    @property
    def mask_values(self) -> tuple[Any, ...]:
        return values_of(self.masks)

    def example(self) -> Any:
        """A blank image as the network takes it."""
        return self._named(super().example())

    def _named(self, image: Any) -> Any:
        return {self.keyword: image} if self.keyword else image

    def load(self, item: ImageSource) -> Any:
        return self._named(self.transform(item))

    def test_dl(
        self,
        source: Any,
        labels: Iterable[Any] | None = None,
        *,
        with_labels: bool = False,
        **options: Any,
    ) -> EvalLoader:
        """See `ImageDataLoaders.test_dl`; also takes batch_size, num_workers and on_error."""
        known: dict[str, Any] = {"task": self.task, "vocab": self.vocab, "masks": self.masks}
        known |= options
        made = loader_of(source, labels, with_labels, transform=self.transform, **known)
        made.keyword = self.keyword
        return made

    def test_batches(self, items: Any) -> EvalLoader:
        return self.test_dl(items)

    def table_dl(
        self,
        table: str | os.PathLike[str],
        *,
        label_col: Column | Sequence[Column] = 1,
        label_delim: str | None = None,
        valid_col: Column | None = None,
        folder: Path | None = None,
        fn_col: Column = 0,
        suff: str = "",
        **options: Any,
    ) -> EvalLoader:
        """Batches (x, y) of the images in a CSV or TSV file; of its validation rows, if marked.

        The arguments are those of `ImageDataLoaders.from_table` and `test_dl`.
        """
        rows = rows_of(
            read_table(table),
            Path(table).parent if folder is None else folder,
            fn_col=fn_col,
            label_col=label_col,
            label_delim=label_delim,
            valid_col=valid_col,
            suff=suff,
            task=self.task,
        )
        wanted = [i for i in range(len(rows.files)) if rows.valid is None or rows.valid[i]]
        labels = [rows.labels[i] for i in wanted]
        return self.test_dl([rows.files[i] for i in wanted], labels, **options)

    def folders_dl(
        self,
        images: str | os.PathLike[str],
        masks: str | os.PathLike[str],
        *,
        suffix: str = "",
        **options: Any,
    ) -> EvalLoader:
        """Batches (x, y) of images and their masks; of the parts `valid`, if there are such.

        The arguments are those of `SegmentationDataLoaders.from_folders` and `test_dl`.
        """
        if self.masks is None:
            raise DataError(
                "This export does not say which class each value of a mask is: it is of an earlier "
                "version. Validate with learn.dls = SegmentationDataLoaders.from_folders(...)."
            )
        channels, on_error = self.transform.channels, options.get("on_error", "raise")
        if isinstance(self.masks, LayerReader):
            files, found, marks, _ = paired_by_label(
                images, masks, suffix, channels, self.vocab, on_error
            )
        else:
            files, single, marks = paired(images, masks, suffix, channels, on_error)
            found = [(path,) for path in single]
        wanted = [i for i in range(len(files)) if marks is None or marks[i]]
        return self.test_dl([files[i] for i in wanted], [found[i] for i in wanted], **options)

    def transform_config(self) -> dict[str, Any]:
        masks = {} if self.masks is None else {"masks": self.masks.to_config()}
        return self.transform.to_config() | masks


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
        return EvalLoader(maker, batches.batch_size, lambda i: derived_seed(seed, number, i))

    return [view(number) for number in range(n)]
