"""`layergroups predict`: what is on photos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layergroups.cli.words import photos_of
from layergroups.data import unlabelled_batches
from layergroups.data.checks import OnError
from layergroups.errors import DataError
from layergroups.reports import PhotoPrediction, predictions_table
from layergroups.reports.output import show, show_json
from layergroups.training import load_learner


def run(
    model: Path,
    images: Sequence[Path],
    *,
    batch_size: int,
    workers: int | None,
    on_error: OnError,
    json: bool,
) -> None:
    """Predict photos with an exported model, and show a table or JSON.

    Raises:
        LayerGroupsError: the folder is not an export, or photos cannot be read.
    """
    learn = load_learner(model)
    dls: Any = learn.dls
    photos = photos_of(images)
    if not photos:
        raise DataError(f"There are no images in {', '.join(map(str, images))}.")
    batches = unlabelled_batches(
        photos, dls.transform, batch_size=batch_size, num_workers=workers, on_error=on_error
    )
    if not batches.paths:
        raise DataError("None of the images can be read.")
    probabilities, *_ = learn.get_preds(batches)
    rows = [
        PhotoPrediction.from_probabilities(path, found, dls.vocab)
        for path, found in zip(batches.paths, probabilities, strict=True)
    ]
    if json:
        show_json([row.to_dict() for row in rows])
    else:
        show(predictions_table(rows))
