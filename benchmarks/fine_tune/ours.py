"""One run of layergroups: photos weights size epochs seed [figures as JSON] -> a JSON line."""

from __future__ import annotations

import json
import resource
import sys
import time

from layergroups import ImageDataLoaders, vision_learner
from layergroups.training import FineTuneDefaults

photos, weights, size, epochs, seed = sys.argv[1:6]
figures = json.loads(sys.argv[6]) if len(sys.argv) > 6 else {}  # fields of FineTuneDefaults
begin = time.perf_counter()
dls = ImageDataLoaders.from_folder(photos, size=int(size), batch_size=64, seed=int(seed))
learn = vision_learner(
    dls, "timm:tf_efficientnet_lite0", weights=weights, metrics=["accuracy"], seed=int(seed)
)
history = learn.fine_tune(int(epochs), defaults=FineTuneDefaults(**figures))
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
