"""layergroups with a search: `vision_learner(...).search(30)`, which ends with `fine_tune`."""

from __future__ import annotations

import sys

from harness import Fitted, Job, main
from ours import AfterHead, fitted, learner


def fit(job: Job) -> Fitted:
    learn, head = learner(job), AfterHead()
    found = learn.search(30, epochs=job.epochs, callbacks=[head])
    print(found, f"{found.seconds:.1f} s", file=sys.stderr)
    return fitted(learn, head)


if __name__ == "__main__":
    main(fit)
