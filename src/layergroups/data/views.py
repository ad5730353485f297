"""Photos that are not for training, varied as training photos are."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from layergroups.data.batches import Feed, OrderedBatches, view_seed
from layergroups.data.transforms import Augmentation, TrainTransform, Transform

if TYPE_CHECKING:
    from collections.abc import Sequence


def varied_views(
    batches: OrderedBatches, augment: Augmentation | Transform, seed: int, n: int
) -> Sequence[OrderedBatches]:
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
    feed = Feed(dataset, batches.feed.num_workers)

    def view(number: int) -> OrderedBatches:
        return OrderedBatches(feed, batches.batch_size, lambda i: view_seed(seed, number, i))

    return [view(number) for number in range(n)]
