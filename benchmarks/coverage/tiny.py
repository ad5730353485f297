"""Small transformers models of any type, from their configs alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_SIZES = {
    "hidden_size": 64, "d_model": 64, "n_embd": 64, "dim": 64, "embed_dim": 64,
    "embedding_size": 64,
    "intermediate_size": 128, "ffn_dim": 128, "n_inner": 128, "hidden_dim": 128, "d_ff": 128,
    "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "moe_intermediate_size": 64,
    "num_attention_heads": 4, "num_heads": 4, "n_head": 4, "n_heads": 4,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "d_kv": 16,
    "vocab_size": 512, "max_position_embeddings": 512,
}  # fmt: skip
_LAYERS = {
    "num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers",
    "num_decoder_layers", "num_block_records",
}  # fmt: skip
_DEPTHS = ("depths", "layer_depths", "encoder_layers")
_HEADS = ("head_dim", "d_kv", "num_attention_heads", "num_key_value_heads", "num_heads")
_FEW_LAYERS = 4
_LARGE = 400_000_000  # parameters; more is not built with real tensors

# Types whose config does not tell what the input looks like: the example a caller would give.
EXAMPLES: dict[tuple[str, str], Any] = {
    ("transformers-image", "siglip2"): {
        "pixel_values": torch.zeros(2, 16, 768),
        "pixel_attention_mask": torch.ones(2, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4], [4, 4]]),
    },
    ("transformers-text", "reformer"): {"input_ids": torch.ones(2, 4096, dtype=torch.long)},
}
# Types whose default config is not a whole one.
_ROPE = {"rope_theta": 10000.0, "rope_type": "default"}
FIELDS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"num_experts_per_tok": 2},
    "cohere_compass_text": {
        "rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE}
    },
}


def model_types(family: str) -> list[str]:
    """Model types of transformers that have a class for the task."""
    return sorted(_mapping(family))


def _mapping(family: str) -> dict[str, Any]:
    from transformers.models.auto import modeling_auto as auto

    if family == "transformers-image":
        return dict(auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES)
    return dict(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES)


def make(family: str, model_type: str) -> Iterator[tuple[nn.Module, str]]:
    """The model in ever less shrunken forms, each with words for its form."""
    config_class, model_class = _classes(family, model_type)
    defaults = config_class()
    attempts = (
        ("small", _smaller(defaults, _SIZES), "cpu"),
        ("small, own heads", _smaller(defaults, _SIZES, keep=_HEADS), "cpu"),
        ("few layers", _smaller(defaults, {}), "meta"),
        ("few layers", _smaller(defaults, {}), "cpu"),
        ("default config", {}, "meta"),
    )
    errors = []
    sizes: list[int] = []
    for words, fields, device in attempts:
        if words == "few layers" and device == "cpu" and not 0 < max(sizes, default=0) < _LARGE:
            continue
        try:
            config = config_class(**{**fields, **FIELDS.get(model_type, {})})
            _settle(config)
            torch.manual_seed(0)
            with torch.device(device):
                model = model_class(config)
            sizes.append(sum(p.numel() for p in model.parameters()))
        except Exception as error:
            errors.append(f"{words}: {type(error).__name__}: {error}")
            continue
        yield model, words
    if not sizes:
        raise RuntimeError(f"does not build: {errors[-1]}")


def _classes(family: str, model_type: str) -> tuple[type[Any], type[Any]]:
    import transformers
    from transformers import CONFIG_MAPPING

    name = _mapping(family)[model_type]
    name = name if isinstance(name, str) else name[0]
    config_class = CONFIG_MAPPING[model_type]
    if not hasattr(transformers, name):
        module = importlib.import_module(
            config_class.__module__.replace("configuration", "modeling")
        )
        return config_class, getattr(module, name)
    return config_class, getattr(transformers, name)


def _settle(config: Any) -> None:
    """Ten classes, and what a plain forward needs."""
    config.num_labels = 10
    for part in (config, getattr(config, "text_config", None)):
        if part is not None and getattr(part, "pad_token_id", None) is None:
            part.pad_token_id = 0
    if hasattr(config, "default_language"):
        config.default_language = config.languages[0]
    if config.is_encoder_decoder and not hasattr(config, "decoder_start_token_id"):
        config.decoder_start_token_id = 0


def _smaller(config: Any, sizes: dict[str, int], keep: tuple[str, ...] = ()) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in vars(config).items():
        if hasattr(value, "to_dict"):
            fields[key] = _smaller(value, sizes, keep)
        elif key in _LAYERS and isinstance(value, int):
            fields[key] = min(value, _FEW_LAYERS)
        elif key in ("depths", "layer_depths", "encoder_layers") and isinstance(
            value, (list, tuple)
        ):
            fields[key] = [min(2, v) for v in value]
        elif key in sizes and key not in keep and isinstance(value, int):
            fields[key] = min(value, sizes[key])
        elif value is None and key in ("vocab_size", "head_dim", "num_key_value_heads"):
            fields[key] = _SIZES[key]
    return fields
