"""Images to batches: folders of photos, checked, divided, varied and normalised."""

from __future__ import annotations

from layergroups.data.batches import OrderedBatches, TrainBatches
from layergroups.data.checks import BrokenImage, check_images
from layergroups.data.images import IMAGE_ENDINGS, open_image
from layergroups.data.loaders import ImageDataLoaders
from layergroups.data.measuring import labelled_batches, unlabelled_batches
from layergroups.data.photos import Photos, stratified_split
from layergroups.data.show import BatchPicture
from layergroups.data.summary import DataSummary
from layergroups.data.transforms import Augmentation, EvalTransform, transform_from_config

__all__ = [
    "IMAGE_ENDINGS",
    "Augmentation",
    "BatchPicture",
    "BrokenImage",
    "DataSummary",
    "EvalTransform",
    "ImageDataLoaders",
    "OrderedBatches",
    "Photos",
    "TrainBatches",
    "check_images",
    "labelled_batches",
    "open_image",
    "stratified_split",
    "transform_from_config",
    "unlabelled_batches",
]
