"""Predictions one after the other: photos go through in batches, and nothing is kept of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layergroups.data import OrderedBatches
from layergroups.data.loaders import Paths
from layergroups.errors import TrainingError
from layergroups.training.answers import AnyPrediction, answer
from layergroups.training.evaluation import predict_all
from layergroups.training.heap import reused_memory
from layergroups.training.loaders import class_names

if TYPE_CHECKING:
    from layergroups.training.workbench import Workbench


def predictions(
    learner: Workbench, photos: Paths | OrderedBatches
) -> Iterator[tuple[Path, AnyPrediction]]:
    """Each photo with what the model says of it, batch by batch.

    Between two batches the model is as it was: it may be used, or left, at any time.

    Args:
        learner: whose model predicts.
        photos: an image, a list of images, a folder, or `dls.test_dl(...)` of them.

    Raises:
        TrainingError: the data cannot read photos, or the batches do not know their paths.
        DataError: there are no images.
        BrokenImagesError: images are broken, and the data are to stop at them.
    """
    batches = _batches(learner, photos)
    return _each(learner, iter(batches), map(Path, batches.photos.files))


def _batches(learner: Workbench, photos: Paths | OrderedBatches) -> OrderedBatches:
    """The photos as batches, checked."""
    if isinstance(photos, OrderedBatches):
        return photos
    test_dl: Callable[[Paths], OrderedBatches] | None = getattr(learner.dls, "test_dl", None)
    if test_dl is None:
        raise TrainingError(
            f"{type(learner.dls).__name__} has no test_dl(paths), so it cannot read photos. Use "
            "ImageDataLoaders, or predict batches of your own: learn.get_preds(batches)."
        )
    return test_dl(_paths(photos))


def _paths(photos: object) -> Paths:
    """A path or a list of paths, and nothing else."""
    if isinstance(photos, str | os.PathLike):
        return photos
    files: list[str | os.PathLike[str]] = []
    for item in photos if isinstance(photos, Iterable) else [photos]:
        if not isinstance(item, str | os.PathLike):
            raise TrainingError(
                "iter_preds takes paths of photos, a folder, or dls.test_dl(paths), not a "
                f"{type(item).__name__}. For batches: learn.get_preds(batches); for an image in "
                "memory: learn.predict(image)."
            )
        files.append(item)
    return files


def _each(
    learner: Workbench, batches: Iterator[Any], paths: Iterator[Path]
) -> Iterator[tuple[Path, AnyPrediction]]:
    names, task = class_names(learner.dls), learner.task
    with reused_memory():
        for batch in batches:
            found, _, _ = predict_all(
                learner.placed_model(),
                [batch],
                loss_func=learner.loss_func,
                task=task,
                accelerator=learner.accelerator,
            )
            del batch  # before the next one is made
            for row in found:
                yield next(paths), answer(row, task, names, learner.thresh)
