"""One run of fastai with its defaults, in the peers' environment: -> a JSON line.

The weights are loaded by hand because the hub is not asked; all else is `fine_tune` as it comes,
with fastai's default augmentation (`aug_transforms`) and the weights' own statistics.
"""

from __future__ import annotations

import json
import resource
import sys
import time

import timm
from fastai.vision.all import (
    ImageDataLoaders,
    Normalize,
    Resize,
    accuracy,
    aug_transforms,
    set_seed,
    vision_learner,
)
from safetensors.torch import load_file

photos, weights, size, epochs, seed = sys.argv[1:6]
begin = time.perf_counter()
set_seed(int(seed))
dls = ImageDataLoaders.from_folder(
    photos, train="train", valid="valid", item_tfms=Resize(int(size)), bs=64,
    batch_tfms=[*aug_transforms(), Normalize.from_stats([0.5] * 3, [0.5] * 3)],
)  # fmt: skip
learn = vision_learner(
    dls, "tf_efficientnet_lite0", pretrained=False, normalize=False, metrics=accuracy
)
body = learn.model[0].model
missing, unexpected = body.load_state_dict(load_file(weights), strict=False)
assert not missing, missing
assert len(unexpected) == len(timm.create_model("tf_efficientnet_lite0").classifier.state_dict())
with learn.no_logging(), learn.no_bar():
    learn.fine_tune(int(epochs))
    score = float(learn.validate()[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"accuracy": score, "seconds": time.perf_counter() - begin, "peak_mb": peak}))
