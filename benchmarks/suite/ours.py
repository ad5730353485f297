"""layergroups as it comes: `vision_learner(...).fine_tune(epochs)`."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import BATCH, Fitted, Job, main
from safetensors.torch import save_file
from sets import Values

from layergroups import ImageDataLoaders, vision_learner
from layergroups.training import Learner


class AfterHead:
    """A callback that keeps the weights that the head's phase ends with."""

    state: Mapping[str, Any]

    def after_epoch(self, run: Any) -> None:
        if run.rows[-1].phase == "head":
            self.state = copy.deepcopy(run.learner.model.state_dict())


def learner(job: Job) -> Learner:
    data = job.data
    options: dict[str, Any] = {"size": job.size, "batch_size": BATCH, "seed": job.seed}
    if data.kind == "classes":
        dls = ImageDataLoaders.from_folder(data.folder, **options)
    else:
        labels = {"label_delim": " "} if data.kind == "tags" else {"task": "regression"}
        options |= {"fn_col": "file", "label_col": "label", "valid_col": "split", **labels}
        table = data.folder / "labels.csv"
        dls = ImageDataLoaders.from_table(table, data.folder / "images", **options)
    weights = job.scratch / "weights.safetensors"
    save_file(job.network.state(job.weights), weights)
    name = f"timm:{job.network.timm_name}"
    return vision_learner(
        dls, name, weights=weights, seed=job.seed, progress=False, **job.network.options
    )


def fit(job: Job) -> Fitted:
    learn, head = learner(job), AfterHead()
    learn.fine_tune(job.epochs, callbacks=[head])
    return fitted(learn, head)


def fitted(learn: Learner, head: AfterHead) -> Fitted:
    def predict(files: Sequence[Path]) -> Values:
        found = learn.get_preds(learn.dls.test_dl(files))[0].numpy()
        return found.reshape(len(files), -1)

    return Fitted(predict, lambda: learn.model.load_state_dict(head.state))


if __name__ == "__main__":
    main(fit)
