"""Show some images with actual and predicted classes."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from layergroups import _drawing as drawing
from layergroups._checks import whole_number
from layergroups._drawing import Figure
from layergroups._formatting import count
from layergroups._forward import split_batch
from layergroups.data import IndexedBatches, batches_of, data_source, paths_of
from layergroups.errors import LayerGroupsError
from layergroups.reports._images import (
    MASKS_SHOWN,
    as_pixels,
    collated,
    each_of,
    images_of,
    mask_pictures,
)
from layergroups.reports._protocols import Answering
from layergroups.tasks import output_names


def results_picture(
    learn: Answering, path: str | Path | None = None, n: int = 9, dl: Any = None
) -> Path | Figure:
    """Draw images with actual and predicted classes; see `Learner.show_results`."""
    whole_number("n", n, 1, 9, LayerGroupsError)
    data = data_source(learn.dls)
    inputs, targets, paths = _chosen(batches_of(data, dl), n, data.seed)
    images = images_of(inputs)
    predictions, *_ = learn.get_preds([(inputs, targets)])
    task, thresh = learn.task, learn.thresh
    names = output_names(data.vocab, task.rows(predictions).shape[1])
    decisions = task.decide(predictions, thresh)
    correct = None if targets is None else task.correct(predictions, targets, thresh)
    tiles = []
    for i, image in enumerate(images):
        predicted = task.text(decisions[i], names)
        actual = None if targets is None else task.text(targets[i], names)
        confidence = task.confidence(predictions[i])
        sure = [] if confidence is None else [f"confidence {confidence:.2f}"]
        lines = [*([] if actual is None else [f"actual {actual}"]), *sure, *paths[i : i + 1]]
        verdict = None if correct is None else bool(correct[i])
        pixels = as_pixels(image, data.input)
        pictures: tuple[Any, ...] = (pixels,)
        if task.per_pixel:
            mask = None if targets is None else targets[i].cpu()
            pictures += mask_pictures(pixels, mask, decisions[i], task.colours(len(names)))
        tiles.append(drawing.Tile(pictures, predicted, verdict, tuple(lines)))
    what = "Predicted" if targets is None else "Predicted and actual"
    right = [bool(tile.right) for tile in tiles if tile.right is not None]
    note = f"{sum(right)} of {len(tiles)} are correct" if right else ""
    if task.per_pixel and targets is not None:
        note = MASKS_SHOWN
    title = f"{what}: {count(len(tiles), 'image')}"
    colours = dict(zip(names, task.colours(len(names)), strict=True)) if task.per_pixel else None
    figure = drawing.draw_images(tiles, title, note, classes=colours)
    return drawing.save_or_return(figure, path)


def _chosen(batches: Any, n: int, seed: int) -> tuple[Any, Tensor | None, tuple[str, ...]]:
    if isinstance(batches, IndexedBatches):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(batches.n_items, generator=generator)
        chosen = order[:n].sort().values.tolist()
        inputs, targets = split_batch(batches.at(chosen))
        paths = paths_of(batches)
        return inputs, targets, tuple(paths[i].name for i in chosen if paths)
    with torch.random.fork_rng(devices=[]):  # a loader may draw its order
        first = list(islice(each_of(batches), n))
    if not first:
        raise LayerGroupsError("There are no images to show: the batches are empty.")
    return *collated(first), ()
