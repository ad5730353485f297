"""Images to batches: folders of photos, checked, divided, varied and normalised."""

from __future__ import annotations

from layergroups.data._batches import (
    EvalLoader,
    TrainLoader,
    private_randomness,
    weighted_order,
)
from layergroups.data._eval_loaders import labelled_batches, unlabelled_batches, varied_views
from layergroups.data._image_loaders import ImageDataLoaders, Paths
from layergroups.data._samples import Samples, Task, stratified_split
from layergroups.data._shards import Shard, check_of, shard_positions, shards_of
from layergroups.data.image._image_checks import BrokenImage, OnError, check_images
from layergroups.data.image._opening import IMAGE_ENDINGS, Size, open_image, quiet
from layergroups.data.image._transforms import (
    Augmentation,
    EvalTransform,
    as_size,
    normalise,
    transform_from_config,
)
from layergroups.data.inspect._data_summary import DataSummary
from layergroups.data.inspect._show_batch import BatchPicture
from layergroups.data.sources._folder import find_images
from layergroups.data.sources._table import table_batches

__all__ = [
    "IMAGE_ENDINGS",
    "Augmentation",
    "BatchPicture",
    "BrokenImage",
    "DataSummary",
    "EvalLoader",
    "EvalTransform",
    "ImageDataLoaders",
    "OnError",
    "Paths",
    "Samples",
    "Shard",
    "Size",
    "Task",
    "TrainLoader",
    "as_size",
    "check_images",
    "check_of",
    "find_images",
    "labelled_batches",
    "normalise",
    "open_image",
    "private_randomness",
    "quiet",
    "shard_positions",
    "shards_of",
    "stratified_split",
    "table_batches",
    "transform_from_config",
    "unlabelled_batches",
    "varied_views",
    "weighted_order",
]
