"""`layergroups predict`: what is on photos."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from layergroups.cli.words import photos_of
from layergroups.data import OrderedBatches, unlabelled_batches
from layergroups.data.checks import OnError
from layergroups.errors import DataError
from layergroups.reports import PhotoPrediction
from layergroups.reports.streams import write_rows
from layergroups.training import Learner, load_learner


def run(
    model: Path,
    images: Sequence[Path],
    *,
    batch_size: int,
    workers: int | None,
    on_error: OnError,
    format: str,
) -> None:
    """Predict photos with an exported model, and write a row for each as it comes.

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
    if not batches.photos.files:
        raise DataError("None of the images can be read.")
    write_rows(format, _rows(learn, batches, dls.vocab), dls.vocab, batches.photos.files)


def _rows(
    learn: Learner, batches: OrderedBatches, classes: Sequence[str]
) -> Iterator[PhotoPrediction]:
    """What the model says of each photo; with a bar where the rows do not go to the terminal."""
    if sys.stdout.isatty():
        learn.progress = False
    with learn.reporter.bar("predictions", len(batches.photos)) as bar:
        for path, found in learn.iter_preds(batches):
            yield PhotoPrediction.from_probabilities(path, found.probabilities, classes)
            bar.advance()
