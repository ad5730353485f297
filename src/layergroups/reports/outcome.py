"""What a model says of the validation data, for the record of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any, Final

import torch
from torch import Tensor

from layergroups.errors import LayerGroupsError
from layergroups.reports.as_seen import overlay
from layergroups.reports.grad_cam import grad_cam
from layergroups.reports.items import Items
from layergroups.reports.run_facts import Cell, LabelFacts, Outcome, Photo
from layergroups.reports.subject import Subject
from layergroups.reports.thumbnails import LARGE, Budget, image_of, jpeg_uri

MOST_THUMBS: Final = 1_500_000  # bytes, as data URIs
MOST_LARGE: Final = 500_000
_IN_A_CELL: Final = 24
_WORST: Final = 9
_POINTS: Final = 800
_LABEL_FROM: Final = 0.5  # probability from which a label counts as found
_EXACT: Final = 1e-12

Found = tuple[Tensor, Tensor, Tensor]


def measure(learn: Subject, found: Found | None = None, *, pictures: bool = True) -> Outcome | None:
    """Predictions of the validation data, with pictures of some; None where there is no such data.

    Args:
        learn: whose model predicts; it is left as it was.
        found: what `learn.get_preds(with_loss=True)` has given, if that is known already.
        pictures: False leaves all pictures out.
    """
    try:
        if found is None:
            if not len(learn.dls.valid):
                return None
            predicted: Any = learn.get_preds(with_loss=True)
            found = predicted
    except (LayerGroupsError, TypeError):
        return None  # loaded without photos, or batches without targets or length
    answers, targets, losses = found
    items = Items(learn.dls)
    task = task_of(learn.dls, answers, targets)
    names = _names(learn.dls, task, answers)
    words = _words(task, names, answers, targets)
    outcome = _OUTCOMES[task](answers, targets, names)
    worst = losses.argsort(descending=True)[:_WORST].tolist()
    chosen = list(_chosen(outcome.cells, answers, targets)) if task == "single" else []
    thumbs = _thumbs(items, chosen) if pictures else {}
    shown = {position: number for number, position in enumerate(thumbs)}
    told = [_photo(items, words, losses, position, thumbs[position]) for position in thumbs]
    return Outcome(
        task=task,
        items=len(answers),
        loss=float(losses.mean()),
        figures=outcome.figures,
        classes=names,
        cells=tuple(_with_photos(outcome.cells, answers, targets, shown)),
        labels=outcome.labels,
        points=outcome.points,
        photos=tuple(told),
        worst=tuple(_worst(learn, items, words, losses, worst, pictures)),
    )


def task_of(dls: Any, answers: Tensor, targets: Tensor) -> str:
    """ "single", "multi" or "regression": as the data say, else as the targets look."""
    said = getattr(dls, "task", None)
    if said in _OUTCOMES:
        return str(said)
    if targets.ndim == 1 and not targets.is_floating_point() and answers.ndim == 2:
        return "single"
    marks = answers.shape == targets.shape and bool(((targets == 0) | (targets == 1)).all())
    return "multi" if marks and hasattr(dls, "vocab") else "regression"


def _names(dls: Any, task: str, answers: Tensor) -> tuple[str, ...]:
    n = answers.shape[1] if answers.ndim > 1 else 1
    own = tuple(str(name) for name in getattr(dls, "vocab", None) or ())
    if len(own) == n:
        return own
    return tuple(f"value {i}" if task == "regression" else str(i) for i in range(n))


# Results by task


def _single(answers: Tensor, targets: Tensor, names: Sequence[str]) -> Outcome:
    predicted, n = answers.argmax(1), answers.shape[1]
    counts = torch.bincount(targets.long() * n + predicted, minlength=n * n)
    cells = [Cell(c // n, c % n, int(counts[c])) for c in counts.nonzero().flatten().tolist()]
    right = float((predicted == targets).float().mean())
    return _partial("single", answers, {"accuracy": right}, cells=tuple(cells))


def _multi(answers: Tensor, targets: Tensor, names: Sequence[str]) -> Outcome:
    said, true = answers > _LABEL_FROM, targets > 0.5
    counts = zip(names, true.sum(0), said.sum(0), (said & true).sum(0), strict=True)
    labels = [LabelFacts(name, int(a), int(p), int(r)) for name, a, p, r in counts]
    right, all_ = int((said & true).sum()), int(said.sum()) + int(true.sum())
    figures = {
        "F1 over all labels": 2 * right / all_ if all_ else 1.0,
        "all labels right": float((said == true).all(1).float().mean()),
    }
    return _partial("multi", answers, figures, labels=tuple(labels))


def _regression(answers: Tensor, targets: Tensor, names: Sequence[str]) -> Outcome:
    x, y = (t.reshape(len(t), -1).float() for t in (targets, answers))
    spread = float(((x - x.mean(0)) ** 2).sum())
    figures = {"mean absolute error": float((x - y).abs().mean())}
    if spread > _EXACT:
        figures["R²"] = 1 - float(((x - y) ** 2).sum()) / spread
    step = max(1, -(-len(x) // _POINTS))
    pairs = zip(x[::step, 0].tolist(), y[::step, 0].tolist(), strict=True)
    return _partial("regression", answers, figures, points=tuple(pairs))


_OUTCOMES = {"single": _single, "multi": _multi, "regression": _regression}


def _partial(task: str, answers: Tensor, figures: dict[str, float], **parts: Any) -> Outcome:
    return Outcome(task=task, items=len(answers), figures=figures, **parts)


# Items in words and pictures

_Words = dict[str, list[Any]]


def _words(task: str, names: Sequence[str], answers: Tensor, targets: Tensor) -> _Words:
    """What each item is, what it was taken for, and how sure the model was, in words."""
    if task == "single":
        score, place = answers.max(1)
        return {
            "actual": [names[i] for i in targets.tolist()],
            "predicted": [names[i] for i in place.tolist()],
            "score": score.tolist(),
        }
    if task == "multi":
        told = [_listed(names, rows) for rows in (targets > 0.5, answers > _LABEL_FROM)]
    else:
        rows = (targets.reshape(len(targets), -1), answers.reshape(len(answers), -1))
        told = [[", ".join(f"{v:.4g}" for v in row) for row in t.tolist()] for t in rows]
    return {"actual": told[0], "predicted": told[1], "score": [None] * len(answers)}


def _listed(names: Sequence[str], rows: Tensor) -> list[str]:
    return [", ".join(names[i] for i in row.nonzero().flatten().tolist()) or "none" for row in rows]


def _photo(
    items: Items, words: _Words, losses: Tensor, position: int, thumb: str, heat: str = ""
) -> Photo:
    actual, predicted, score = (words[name][position] for name in ("actual", "predicted", "score"))
    return Photo(
        items.name(position), actual, predicted, score, float(losses[position]), thumb, heat
    )


def _members(answers: Tensor, targets: Tensor) -> dict[tuple[int, int], list[int]]:
    """Items of each cell: of mistakes the surest first, of the rest the least sure first."""
    score, predicted = answers.max(1)
    members: dict[tuple[int, int], list[int]] = {}
    for position in score.argsort().tolist():
        cell = (int(targets[position]), int(predicted[position]))
        members.setdefault(cell, []).append(position)
    return {
        cell: (found if cell[0] == cell[1] else found[::-1]) for cell, found in members.items()
    }


def _chosen(cells: Sequence[Cell], answers: Tensor, targets: Tensor) -> Iterator[int]:
    """Items worth a picture: one of each cell, then the next of each; mistakes first."""
    members = _members(answers, targets)
    ordered = sorted(cells, key=lambda c: (c.actual == c.predicted, -c.count))
    queues = [members[c.actual, c.predicted][:_IN_A_CELL] for c in ordered]
    for row in zip_longest(*queues):
        yield from (position for position in row if position is not None)


def _thumbs(items: Items, positions: Sequence[int]) -> dict[int, str]:
    """Small pictures of items by position, in their order, as long as there is room."""
    budget, found = Budget(MOST_THUMBS), {}
    chunk = 64
    for first in range(0, len(positions), chunk):
        if budget.spent:
            break
        pictures = items.pictures(positions[first : first + chunk])
        for position in positions[first : first + chunk]:
            uri = budget.take(jpeg_uri(pictures[position])) if position in pictures else ""
            if uri:
                found[position] = uri
    return found


def _with_photos(
    cells: Sequence[Cell], answers: Tensor, targets: Tensor, shown: dict[int, int]
) -> Iterator[Cell]:
    members = _members(answers, targets) if cells else {}
    for cell in cells:
        here = members[cell.actual, cell.predicted]
        photos = tuple(shown[position] for position in here if position in shown)
        yield Cell(cell.actual, cell.predicted, cell.count, photos)


def _worst(
    learn: Subject,
    items: Items,
    words: _Words,
    losses: Tensor,
    positions: Sequence[int],
    pictures: bool,
) -> Iterator[Photo]:
    """The items of the highest losses, with what spoke for the prediction where that can be told."""
    inputs = items.inputs(positions) if pictures else {}
    budget = Budget(MOST_LARGE)
    for position in positions:
        picture = heat = ""
        if position in inputs:
            pixels = items.as_seen(inputs[position])
            picture = budget.take(jpeg_uri(image_of(pixels), LARGE))
            spoke = _heat(learn, inputs[position]) if picture else None
            if spoke is not None:
                heat = budget.take(jpeg_uri(image_of(overlay(pixels, spoke)), LARGE))
        yield _photo(items, words, losses, position, picture, heat)


def _heat(learn: Subject, item: Tensor) -> Tensor | None:
    """Where the prediction comes from, (H, W); None for a network of which that cannot be told."""
    try:
        model = learn.placed_model()
        device = next(model.parameters()).device
        return grad_cam(model, item[None].to(device), anatomy=learn.layer_groups.anatomy)[0]
    except (LayerGroupsError, RuntimeError):
        return None
