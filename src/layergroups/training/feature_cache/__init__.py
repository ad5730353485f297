"""Outputs of frozen layers, kept and used again."""

from layergroups.training.feature_cache._cached_epochs import (
    CachedBatches,
    CachedEpochs,
    batch_size,
    why_not,
)
from layergroups.training.feature_cache._feature_buffer import (
    FeatureBuffer,
    FeatureCacheConfig,
    TooLargeError,
)
from layergroups.training.feature_cache._feature_cache import (
    FeatureCache,
    Resting,
    fill_train,
    fill_valid,
    is_varied,
)
from layergroups.training.feature_cache._feature_cut import (
    FeatureCut,
    NoPassageError,
    find_cut,
    forward_from,
    record,
)

__all__ = [
    "CachedBatches",
    "CachedEpochs",
    "FeatureBuffer",
    "FeatureCache",
    "FeatureCacheConfig",
    "FeatureCut",
    "NoPassageError",
    "Resting",
    "TooLargeError",
    "batch_size",
    "fill_train",
    "fill_valid",
    "find_cut",
    "forward_from",
    "is_varied",
    "record",
    "why_not",
]
