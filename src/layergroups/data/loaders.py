"""`ImageDataLoaders`: a folder of photos as training and validation batches."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from layergroups.data.balance import Balance, photo_weights
from layergroups.data.batches import (
    Feed,
    OrderedBatches,
    PhotoDataset,
    TrainBatches,
    default_workers,
    view_seed,
)
from layergroups.data.cache import DecodedCache
from layergroups.data.checks import OnError
from layergroups.data.folders import read_folder, read_labelled, read_unlabelled
from layergroups.data.photos import Photos
from layergroups.data.transforms import (
    CROP_PCT,
    Augmentation,
    EvalTransform,
    ImageSource,
    Size,
    TrainTransform,
    Transform,
    as_size,
)
from layergroups.errors import DataError
from layergroups.input_spec import InputSpec

_LOG = logging.getLogger("layergroups")
_CLASSES_SHOWN = 10

Paths = str | os.PathLike[str] | Iterable[str | os.PathLike[str]]


@dataclass(frozen=True, eq=False, repr=False)
class ImageDataLoaders:
    """Photos of several classes as batches for training and for validation.

    Make it with `ImageDataLoaders.from_folder`. Batches are pairs (x, y): x is float32
    (N, 3, height, width), normalised, in channels-last memory format; y is int64 (N,), positions in
    `vocab`. What a pass yields depends on the seed, the epoch and the photos only, not on the
    number of workers nor on any global random state; and it changes no global random state.

    Attributes:
        train_photos: files and labels to learn from.
        valid_photos: files and labels to measure with.
        vocab: the class names, sorted.
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
    balance: Balance = False

    def __post_init__(self) -> None:
        photo_weights(self.balance, self.train_photos, self.vocab)  # find out early what is wrong

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
        num_workers: int | None = None,
        on_error: OnError = "raise",
        cache: bool | str | os.PathLike[str] | DecodedCache = True,
        balance: Balance = False,
    ) -> ImageDataLoaders:
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
        wanted = _batch_size(batch_size if bs is None else bs)
        shape = as_size(size)
        varied = _augmentation(augment)
        plain = EvalTransform(shape, normalize or InputSpec(), crop_pct)  # checks the arguments
        if num_workers is not None and num_workers < 0:
            raise DataError(f"num_workers={num_workers}: expected 0 or more, or None to choose.")
        found = read_folder(
            path, train=train, valid=valid, valid_pct=valid_pct, seed=seed, on_error=on_error
        )
        n = len(found.train)
        if n < wanted:
            _LOG.warning("Only %d training photos: batch_size is %d instead of %d.", n, n, wanted)
        return cls(
            found.train,
            found.valid,
            found.vocab,
            shape,
            min(wanted, n),
            augment=varied,
            input=plain.input,
            input_is_default=normalize is None,
            crop_pct=crop_pct,
            seed=seed,
            num_workers=default_workers(found.train) if num_workers is None else num_workers,
            on_error=on_error,
            cache=_cache(cache),
            balance=balance,
        )

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

    def test_dl(self, paths: Paths) -> OrderedBatches:
        """Batches x, without labels, of an image, a list of images or all images below a folder.

        Its `paths` says which photo is where.

        Raises:
            DataError: there are no images.
            BrokenImagesError: images are broken, and `on_error` is "raise".
        """
        return unlabelled_batches(
            paths, self.transform, batch_size=self.batch_size, on_error=self.on_error
        )

    def load(self, source: ImageSource) -> torch.Tensor:
        """One image as the network takes it: float32 (3, height, width), normalised."""
        return self.transform(source)

    def one_batch(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The first batch of the next training epoch; changes nothing."""
        return self._train_feed.batch(next(self.train.plan(self.train.epoch)))

    def bind(self, spec: InputSpec) -> ImageDataLoaders:
        """The same photos with the statistics and the interpolation of the weights in use.

        The size stays, and so do epoch and `input_is_default`.
        """
        bound = replace(self, input=spec)
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
    def classes(self) -> tuple[str, ...]:
        """The class names; the same as `vocab`."""
        return self.vocab

    @property
    def c(self) -> int:
        """The number of classes."""
        return len(self.vocab)

    @cached_property
    def _train_feed(self) -> Feed:
        varied = None if self.augment is None else TrainTransform(self.augment, self.transform)
        photos = PhotoDataset(self.train_photos, self.transform, varied, self.cache)
        return Feed(photos, self.num_workers)

    def __repr__(self) -> str:
        spec, counts = self.input, self._counts()
        return "\n".join(
            [
                f"ImageDataLoaders: {len(self.train_photos)} training and "
                f"{len(self.valid_photos)} validation photos of {self.c} classes",
                f"  classes (train + valid): {counts}",
                f"  images: {self.size[0]} x {self.size[1]} pixels (height x width), "
                f"in batches of {self.batch_size}, {_workers(self.num_workers)}",
                f"  training photos: {'not varied' if self.augment is None else self.augment}",
                f"  statistics: mean {_numbers(spec.mean)}, std {_numbers(spec.std)}, "
                f"{spec.interpolation} ({spec.source})",
            ]
        )

    def _counts(self) -> str:
        train, valid = (p.counts(self.c) for p in (self.train_photos, self.valid_photos))
        shown = [f"{name} {t} + {v}" for name, t, v in zip(self.vocab, train, valid, strict=True)][
            :_CLASSES_SHOWN
        ]
        more = f", and {self.c - _CLASSES_SHOWN} more" if self.c > _CLASSES_SHOWN else ""
        return ", ".join(shown) + more


def unlabelled_batches(
    paths: Paths,
    transform: EvalTransform,
    *,
    batch_size: int = 64,
    num_workers: int | None = None,
    on_error: OnError = "raise",
) -> OrderedBatches:
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
    photos = read_unlabelled(paths, on_error=on_error)
    return _ordered(photos, transform, batch_size, num_workers)


def labelled_batches(
    path: str | os.PathLike[str],
    vocab: Sequence[str],
    transform: EvalTransform,
    *,
    batch_size: int = 64,
    num_workers: int | None = None,
    on_error: OnError = "raise",
) -> OrderedBatches:
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
    photos = read_labelled(path, vocab, on_error=on_error)
    return _ordered(photos, transform, batch_size, num_workers)


def _ordered(
    photos: Photos, transform: EvalTransform, batch_size: int, num_workers: int | None
) -> OrderedBatches:
    workers = default_workers(photos) if num_workers is None else num_workers
    return OrderedBatches(Feed(PhotoDataset(photos, transform), workers), _batch_size(batch_size))


def _augmentation(
    augment: bool | str | Augmentation | Transform,
) -> Augmentation | Transform | None:
    if isinstance(augment, str):
        return Augmentation.named(augment)
    if isinstance(augment, bool):
        return Augmentation() if augment else None
    if not callable(augment) and not isinstance(augment, Augmentation):
        raise DataError(
            f'augment={augment!r}: expected True, False, a word such as "trivial", '
            "Augmentation(...), or a function of a Pillow image."
        )
    return augment


def _cache(cache: bool | str | os.PathLike[str] | DecodedCache) -> DecodedCache | None:
    if isinstance(cache, bool):
        return DecodedCache() if cache else None
    return cache if isinstance(cache, DecodedCache) else DecodedCache(cache)


def _batch_size(batch_size: int) -> int:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise DataError(f"batch_size={batch_size!r}: expected a whole number from 1, such as 64.")
    return batch_size


def _workers(n: int) -> str:
    return f"{n} worker{'s' if n > 1 else ''}" if n else "no workers"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:.3g}" for value in values) + ")"
