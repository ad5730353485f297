"""The data of a learner loaded for prediction, from the transform of its export."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layergroups.data._eval_loaders import InferenceData
from layergroups.data._source import DataSource
from layergroups.data._text_loaders import InferenceTexts
from layergroups.data.image import transform_from_config
from layergroups.data.sources import reader_from_config
from layergroups.data.text import is_text_config, text_transform_from_config
from layergroups.tasks import Task


def inference_data(
    config: Mapping[str, Any], vocab: tuple[str, ...], task: Task, keyword: str, folder: Path
) -> DataSource:
    """Images or texts, as `transform_config` described them; `folder` holds a tokenizer."""
    if is_text_config(config):
        return InferenceTexts(vocab, text_transform_from_config(config, folder), task)
    masks = reader_from_config(config["masks"]) if "masks" in config else None
    return InferenceData(vocab, transform_from_config(config), task, keyword, masks)
