"""How often each class or label stands in the training data, and weights that even that out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from layergroups.errors import TrainingError
from layergroups.training.loaders import Loaders, class_names, n_classes

_PLACES = ("labels", "targets", "y")  # where batches and data sets keep them


def balanced_weights(dls: Loaders) -> tuple[float, ...]:
    """For each class items / (classes * items of the class): their mean over the items is 1.

    A class without items has weight 1. It is scikit-learn's "balanced".

    Raises:
        TrainingError: the training data do not tell their classes, or items have several labels.
    """
    counts, items = label_counts(dls)
    if sum(counts) != items:
        raise TrainingError(
            'weight="balanced" needs one class for each item, but these have several labels, or '
            'none. Use BinaryCrossEntropy(pos_weight="balanced").'
        )
    present = sum(count > 0 for count in counts)
    return tuple(items / (present * count) if count else 1.0 for count in counts)


def positive_weights(dls: Loaders) -> tuple[float, ...]:
    """For each label items without it / items with it; 1 for one that no item has, or all have.

    Raises:
        TrainingError: the training data do not tell their labels.
    """
    counts, items = label_counts(dls)
    return tuple((items - n) / n if 0 < n < items else 1.0 for n in counts)


def label_counts(dls: Loaders) -> tuple[list[int], int]:
    """How many training items have each class or label, and how many items there are.

    No image is opened.

    Raises:
        TrainingError: the data do not have the labels in a place that is known.
    """
    train, classes = dls.train, n_classes(dls)
    photos: Any = getattr(train, "photos", None)
    if hasattr(photos, "counts"):
        return list(photos.counts(classes)), len(photos)
    labels = _labels(train, class_names(dls))
    if labels is None:
        raise TrainingError(
            '"balanced" counts the classes of the training data, but '
            f"{type(train).__name__} does not tell its labels (photos.counts, or targets of its "
            "dataset). Give the weights themselves, one for each class, such as "
            "CrossEntropy(weight=[1.0, 5.0])."
        )
    if labels.ndim == 2:
        return [int(n) for n in (labels > 0.5).sum(0)], len(labels)
    return torch.bincount(labels.long(), minlength=classes).tolist(), len(labels)


def _labels(train: Any, names: tuple[str, ...]) -> Tensor | None:
    """The targets of all items as a tensor; names of classes become their positions."""
    dataset = getattr(train, "dataset", None)
    tensors: tuple[Any, ...] = getattr(dataset, "tensors", ())
    found = [tensors[1]] if len(tensors) == 2 else []  # a torch TensorDataset
    found += [getattr(owner, place, None) for owner in (train, dataset) for place in _PLACES]
    labels: Any = next((f for f in found if f is not None and hasattr(f, "__len__")), None)
    if labels is None or isinstance(labels, Tensor):
        return None if labels is None else labels.cpu()
    if names and isinstance(labels[0], str):
        labels = [names.index(label) for label in labels]
    return torch.as_tensor(labels)
