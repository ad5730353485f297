"""What fastai's `learn.predict(path)` takes: photos weights size repeats threads -> a JSON line.

Runs in the peers' environment; `predict.py --peers` calls it.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from fastai.vision.all import ImageDataLoaders, Normalize, Resize, get_image_files, vision_learner
from safetensors.torch import load_file

warnings.simplefilter("ignore")
photos, weights = sys.argv[1:3]
size, repeats, threads = map(int, sys.argv[3:6])
torch.set_num_threads(threads)
dls = ImageDataLoaders.from_folder(
    photos, valid_pct=0.2, seed=0, item_tfms=Resize(size), bs=8, num_workers=0,
    batch_tfms=[Normalize.from_stats([0.5] * 3, [0.5] * 3)],
)  # fmt: skip
learn = vision_learner(dls, "tf_efficientnet_lite0", pretrained=False, normalize=False)
learn.model[0].model.load_state_dict(load_file(weights), strict=False)
path = sorted(get_image_files(Path(photos)))[0]
took = []
with learn.no_bar(), learn.no_logging():
    for _ in range(repeats + 10):
        begin = time.perf_counter()
        learn.predict(path)
        took.append(time.perf_counter() - begin)
print(json.dumps({"seconds": statistics.median(took[10:])}))
