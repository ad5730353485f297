"""`layergroups predict`: what is on photos."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from layergroups.cli.words import photos_of
from layergroups.data import OrderedBatches, unlabelled_batches
from layergroups.data.checks import OnError
from layergroups.errors import DataError
from layergroups.reports import PhotoLabels, PhotoNumbers, PhotoPrediction
from layergroups.reports.photo_rows import PhotoRow
from layergroups.reports.streams import write_rows
from layergroups.training import LabelsPrediction, Learner, NumbersPrediction, load_learner
from layergroups.training.answers import AnyPrediction


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
    kind = _KINDS[learn.task]
    write_rows(format, _rows(learn, batches, dls.vocab), kind, dls.vocab, batches.photos.files)


def _rows(learn: Learner, batches: OrderedBatches, names: Sequence[str]) -> Iterator[PhotoRow]:
    """What the model says of each photo; with a bar where the rows do not go to the terminal."""
    if sys.stdout.isatty():
        learn.progress = False
    with learn.reporter.bar("predictions", len(batches.photos)) as bar:
        for path, found in learn.iter_preds(batches):
            yield _row(path, found, names)
            bar.advance()


def _row(path: Path, found: AnyPrediction, names: Sequence[str]) -> PhotoRow:
    """What the model says of one photo, to be written."""
    if isinstance(found, LabelsPrediction):
        return PhotoLabels(path, found.labels, found.by_name)
    if isinstance(found, NumbersPrediction):
        return PhotoNumbers(path, found.by_name)
    return PhotoPrediction.from_probabilities(path, found.probabilities, names)


_KINDS: Final[dict[str, type[PhotoRow]]] = {
    "single": PhotoPrediction,
    "multi": PhotoLabels,
    "regression": PhotoNumbers,
}
