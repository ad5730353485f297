"""One run of fastai's `fine_tune` as it comes: photos weights size epochs seed -> a JSON line.

Runs in the peers' environment.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from fastai.vision.all import set_seed
from fastai_learner import made

photos, weights, size, epochs, seed = sys.argv[1:6]
begin = time.perf_counter()
set_seed(int(seed))
learn = made(photos, weights, int(size))
with learn.no_logging(), learn.no_bar():
    learn.fine_tune(int(epochs))
    score = float(learn.validate()[1])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"accuracy": score, "seconds": time.perf_counter() - begin, "peak_mb": peak}))
