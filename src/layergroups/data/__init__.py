"""Images to batches: files or datasets, checked, split, augmented and normalised."""

from __future__ import annotations

from layergroups.data._batches import EvalLoader, TrainLoader, weighted_order
from layergroups.data._eval_loaders import InferenceData, varied_views
from layergroups.data._image_loaders import ImageDataLoaders, Paths
from layergroups.data._inference_data import inference_data
from layergroups.data._samples import Samples
from layergroups.data._segmentation_loaders import SegmentationDataLoaders
from layergroups.data._shards import Shard, check_of, shard_positions, shards_of
from layergroups.data._source import (
    Batches,
    DataFacts,
    DataSource,
    IndexedBatches,
    PlainSource,
    SeekableBatches,
    TrainValid,
    batch_count,
    batches_of,
    bound_to,
    can_start_later,
    data_source,
    generators_of,
    items_in,
    order_of,
    paths_of,
    set_epoch,
    starting_at,
    texts_of,
)
from layergroups.data._text_batches import TextEvalLoader, TextTrainLoader
from layergroups.data._text_loaders import InferenceTexts, TextDataLoaders
from layergroups.data.image import (
    IMAGE_ENDINGS,
    Array,
    Augmentation,
    BrokenImage,
    EvalTransform,
    OnError,
    Picture,
    Size,
    as_size,
    check_images,
    height_and_width,
    normalise,
    open_image,
    quiet,
    transform_from_config,
)
from layergroups.data.inspect import BatchPicture, DataSummary, common_folder
from layergroups.data.sources import find_images
from layergroups.data.text import DEFAULT_MODEL, TextTransform, is_text_config

__all__ = [
    "DEFAULT_MODEL", "IMAGE_ENDINGS", "Array", "Augmentation", "BatchPicture", "Batches",
    "BrokenImage", "DataFacts", "DataSource", "DataSummary", "EvalLoader", "EvalTransform",
    "ImageDataLoaders", "IndexedBatches", "InferenceData", "InferenceTexts", "OnError", "Paths",
    "Picture", "PlainSource", "Samples", "SeekableBatches", "SegmentationDataLoaders", "Shard",
    "Size", "TextDataLoaders", "TextEvalLoader", "TextTrainLoader", "TextTransform", "TrainLoader",
    "TrainValid", "as_size", "batch_count", "batches_of", "bound_to", "can_start_later",
    "check_images", "check_of", "common_folder", "data_source", "find_images", "generators_of",
    "height_and_width", "inference_data", "is_text_config", "items_in", "normalise", "open_image",
    "order_of", "paths_of", "quiet", "set_epoch", "shard_positions", "shards_of", "starting_at",
    "texts_of", "transform_from_config", "varied_views", "weighted_order",
]  # fmt: skip
