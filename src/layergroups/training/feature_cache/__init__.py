"""Outputs of frozen layers, computed once and cached: what `fit` and the recipes train on.

`CachedEpochs` gives a fit its batches, `FeatureCache` holds the values and detects when they are
outdated, `FeatureBuffer` stores them, and `FeatureCut` is where the model is cut in two.
"""

from layergroups.training.feature_cache._cached_epochs import (
    CachedBatches,
    CachedEpochs,
    batch_size,
    probe,
    why_not,
)
from layergroups.training.feature_cache._feature_buffer import (
    FeatureBuffer,
    FeatureCacheConfig,
    checked_cache_config,
)
from layergroups.training.feature_cache._feature_cache import (
    UNVARIED,
    Boundary,
    CacheEntry,
    FeatureCache,
)
from layergroups.training.feature_cache._feature_cut import run_rest

__all__ = [
    "UNVARIED", "Boundary", "CacheEntry", "CachedBatches", "CachedEpochs", "FeatureBuffer",
    "FeatureCache", "FeatureCacheConfig", "batch_size", "checked_cache_config", "probe", "run_rest",
    "why_not",
]  # fmt: skip
