"""fastai as it comes: `vision_learner(...).fine_tune(epochs)`, with its usual augmentation."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from fastai.vision.all import (
    Callback,
    ImageDataLoaders,
    Normalize,
    RegressionBlock,
    Resize,
    aug_transforms,
    set_seed,
    vision_learner,
)
from harness import BATCH, Fitted, Job, main
from sets import Values


class AfterHead(Callback):
    """Keeps the weights that the head's phase ends with."""

    state: dict[str, Any] | None = None

    def after_fit(self) -> None:
        if self.state is None:
            self.state = copy.deepcopy(self.learn.model.state_dict())


def loaders(job: Job) -> ImageDataLoaders:
    data = job.data
    options = {
        "item_tfms": Resize(job.size), "bs": BATCH,
        "batch_tfms": [*aug_transforms(), Normalize.from_stats(job.network.mean, job.network.std)],
    }  # fmt: skip
    if data.kind == "classes":
        return ImageDataLoaders.from_folder(data.folder, train="train", valid="valid", **options)
    table = pd.read_csv(data.folder / "labels.csv")
    table["file"] = [_below_root(data.folder / "images" / file) for file in table["file"]]
    table["is_valid"] = table["split"] == "valid"
    kind = {"label_delim": " "} if data.kind == "tags" else {"y_block": RegressionBlock()}
    return ImageDataLoaders.from_df(table, "/", valid_col="is_valid", **kind, **options)


def _below_root(file: Path) -> str:
    """A path as from_df reads it, which adds its folder in front."""
    return str(file.resolve()).lstrip("/")


def fit(job: Job) -> Fitted:
    data = job.data
    set_seed(job.seed)
    dls = loaders(job)
    options = dict(job.network.options)
    if data.kind == "number":  # its documentation: limits a little beyond the targets
        low, high = data.train.targets.min(), data.train.targets.max()
        options["y_range"] = (float(low) - 1, float(high) + 1)
    learn = vision_learner(dls, job.network.timm_name, pretrained=False, normalize=False, **options)
    body = learn.model[0].model
    body.load_state_dict(job.network.build(job.weights).state_dict())
    head = AfterHead()
    with learn.no_logging(), learn.no_bar():
        learn.fine_tune(job.epochs, cbs=[head])

    def predict(files: Sequence[Path]) -> Values:
        items: Any = list(files)
        if data.kind != "classes":
            items = pd.DataFrame({"file": [_below_root(file) for file in files]})
        with learn.no_logging(), learn.no_bar():
            return learn.get_preds(dl=dls.test_dl(items))[0].numpy()

    return Fitted(predict, lambda: learn.model.load_state_dict(head.state))


if __name__ == "__main__":
    main(fit)
