"""feature_cache."""
