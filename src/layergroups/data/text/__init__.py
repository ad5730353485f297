"""Texts as tokens: the tokenizer of a model, with limits."""

from layergroups.data.text._tokenizing import (
    DEFAULT_MODEL,
    MAX_TOKENS,
    Encoded,
    TextTransform,
    is_text_config,
    text_transform_from_config,
)

__all__ = [
    "DEFAULT_MODEL", "MAX_TOKENS", "Encoded", "TextTransform", "is_text_config",
    "text_transform_from_config",
]  # fmt: skip
