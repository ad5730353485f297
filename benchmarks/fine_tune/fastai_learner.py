"""A `vision_learner` of fastai with its defaults, in the peers' environment.

The weights are loaded by hand because the hub is not asked; augmentation is fastai's default
(`aug_transforms`), statistics are those of the weights.
"""

from __future__ import annotations

import timm
from fastai.vision.all import (
    ImageDataLoaders,
    Learner,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    vision_learner,
)
from safetensors.torch import load_file


def made(photos: str, weights: str, size: int) -> Learner:
    """Of photos in train and valid, with EfficientNet-Lite0; its weights must all fit."""
    dls = ImageDataLoaders.from_folder(
        photos, train="train", valid="valid", item_tfms=Resize(size), bs=64,
        batch_tfms=[*aug_transforms(), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
    )  # fmt: skip
    learn = vision_learner(
        dls, "tf_efficientnet_lite0", pretrained=False, normalize=False, metrics=accuracy
    )
    missing, unexpected = learn.model[0].model.load_state_dict(load_file(weights), strict=False)
    classifier = timm.create_model("tf_efficientnet_lite0").classifier
    assert not missing, missing
    assert len(unexpected) == len(classifier.state_dict())
    return learn
