"""What a model says of the validation data, for the record of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any, Final

import torch
from torch import Tensor

from layergroups.errors import LayerGroupsError
from layergroups.reports.answers import TopLoss
from layergroups.reports.as_seen import overlay
from layergroups.reports.confusion import Confusion
from layergroups.reports.interpretation import Interpretation
from layergroups.reports.items import Items
from layergroups.reports.run_facts import Cell, LabelFacts, Outcome, Photo
from layergroups.reports.thumbnails import LARGE, Budget, image_of, jpeg_uri

MOST_THUMBS: Final = 1_500_000  # bytes of small pictures, as data URIs
MOST_LARGE: Final = 500_000
_IN_A_CELL: Final = 24
_WORST: Final = 9
_POINTS: Final = 800
_CHUNK: Final = 64

Thumbs = dict[int, str]
Members = dict[tuple[int, int], list[int]]


def outcome_of(interp: Interpretation, *, pictures: bool = True) -> Outcome:
    """The results in figures, and pictures of some items; the learner is left as it was.

    Args:
        interp: predictions, targets and losses of the items.
        pictures: False leaves all pictures out.
    """
    items = Items.of(interp)
    told = Outcome(
        task=interp.task,
        items=len(interp),
        loss=float(interp.losses.mean()) if len(interp) else None,
        classes=interp.classes,
        worst=tuple(_worst(interp, items, pictures)),
    )
    if interp.task == "regression":
        return replace(told, figures=_distances(interp), points=_points(interp))
    if interp.task == "multi":
        return replace(told, figures=_shares(interp), labels=_labels(interp), **_calibrated(interp))
    members = _members(interp)
    thumbs = _thumbs(items, list(_chosen(members))) if pictures else {}
    return replace(
        told,
        figures={"accuracy": interp.confusion_matrix().accuracy},
        cells=tuple(_cells(members, thumbs)),
        photos=tuple(_photo(items, interp.item(i), thumb) for i, thumb in thumbs.items()),
        **_calibrated(interp),
    )


def confusions_of(outcome: Outcome) -> tuple[Confusion, ...]:
    """Classes that were taken for others, the most frequent first."""
    wrong = [cell for cell in outcome.cells if cell.actual != cell.predicted]
    return tuple(
        Confusion(outcome.classes[cell.actual], outcome.classes[cell.predicted], cell.count)
        for cell in sorted(wrong, key=lambda cell: -cell.count)
    )


# Figures


def _shares(interp: Interpretation) -> dict[str, float]:
    said, true = interp.predicted, interp.targets > 0.5
    right, all_ = int((said & true).sum()), int(said.sum()) + int(true.sum())
    return {
        "F1 of all labels": 2 * right / all_ if all_ else 1.0,
        "all labels right": float(interp.correct.float().mean()),
    }


def _labels(interp: Interpretation) -> tuple[LabelFacts, ...]:
    said, true = interp.predicted, interp.targets > 0.5
    counts = torch.stack([true.sum(0), said.sum(0), (said & true).sum(0)], 1).tolist()
    return tuple(LabelFacts(name, *row) for name, row in zip(interp.classes, counts, strict=True))


def _distances(interp: Interpretation) -> dict[str, float]:
    """Over all numbers of all items."""
    far = (interp.predictions - interp.targets).float()
    spread = float((interp.targets - interp.targets.float().mean(0)).square().sum())
    figures = {"mean absolute error": float(far.abs().mean())}
    return figures | ({"R²": 1 - float(far.square().sum()) / spread} if spread > 0 else {})


def _points(interp: Interpretation) -> tuple[tuple[float, float], ...]:
    """Actual and predicted first number of some items, evenly chosen."""
    step = max(1, -(-len(interp) // _POINTS))
    both = (t[::step, 0].tolist() for t in (interp.targets, interp.predictions))
    return tuple(zip(*both, strict=True))


def _calibrated(interp: Interpretation) -> dict[str, Any]:
    found = interp.calibration()
    bins = [(b.said, b.right, b.count) for b in found.bins if b.said is not None]
    return {"calibration": tuple(bins), "calibration_error": found.error}


# The confusion matrix and its photos


def _members(interp: Interpretation) -> Members:
    """Items of each cell: of mistakes the surest first, of the rest the least sure first."""
    score, predicted = interp.predictions.max(1)
    members: Members = {}
    for position in score.argsort(stable=True).tolist():
        cell = (int(interp.targets[position]), int(predicted[position]))
        members.setdefault(cell, []).append(position)
    return {
        cell: found if cell[0] == cell[1] else found[::-1]
        for cell, found in sorted(members.items())
    }


def _chosen(members: Members) -> Iterator[int]:
    """Items worth a picture: one of each cell, then the next of each; mistakes first."""
    ordered = sorted(members, key=lambda cell: (cell[0] == cell[1], -len(members[cell])))
    for row in zip_longest(*(members[cell][:_IN_A_CELL] for cell in ordered)):
        yield from (position for position in row if position is not None)


def _thumbs(items: Items, positions: Sequence[int]) -> Thumbs:
    """Small pictures of items by position, in their order, as long as there is room."""
    budget, found = Budget(MOST_THUMBS), {}
    for first in range(0, len(positions), _CHUNK):
        chunk = positions[first : first + _CHUNK]
        pictures = {} if budget.spent else items.pictures(chunk)
        for position in (p for p in chunk if p in pictures):
            uri = budget.take(jpeg_uri(pictures[position]))
            if uri:
                found[position] = uri
    return found


def _cells(members: Members, thumbs: Thumbs) -> Iterator[Cell]:
    number = {position: i for i, position in enumerate(thumbs)}
    for (actual, predicted), found in members.items():
        shown = tuple(number[position] for position in found if position in number)
        yield Cell(actual, predicted, len(found), shown)


def _photo(items: Items, item: TopLoss, thumb: str = "", heat: str = "") -> Photo:
    told = (item.actual or "none", item.predicted or "none", item.probability, item.loss)
    return Photo(items.name(item.index), *told, thumb, heat)


# The highest losses


def _worst(interp: Interpretation, items: Items, pictures: bool) -> Iterator[Photo]:
    """The items of the highest losses, with what spoke for the prediction where it can be told."""
    found, budget = interp.top_losses(_WORST), Budget(MOST_LARGE)
    indices = [item.index for item in found]
    seen = items.as_seen(indices) if pictures else {}
    heats = _heats(interp, indices) if seen else {}
    for item in found:
        picture = heat = ""
        if item.index in seen:
            picture = budget.take(jpeg_uri(image_of(seen[item.index]), LARGE))
        if picture and item.index in heats:
            glowing = overlay(seen[item.index], heats[item.index])
            heat = budget.take(jpeg_uri(image_of(glowing), LARGE))
        yield _photo(items, item, picture, heat)


def _heats(interp: Interpretation, indices: Sequence[int]) -> dict[int, Tensor]:
    """Where predictions come from, (H, W) each; none for a network of which that cannot be told."""
    try:
        return dict(zip(indices, interp.grad_cam(indices), strict=True))
    except (LayerGroupsError, RuntimeError):  # the record goes on without them
        return {}
