"""An example input for a model: the caller's, or one that the model itself tells of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

_BATCH = 2


def candidate_inputs(model: nn.Module) -> Iterator[Any]:
    """Inputs that may fit, most likely first; all with a batch of 2.

    From timm's `pretrained_cfg`, from a transformers config, then from the first layer: images of
    224, then 64 pixels for a convolution, token numbers for an embedding, vectors for a linear.
    """
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    if isinstance(config, dict) and config.get("input_size"):
        yield torch.zeros(_BATCH, *config["input_size"])
    if getattr(model, "dummy_inputs", None) and hasattr(model, "config"):
        yield from _of_transformers(model)
    yield from _of_first_layer(model)


def _of_transformers(model: nn.Module) -> Iterator[Any]:
    config: Any = model.config
    takes = getattr(model, "main_input_name", "")
    side = getattr(config, "image_size", 224) or 224
    height, width = side if isinstance(side, (list, tuple)) else (side, side)
    images = torch.zeros(_BATCH, getattr(config, "num_channels", None) or 3, height, width)
    ids = torch.ones(_BATCH, 16, dtype=torch.long)
    last = getattr(config, "eos_token_id", None)  # some models pool at it
    if isinstance(last, int) and last < (getattr(config, "vocab_size", None) or 0):
        ids[:, -1] = last
    if takes == "pixel_values":
        yield {"pixel_values": images}
    elif takes == "inputs":
        yield from ({"inputs": t} for t in (ids, images, images[..., :224, :224]))
    elif getattr(config, "vocab_size", None) or takes == "input_ids":
        yield {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        yield {"input_ids": ids}


def _of_first_layer(model: nn.Module) -> Iterator[Any]:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            for side in (224, 64, 32):
                yield torch.zeros(_BATCH, module.in_channels, side, side)
            return
        if isinstance(module, nn.Conv1d):
            yield torch.zeros(_BATCH, module.in_channels, 1024)
            return
        if isinstance(module, nn.Conv3d):
            yield torch.zeros(_BATCH, module.in_channels, 16, 112, 112)
            return
        if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            yield torch.ones(_BATCH, 16, dtype=torch.long)
            return
        if isinstance(module, nn.Linear):
            yield torch.zeros(_BATCH, module.in_features)
            return
        if isinstance(module, (nn.RNN, nn.LSTM, nn.GRU)):
            yield torch.zeros(_BATCH, 16, module.input_size)
            return
