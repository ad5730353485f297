"""Predictions averaged over several views of each photo (test time augmentation)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layergroups.data import OrderedBatches
from layergroups.data.views import varied_views
from layergroups.errors import TrainingError
from layergroups.training.loaders import batches_of

if TYPE_CHECKING:
    from layergroups.training.looking import Looking


def averaged_predictions(
    learner: Looking, dl: Iterable[Any] | None, n: int, beta: float
) -> tuple[Tensor, Tensor | None]:
    """What `Learner.tta` gives.

    Raises:
        TrainingError: an argument is not what it should be, or there are no views.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise TrainingError(f"n={n!r} must be a whole number of views, from 1: learn.tta(n=4).")
    if isinstance(beta, bool) or not isinstance(beta, int | float) or not 0 <= beta <= 1:
        raise TrainingError(
            f"beta={beta!r} must be the weight of the photos as they are, from 0 to 1: "
            "learn.tta(beta=0.25)."
        )
    batches = batches_of(learner.dls, dl)
    plain, targets, *_ = learner.get_preds(batches)
    total = torch.zeros_like(plain)
    for view in _views(learner, batches, n):
        total += learner.get_preds(view)[0]
    return torch.lerp(total / n, plain, float(beta)), targets


def _views(learner: Looking, batches: Iterable[Any], n: int) -> Iterable[OrderedBatches]:
    augment = getattr(learner.dls, "augment", None)
    if not isinstance(batches, OrderedBatches):
        raise TrainingError(
            f"Batches of the class {type(batches).__name__} cannot be varied. Give photos: "
            "learn.tta(), learn.tta(dls.test_dl(paths))."
        )
    if augment is None:
        raise TrainingError(
            "The data have no augmentation, so all views would be the same. Give them one: "
            "ImageDataLoaders.from_folder(..., augment=True)."
        )
    return varied_views(batches, augment, getattr(learner.dls, "seed", 0), n)
