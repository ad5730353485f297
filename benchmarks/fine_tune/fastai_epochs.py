"""Epochs of fastai: photos weights size epochs frozen|unfrozen -> a JSON line.

Runs in the peers' environment. Frozen is the head alone in one cycle at 1e-3, as `learn.freeze()`
leaves it; unfrozen is all layers at 1e-4. An epoch is training and validation.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings

from fastai.vision.all import Callback, set_seed
from fastai_learner import made

warnings.simplefilter("ignore")
photos, weights, size, epochs, which = sys.argv[1:6]
set_seed(0)
learn = made(photos, weights, int(size))


class Times(Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.rows: list[float] = []

    def before_epoch(self) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def after_epoch(self) -> None:
        """Note what it took."""
        self.rows.append(time.perf_counter() - self.start)


times = Times()
begin = time.perf_counter()
with learn.no_bar(), learn.no_logging():
    if which == "frozen":
        learn.freeze()
        learn.fit_one_cycle(int(epochs), 1e-3, cbs=times)
    else:
        learn.unfreeze()
        learn.fit(int(epochs), 1e-4, cbs=times)
print(
    json.dumps(
        {
            "epochs": times.rows,
            "seconds": time.perf_counter() - begin,
            "accuracy": float(learn.recorder.values[-1][-1]),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
    )
)
