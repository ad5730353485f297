"""A linear probe on frozen features of the centre crop, in scikit-learn.

Its regularisation comes from cross-validation on the training images. It has no epochs and no seed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import Fitted, Job, main
from peer_parts import image_tensor, outputs_of
from sets import Values
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.transforms import v2

Estimator = Any
FOLDS = 3


def fit_estimator(job: Job, choose: Callable[[Job], Estimator]) -> Fitted:
    """Fit an estimator of scikit-learn to the features of the training images."""
    model = job.network.build(job.weights)
    crop = v2.Compose([v2.Resize(round(job.size / 0.875)), v2.CenterCrop(job.size)])
    transform = v2.Compose([crop, *image_tensor(job.network)])

    def features(files: Sequence[Path]) -> Values:
        return outputs_of(model, transform, files).numpy()

    targets = job.data.train.targets
    estimator = choose(job)
    if job.data.kind == "number":
        targets = targets.ravel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # classes with fewer images than folds
        estimator.fit(features(job.data.train.files), targets)

    def predict(files: Sequence[Path]) -> Values:
        found = features(files)
        if job.data.kind == "number":
            return estimator.predict(found).reshape(-1, 1)
        return np.asarray(estimator.predict_proba(found))

    return Fitted(predict)


def linear(job: Job) -> Estimator:
    if job.data.kind == "number":
        return make_pipeline(StandardScaler(), RidgeCV(np.logspace(0, 5, 11)))
    if job.data.kind == "tags":
        one = LogisticRegression(C=0.001, max_iter=300)
        return make_pipeline(StandardScaler(), OneVsRestClassifier(one))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return GridSearchCV(
        pipeline, {"logisticregression__C": [1e-4, 1e-3, 1e-2, 1e-1]}, cv=FOLDS,
        scoring="neg_log_loss",
    )  # fmt: skip


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(lambda job: fit_estimator(job, linear))
