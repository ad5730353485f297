"""What a learner needs of its data, and what it asks `ImageDataLoaders` for where it is one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, Protocol

import torch
from torch import Tensor

from layergroups.data import EvalLoader, EvalTransform, Paths, unlabelled_batches
from layergroups.errors import TrainingError
from layergroups.input_spec import InputSpec
from layergroups.models import TargetUnits
from layergroups.tasks._tasks import Task, task_of

_log = logging.getLogger("layergroups")


class Batches(Protocol):
    """Batches (inputs, targets), and how many there are."""

    def __iter__(self) -> Iterator[Any]: ...
    def __len__(self) -> int: ...


class Loaders(Protocol):
    """The least that a learner needs: batches to train on and batches to validate on.

    `train` is told the epoch before each pass if it has `set_epoch(n)`. Names of classes, labels or
    numbers come from `vocab`, what is asked from `task`, see `tasks`. `ImageDataLoaders` has all
    this, and what prediction and stored features need.
    """

    @property
    def train(self) -> Batches:
        """Training batches."""

    @property
    def valid(self) -> Batches:
        """Validation batches."""


def check_loaders(dls: object) -> None:
    """Data must have batches to train on and batches to validate on.

    Raises:
        TrainingError: they have not.
    """
    missing = [name for name in ("train", "valid") if not hasattr(type(dls), name)]
    missing = [name for name in missing if name not in getattr(dls, "__dict__", {})]
    if missing:
        raise TrainingError(
            f"The data ({type(dls).__name__}) have no {' and no '.join(missing)}. Give "
            "ImageDataLoaders.from_folder(...), or an object with batches `train` and `valid`."
        )


def check_photos(dls: object) -> None:
    """Data for which a network is chosen by name must tell what their images are like.

    Raises:
        TrainingError: they do not.
    """
    missing = [name for name in ("train", "valid", "input", "size", "c") if not hasattr(dls, name)]
    if missing:
        raise TrainingError(
            f"The data ({type(dls).__name__}) have no {', '.join(missing)}, so no network can be "
            "made for them. Right would be vision_learner(ImageDataLoaders.from_folder(folder), "
            '"resnet18"); for batches of another kind: Learner(dls, model).'
        )


def batches_of(dls: Loaders, dl: object) -> Iterable[Any]:
    """The batches that were given, or those of validation.

    Raises:
        TrainingError: something else was given.
    """
    if dl is None:
        return dls.valid
    if not isinstance(dl, Iterable) or isinstance(dl, str | bytes | Mapping | Tensor):
        what = "a tensor" if isinstance(dl, Tensor) else f"{dl!r:.60}"
        raise TrainingError(
            f"dl={what} must give batches (inputs, targets), or inputs only: dls.test_dl(paths), a "
            "DataLoader, or a list such as [inputs]. Without it the validation photos are meant; "
            "dls.train_eval has those of training."
        )
    return dl


def count_of(batches: Iterable[Any]) -> int:
    """How many batches there are; 0 if they do not tell."""
    return len(batches) if isinstance(batches, Sized) else 0


def class_names(dls: Loaders) -> tuple[str, ...]:
    """The names of the classes; empty if the data have none."""
    return tuple(str(name) for name in getattr(dls, "vocab", ()))


def n_classes(dls: Loaders) -> int:
    """The number of classes; 0 if the data do not tell."""
    return int(getattr(dls, "c", 0) or len(class_names(dls)))


def target_units(dls: Loaders) -> TargetUnits | None:
    """Mean and spread of the numbers to be learned; None for another task, or unknown numbers."""
    labels = getattr(getattr(dls, "train_photos", None), "labels", None)
    if task_of(dls) != "regression" or not labels:
        return None
    return TargetUnits.of(torch.tensor(labels, dtype=torch.float64).reshape(len(labels), -1))


def input_of(dls: Loaders) -> InputSpec | None:
    """The statistics by which the images are normalised, if they are images."""
    spec: InputSpec | None = getattr(dls, "input", None)
    return spec


def example_of(dls: Loaders) -> Tensor | None:
    """Zeros shaped as one item, for a dry run; None if the data do not tell a size."""
    size, spec = getattr(dls, "size", None), input_of(dls)
    if size is None or spec is None:
        return None
    return torch.zeros(1, spec.channels, *size)


def load_item(dls: Loaders, item: object) -> Tensor:
    """One item as the model takes it, without the batch dimension.

    Raises:
        TrainingError: these data cannot load a single item, and it is not a tensor.
    """
    load = getattr(dls, "load", None)
    if callable(load):
        loaded = load(item)
        if not isinstance(loaded, Tensor):
            raise TrainingError(
                f"{type(dls).__name__}.load(item) gave a {type(loaded).__name__}; it must give a "
                "tensor shaped as one item, such as (3, 224, 224)."
            )
        return loaded
    if isinstance(item, Tensor):
        return item
    raise TrainingError(
        f"{type(dls).__name__} has no load(item), so predict takes a tensor shaped as one item, "
        f"not {type(item).__name__}."
    )


def bound(dls: Loaders, spec: InputSpec | None) -> Loaders:
    """The photos normalised as the weights need it; what the person has asked for stays.

    Args:
        dls: the photos; data that cannot be bound are given back as they are.
        spec: what the weights expect.
    """
    bind: Callable[[InputSpec], Loaders] | None = getattr(dls, "bind", None)
    own = input_of(dls)
    if bind is None or spec is None or own is None:
        return dls
    if getattr(dls, "input_is_default", True):
        return bind(spec)
    if (own.mean, own.std) != (spec.mean, spec.std):
        _log.warning(
            "The photos are normalised as asked for (mean %s, std %s); the weights were trained "
            "with mean %s, std %s.",
            own.mean,
            own.std,
            spec.mean,
            spec.std,
        )
    return dls


class NoPhotos:
    """Stands where the data would, for a learner that was loaded to predict.

    Args:
        vocab: names of the classes.
        transform: makes a tensor (C, H, W) of a path, a PIL image, an array or a tensor.
        task: what the model answers.
    """

    batch_size = 64

    def __init__(
        self, vocab: tuple[str, ...], transform: EvalTransform, task: Task = "multiclass"
    ) -> None:
        self.task = task
        self.vocab = self.classes = vocab
        self.c = len(vocab)
        self.transform = self.load = transform
        self.input = transform.input
        self.size = transform.size
        self.transform_config = transform.to_config

    def test_dl(self, paths: Paths) -> EvalLoader:
        """Batches of an image, a list of images or all images below a folder, without labels."""
        return unlabelled_batches(paths, self.transform, batch_size=self.batch_size)

    @property
    def train(self) -> Batches:
        """There are none."""
        raise TrainingError(_NO_PHOTOS)

    @property
    def valid(self) -> Batches:
        """There are none."""
        raise TrainingError(_NO_PHOTOS)


_NO_PHOTOS = (
    "This learner was loaded without photos; it can predict. To train or validate it, give it "
    "some: learn.dls = ImageDataLoaders.from_folder(...), with the same classes."
)
