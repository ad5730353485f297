"""One run of layergroups with its defaults: photos weights size epochs seed -> a JSON line."""

from __future__ import annotations

import json
import resource
import sys
import time

from layergroups import ImageDataLoaders, vision_learner

photos, weights, size, epochs, seed = sys.argv[1:6]
begin = time.perf_counter()
dls = ImageDataLoaders.from_folder(photos, size=int(size), batch_size=64, seed=int(seed))
learn = vision_learner(
    dls, "timm:tf_efficientnet_lite0", weights=weights, metrics=["accuracy"], seed=int(seed)
)
history = learn.fine_tune(int(epochs))
accuracy = learn.validate()["accuracy"]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(
    json.dumps(
        {
            "accuracy": accuracy,
            "seconds": time.perf_counter() - begin,
            "peak_mb": peak,
            "after": [[r.phase, r.metrics["accuracy"], r.seconds] for r in history],
        }
    )
)
