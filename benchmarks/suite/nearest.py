"""Nearest neighbours on frozen features; their number comes from cross-validation."""

from __future__ import annotations

import numpy as np
from harness import Job, main
from linear_probe import FOLDS, Estimator, fit_estimator
from sets import Values
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer


class Tags(KNeighborsClassifier):
    """Several tags: for each tag the share of the neighbours that have it."""

    def predict_proba(self, X: Values) -> Values:
        found = super().predict_proba(X)
        pairs = zip(found, self.classes_, strict=True)
        return np.stack([p @ (c == 1) for p, c in pairs], axis=1)


def nearest(job: Job) -> Estimator:
    kinds = {"classes": KNeighborsClassifier, "tags": Tags, "number": KNeighborsRegressor}
    neighbors = kinds[job.data.kind](weights="uniform" if job.data.kind == "tags" else "distance")
    pipeline = make_pipeline(Normalizer(), neighbors)
    if job.data.kind == "tags":
        return pipeline.set_params(tags__n_neighbors=20)
    grid = {f"{pipeline.steps[-1][0]}__n_neighbors": [1, 3, 5, 10, 20]}
    return GridSearchCV(pipeline, grid, cv=FOLDS)


if __name__ == "__main__":
    main(lambda job: fit_estimator(job, nearest))
