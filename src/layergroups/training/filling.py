"""The frozen layers run over all items once, and what they give at each boundary is kept."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from layergroups.training.checks import labelled
from layergroups.training.device import to_device
from layergroups.training.folding import Folding
from layergroups.training.modes import evaluating
from layergroups.training.replay import NoPassageError
from layergroups.training.shares import shares_of
from layergroups.training.shelf import Shelf, StoreOptions, TooLargeError, is_channels_last

if TYPE_CHECKING:
    from layergroups.data.shares import Share
    from layergroups.training.distributed import Processes
    from layergroups.training.kept import FeatureStore, Kept, Resting
    from layergroups.training.run import Run


@dataclass
class _Aim:
    """Where the values at one boundary go in one pass.

    Attributes:
        kept: at the boundary; it gets the shelf when the pass is done.
        view: the how-manieth of the items.
        views: that the shelf is to hold, where it is to be made.
        shelf: None until the first values are there.
        gone: whether there was no room, where it could be done without.
    """

    kept: Kept
    view: int
    views: int
    shelf: Shelf | None
    gone: bool = False


def fill_train(
    run: Run,
    store: FeatureStore,
    options: StoreOptions,
    boundaries: Sequence[Resting],
    *,
    epoch: int,
) -> None:
    """Keep one more view of the training items at these boundaries.

    Args:
        run: in progress.
        store: of its learner; it has looked at the boundaries.
        options: bounds.
        boundaries: the first is needed; others are dropped if there is no room for them.
        epoch: in whose augmentation.

    Raises:
        TooLargeError: there is no room for the first.
        NoPassageError: the model or the data are not what they were when they were looked at.
    """
    started = time.perf_counter()
    there = [boundary for boundary in boundaries if boundary in store.kept]
    chosen = [store.kept[boundary] for boundary in there]
    aims = [_Aim(kept, len(kept.views), kept.room, kept.train) for kept in chosen]
    _go_over(run, train_views(run, epoch), aims, store, options)
    for boundary, aim in zip(there, aims, strict=True):
        if aim.gone:
            del store.kept[boundary]
        else:
            aim.kept.train = aim.shelf
            aim.kept.views.append(epoch)
    run.body_passes += 1
    run.store_seconds += time.perf_counter() - started


def fill_valid(
    run: Run, store: FeatureStore, options: StoreOptions, boundaries: Sequence[Resting]
) -> None:
    """Keep the validation items at these boundaries, as `fill_train`, where they are not yet."""
    if run.valid is None or not len(run.valid):
        return
    missing = [b for b in boundaries if b in store.kept and store.kept[b].valid is None]
    aims = [_Aim(store.kept[boundary], 0, 1, None) for boundary in missing]
    if aims:
        _go_over(run, run.valid, aims, store, options)
    for boundary, aim in zip(missing, aims, strict=True):
        aim.kept.valid = aim.shelf
        if aim.gone:
            del store.kept[boundary]


def train_views(run: Run, epoch: int) -> Any:
    """The training items in their order, varied as in an epoch."""
    return run.learner.dls.train_views(epoch=epoch)  # type: ignore[attr-defined] # see why_not


def is_varied(run: Run) -> bool:
    """Whether a training item is another one in each epoch."""
    told = getattr(run.learner.dls, "augment", True) is not None
    return told and bool(getattr(run.train, "varied", True))


def _go_over(
    run: Run, batches: Any, aims: Sequence[_Aim], store: FeatureStore, options: StoreOptions
) -> None:
    """Run the frozen layers over batches that hold all items in their order."""
    done, count, title = 0, len(batches.photos), "outputs of the frozen layers"
    passages = [aim.kept.passage for aim in aims if aim.kept.passage is not None]
    folding = store.folding = Folding.kept(
        store.folding, run.model, passages, on=all(aim.kept.folded for aim in aims)
    )
    with evaluating(run.model), run.learner.reporter.bar(title, len(batches)) as bar:
        for share in shares_of(batches, run.processes):
            found, targets = _outputs(run, share, folding)
            for aim, values in zip(aims, found, strict=True):
                if aim.shelf is None and not aim.gone:
                    made = (other.shelf for other in aims if other.shelf is not None)
                    room = options.left_by({id(s): s for s in (*store.shelves, *made)}.values())
                    _make_shelf(aim, count, values, room, needed=aim is aims[0])
                if aim.shelf is not None:
                    aim.shelf.put(aim.view, range(done, done + share.items), values, targets)
            done += share.items
            bar.advance()
    if done != count:
        raise NoPassageError(f"the data gave {done} items, not as many as they say")


def _make_shelf(
    aim: _Aim, items: int, values: Sequence[Tensor], room: StoreOptions, *, needed: bool
) -> None:
    try:
        aim.shelf = Shelf(items, aim.views, values, room)
    except TooLargeError:
        if needed:
            raise
        aim.gone = True


def _outputs(run: Run, share: Share, folding: Folding) -> tuple[list[list[Tensor]], Tensor]:
    """The values of a whole batch at each boundary, and its targets, from all processes."""
    inputs, targets = labelled(to_device(share.batch, run.accelerator.device))
    with run.accelerator.autocast():
        found = folding.record(inputs)
    run.processes.meet("outputs of the frozen layers", {"batch": share.check})
    joined = [[_joined(value, share, run.processes) for value in values] for values in found]
    return joined, _joined(targets, share, run.processes)


def _joined(rows: Tensor, share: Share, processes: Processes) -> Tensor:
    """The rows of all processes, in the order of the batch and in the layout that they have."""
    if not processes.several:
        return rows
    places = torch.tensor(share.positions[: share.own], dtype=torch.long)
    if is_channels_last(rows):
        plain = rows[: share.own].permute(0, 2, 3, 1)
        return processes.in_order(plain, places).permute(0, 3, 1, 2)
    return processes.in_order(rows[: share.own].contiguous(), places)
