"""Predictions of the Learner: image by image, for all batches, and averaged over views."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from layergroups._checks import number, whole_number
from layergroups.data import (
    EvalLoader,
    Paths,
    TextEvalLoader,
    batch_count,
    batches_of,
    paths_of,
    texts_of,
)
from layergroups.errors import TrainingError
from layergroups.tasks import AnyPrediction
from layergroups.training.hardware import keep_freed_memory
from layergroups.training.loop import predict_all
from layergroups.training.state import LearnerState


def predictions(
    learner: LearnerState,
    items: Paths | Iterable[Sequence[str | None]] | EvalLoader | TextEvalLoader,
) -> Iterator[tuple[Any, AnyPrediction]]:
    """Yield each item with its prediction; between batches the model may be used or changed."""
    if isinstance(items, EvalLoader | TextEvalLoader):
        batches: Any = batches_of(learner.data, items)
    else:
        batches = learner.data.test_batches(_listed(items, texts=learner.data.input is None))
    return _each(learner, iter(batches), iter(paths_of(batches) or texts_of(batches)))


def _listed(items: object, *, texts: bool) -> Any:
    """A path or a text, or a list of them; a text may be a list of its cells."""
    if isinstance(items, str | os.PathLike):
        return items
    kinds = (str, os.PathLike, *((list, tuple) if texts else ()))
    listed = []
    for item in items if isinstance(items, Iterable) else [items]:
        if not isinstance(item, kinds):  # the first of many batches
            raise TrainingError(
                "iter_preds takes paths of images, a folder, texts, or dls.test_dl(items), not a "
                f"{type(item).__name__}. For batches: learn.get_preds(batches); for an image in "
                "memory: learn.predict(image)."
            )
        listed.append(item)
    return listed


def _each(
    learner: LearnerState, batches: Iterator[Any], paths: Iterator[Any]
) -> Iterator[tuple[Any, AnyPrediction]]:
    data, task = learner.data, learner.task
    with keep_freed_memory():
        for batch in batches:
            found, _, _ = predict_all(learner, [batch])
            del batch  # frees its memory before the next one is read
            for row in found:
                path = next(paths)
                yield path, data.placed(task.decode(row, data.vocab, learner.thresh), path)


def all_predictions(
    learner: LearnerState, batches: Iterable[Any], *, with_loss: bool = False
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Predictions, targets and losses, as in `Learner.get_preds`."""
    with keep_freed_memory(), learner.reporter.bar("predictions", batch_count(batches)) as bar:
        return predict_all(learner, batches, with_loss=with_loss, advance=bar.advance)


def averaged_predictions(
    learner: LearnerState, dl: Iterable[Any] | None, n: int, beta: float | None
) -> tuple[Tensor, Tensor | None]:
    """See `Learner.tta`."""
    whole_number("n", n, 1, 4)
    if beta is None:
        beta = 0.5 if learner.task.per_pixel else 0.25
    number("beta", beta, 0, 1, 0.25)
    batches = batches_of(learner.data, dl)
    plain, targets, _ = all_predictions(learner, batches)
    views = learner.data.tta_views(batches, n)
    total = torch.zeros_like(plain)
    for view in views:
        total += view.restored(all_predictions(learner, view.batches)[0])
    return torch.lerp(total / len(views), plain, float(beta)), targets
