"""A table of photos and labels as batches, to measure a model whose outputs have names already."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from layergroups.data.batches import Feed, OrderedBatches, PhotoDataset, default_workers
from layergroups.data.checks import OnError
from layergroups.data.labels import understood
from layergroups.data.lists import photos_of, sound_positions
from layergroups.data.photos import Task
from layergroups.data.settings import Settings
from layergroups.data.tables import Column, read_table, rows_of
from layergroups.data.transforms import EvalTransform


def table_batches(
    table: str | os.PathLike[str],
    vocab: Sequence[str],
    task: Task,
    transform: EvalTransform,
    *,
    label_col: Column | Sequence[Column] = 1,
    label_delim: str | None = None,
    valid_col: Column | None = None,
    folder: Path | None = None,
    batch_size: int = 64,
    num_workers: int | None = None,
    on_error: OnError = "raise",
) -> OrderedBatches:
    """Batches (x, y) of the photos of a CSV or TSV file; of those for validation, if it says which.

    Args:
        table: the file.
        vocab: names of the model's outputs.
        task: what they answer.
        transform: what is done to the photos; for an exported model, `transform_from_config`.
        label_col: as for `ImageDataLoaders.from_table`.
        label_delim: likewise.
        valid_col: likewise.
        folder: where the photos lie; None: where the table lies.
        batch_size: photos in a batch.
        num_workers: processes that prepare batches; None to choose as `ImageDataLoaders` does.
        on_error: "raise" or "skip", what happens with broken images.

    Raises:
        DataError: the table is not as expected, or has labels that `vocab` has not.
        BrokenImagesError: images are broken, and `on_error` is "raise".
    """
    rows = rows_of(
        read_table(table),
        Path(table).parent if folder is None else folder,
        fn_col=0,
        label_col=label_col,
        label_delim=label_delim,
        valid_col=valid_col,
        suff="",
    )
    wanted = [i for i in range(len(rows.files)) if rows.valid is None or rows.valid[i]]
    files = [rows.files[i] for i in wanted]
    sound, _ = sound_positions(files, Settings(on_error=on_error, channels=transform.channels))
    files = [files[i] for i in sound]
    labels = [rows.labels[wanted[i]] for i in sound]
    photos = photos_of(files, understood(labels, files, task=task, vocab=vocab))
    workers = default_workers(photos) if num_workers is None else num_workers
    return OrderedBatches(Feed(PhotoDataset(photos, transform), workers), batch_size)
