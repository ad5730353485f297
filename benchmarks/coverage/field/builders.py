"""All models of the field by "source:name"."""

from __future__ import annotations

from typing import Any

import torch
from benchmarks.coverage.field import language, other, vision
from torch import nn

SOURCES = {
    "timm": vision.timm, "torchvision": vision.torchvision, "fastai": vision.fastai,
    "segmentation_models_pytorch": vision.segmentation_models_pytorch, "monai": vision.monai,
    "vit_pytorch": vision.vit_pytorch, "ultralytics": vision.ultralytics,
    "lightly": vision.lightly, "efficientnet_pytorch": vision.efficientnet_pytorch,
    "pretrainedmodels": vision.pretrainedmodels, "kornia": vision.kornia,
    "transformers": language.transformers_text, "transformers, not text": language.transformers_other,
    "peft": language.peft, "sentence_transformers": language.sentence_transformers,
    "open_clip": language.open_clip, "x_transformers": language.x_transformers,
    "diffusers": other.diffusers, "torch_geometric": other.torch_geometric,
    "torchaudio": other.torchaudio, "speechbrain": other.speechbrain, "tabular": other.tabular,
    "nflows": other.nflows, "snntorch": other.snntorch, "mambapy": other.mambapy,
    "pytorch_lightning": other.pytorch_lightning,
}  # fmt: skip


def make(source: str, name: str) -> tuple[nn.Module, Any]:
    """A model with random weights and an example of its input."""
    torch.manual_seed(0)
    return SOURCES[source]()[name]()
