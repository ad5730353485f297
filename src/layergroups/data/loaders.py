"""`ImageDataLoaders`: photos as training and validation batches."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Self

import torch

from layergroups.data.balance import Balance, photo_weights
from layergroups.data.batches import (
    Feed,
    OrderedBatches,
    PhotoDataset,
    TrainBatches,
    view_seed,
)
from layergroups.data.cache import DecodedCache
from layergroups.data.checks import BrokenImage, OnError
from layergroups.data.folds import folds_of, joined
from layergroups.data.measuring import Paths as Paths
from layergroups.data.measuring import test_batches
from layergroups.data.photos import Divided, Photos, Task
from layergroups.data.pixels import Size
from layergroups.data.settings import Settings
from layergroups.data.show import BatchPicture, shown_batch
from layergroups.data.sources import Sources
from layergroups.data.summary import DataSummary, summarised
from layergroups.data.transforms import (
    CROP_PCT,
    Augmentation,
    EvalTransform,
    ImageSource,
    TrainTransform,
    Transform,
)
from layergroups.input_spec import InputSpec

_LOG = logging.getLogger("layergroups")
_CLASSES_SHOWN = 10
_KINDS: dict[Task, str] = {"single": "classes", "multi": "labels", "regression": "numbers"}


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataLoaders(Sources):
    """Photos and what is to be learned of them, as batches for training and for validation.

    Make it with `from_folder`, `from_table`, `from_lists`, `from_pattern` or `from_dataset`.
    Batches are pairs (x, y): x is float32 (N, channels, height, width), normalised, in
    channels-last memory format. Where each photo has one class, y is int64 (N,), positions in
    `vocab`; where it has several labels, float32 (N, C), 1 for those that hold; where numbers are
    predicted, float32 (N, C). What a pass yields depends on the seed, the epoch and the photos
    only, not on the number of workers nor on any global random state; and it changes none.

    Attributes:
        train_photos: files and labels to learn from.
        valid_photos: files and labels to measure with.
        vocab: names of the classes, sorted; of the labels; or of the numbers to predict.
        size: height and width of the images in a batch, in pixels.
        batch_size: photos in a batch.
        augment: how training photos are varied; None for not at all.
        input: the statistics and the interpolation in use.
        input_is_default: whether the library chose them (ImageNet's, or those of the weights that
            `bind` was given) and not the user.
        crop_pct: share of the resized image's side that validation and prediction keep.
        seed: decides split, order and variations.
        num_workers: processes that prepare batches; 0 for none but the main one.
        on_error: "raise" or "skip", what happens when `test_dl` meets broken images.
        cache: keeps the decoded pixels of the photos; None decodes them each time.
        broken: what was left out because it cannot be read, where `on_error` is "skip".
        balance: how often training photos come, see `from_folder`.
    """

    train_photos: Photos
    valid_photos: Photos
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

    def __post_init__(self) -> None:
        photo_weights(self.balance, self.train_photos, self.vocab)  # find out early what is wrong

    @classmethod
    def _of(cls, found: Divided, settings: Settings) -> Self:
        n, wanted = len(found.train), settings.wanted
        if n < wanted:
            _LOG.warning("Only %d training photos: batch_size is %d instead of %d.", n, n, wanted)
        made = settings.loading(found.train)
        return cls(found.train, found.valid, found.vocab, broken=found.broken, **made)

    @cached_property
    def train(self) -> TrainBatches:
        """Shuffled and varied training batches; its `epoch` says which the next pass is."""
        weights = photo_weights(self.balance, self.train_photos, self.vocab)
        return TrainBatches(self._train_feed, self.batch_size, self.seed, weights)

    @cached_property
    def valid(self) -> OrderedBatches:
        """Validation batches, in the order of `valid_photos`."""
        photos = PhotoDataset(self.valid_photos, self.transform, cache=self.cache)
        feed = Feed(photos, self.num_workers)
        return OrderedBatches(feed, self.batch_size)

    @cached_property
    def train_eval(self) -> OrderedBatches:
        """The training photos as they are, not shuffled and not varied."""
        return OrderedBatches(self._train_feed, self.batch_size)

    def train_views(self, epoch: int) -> OrderedBatches:
        """The training photos in their order, varied as in the given epoch (any whole number)."""
        if self.augment is None:
            return self.train_eval
        return OrderedBatches(
            self._train_feed, self.batch_size, lambda i: view_seed(self.seed, epoch, i)
        )

    def test_dl(
        self, source: Any, labels: Iterable[Any] | None = None, *, with_labels: bool = False
    ) -> OrderedBatches:
        """Batches x of other photos, or (x, y) where their labels are known; with `paths`.

        Args:
            source: an image, a list of images, a folder of images at any depth, or a dataset.
            labels: of a list of images, a label for each, as these data were made of.
            with_labels: take them from the class folders in the folder, or from the dataset.

        Raises:
            DataError: there are no images, or labels do not fit them or are not known.
            BrokenImagesError: images are broken, and `on_error` is "raise".
        """
        return test_batches(self, source, labels, with_labels)

    def folds(self, n: int = 5, *, seed: int | None = None) -> Iterator[ImageDataLoaders]:
        """All photos, training and validation, as n loaders, for cross-validation.

        In turn each n-th part is for validation. Classes are dealt out evenly; the same seed gives
        the same folds, however the photos were divided before.

        Args:
            n: how many folds.
            seed: decides the folds; None for that of these data.

        Raises:
            DataError: n is below 2, or above the number of photos.
        """
        photos = joined(self.train_photos, self.valid_photos)
        parts = folds_of(photos, n, self.seed if seed is None else seed)
        return (self._with_photos(photos.take(train), photos.take(valid)) for train, valid in parts)

    def load(self, source: ImageSource) -> torch.Tensor:
        """One image as the network takes it: float32 (channels, height, width), normalised."""
        return self.transform(source)

    def one_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first batch of the next training epoch; changes nothing."""
        return self._train_feed.batch(next(self.train.plan(self.train.epoch)))

    def show_batch(
        self,
        path: str | os.PathLike[str] | None = None,
        n: int = 9,
        *,
        valid: bool = False,
        unique: bool = False,
    ) -> BatchPicture:
        """Draw photos as the network sees them, with their labels; changes nothing.

        Args:
            path: a file ending with .png, .svg or .pdf to write; a notebook shows the result.
            n: how many photos.
            valid: of the validation photos, instead of those of the next training epoch.
            unique: one photo in n variations, to look at the augmentation.

        Raises:
            DataError: n is below 1, or the file cannot be written.
        """
        picture = shown_batch(self, n, valid=valid, unique=unique)
        if path is not None:
            picture.save(path)
        return picture

    def summary(self) -> DataSummary:
        """What the photos are like: counts, sizes, broken files, copies; prints as a table.

        It reads the head of every file, about 0.1 ms each, and the whole of those that have the
        size of another; of a dataset it opens every item.
        """
        return summarised(self)

    def bind(self, spec: InputSpec) -> ImageDataLoaders:
        """The same photos with the statistics and the interpolation of the weights in use.

        Size and channels stay, and so do epoch and `input_is_default`; statistics of other channels
        are adapted, as `InputSpec.for_channels` says.
        """
        bound = replace(self, input=spec.for_channels(self.channels))
        bound.train.set_epoch(self.train.epoch)
        return bound

    def transform_config(self) -> dict[str, Any]:
        """The transform of validation and prediction as JSON-ready values."""
        return self.transform.to_config()

    @cached_property
    def transform(self) -> EvalTransform:
        """The transform of validation and prediction."""
        return EvalTransform(self.size, self.input, self.crop_pct)

    @property
    def task(self) -> Task:
        """What is learned: "single" (a class each), "multi" (several labels) or "regression"."""
        return self.train_photos.task

    @property
    def channels(self) -> int:
        """Channels of the images: 3 for RGB, 1 for grey."""
        return self.input.channels

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names; the same as `vocab`."""
        return self.vocab

    @property
    def c(self) -> int:
        """The number of outputs that a network needs: classes, labels or numbers."""
        return len(self.vocab)

    def _with_photos(self, train: Photos, valid: Photos) -> ImageDataLoaders:
        size = min(self.batch_size, len(train))
        return replace(self, train_photos=train, valid_photos=valid, batch_size=size)

    @cached_property
    def _train_feed(self) -> Feed:
        varied = None if self.augment is None else TrainTransform(self.augment, self.transform)
        photos = PhotoDataset(self.train_photos, self.transform, varied, self.cache)
        return Feed(photos, self.num_workers)

    def __repr__(self) -> str:
        spec, kind, counts = self.input, _KINDS[self.task], self._counts()
        channels = "" if self.channels == 3 else f", {self.channels} channel(s)"
        return "\n".join(
            [
                f"ImageDataLoaders: {len(self.train_photos)} training and "
                f"{len(self.valid_photos)} validation photos of {self.c} {kind}",
                f"  {kind} (train + valid): {counts}",
                f"  images: {self.size[0]} x {self.size[1]} pixels (height x width){channels}, "
                f"in batches of {self.batch_size}, {_workers(self.num_workers)}",
                f"  training photos: {'not varied' if self.augment is None else self.augment}",
                f"  statistics: mean {_numbers(spec.mean)}, std {_numbers(spec.std)}, "
                f"{spec.interpolation} ({spec.source})",
            ]
        )

    def _counts(self) -> str:
        if self.task == "regression":
            return ", ".join(self.vocab)
        train, valid = (p.counts(self.c) for p in (self.train_photos, self.valid_photos))
        shown = [f"{name} {t} + {v}" for name, t, v in zip(self.vocab, train, valid, strict=True)][
            :_CLASSES_SHOWN
        ]
        more = f", and {self.c - _CLASSES_SHOWN} more" if self.c > _CLASSES_SHOWN else ""
        return ", ".join(shown) + more


def _workers(n: int) -> str:
    return f"{n} worker{'s' if n > 1 else ''}" if n else "no workers"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
