"""Where a run stands in its data, and how it gets there again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from layergroups.checkpoints import load_random_state, random_state
from layergroups.data.shares import Share
from layergroups.training.loaders import Batches
from layergroups.training.shares import shares_of

if TYPE_CHECKING:
    from layergroups.training.run import Run

RandomStart = dict[str, Any]


def shares_left(run: Run, least: int) -> Iterator[Share]:
    """What this process takes of the epoch's batches, from the one at which the run stands.

    A pass is started from the random states at which it was started the first time, so order and
    augmentation are the same whatever draws them; then the states of the moment are put back.

    Args:
        run: in the midst of an epoch, or at its start.
        least: the fewest items that a process can work on.
    """
    if run.epoch_start is None or run.batch == 0:
        run.epoch_start = random_start(run.source)
        return shares_of(run.source, run.processes, least=least, apart=True)
    now = random_state()
    begin_again(run.source, run.epoch_start)
    quick = getattr(run.source, "starting_at", None)
    if quick is not None and not run.processes.several:  # the first batches are not even read
        left = shares_of(quick(run.batch), run.processes)
    else:
        left = shares_of(run.source, run.processes, least=least, apart=True)
        for _ in islice(left, run.batch):
            pass
    load_random_state(*now)
    return left


def random_start(batches: Batches) -> RandomStart:
    """The states of the global generators, and of the generator that a DataLoader may have."""
    tensors, plain = random_state()
    own = {name: g.get_state() for name, g in _generators(batches).items()}
    return {"tensors": tensors, "plain": plain, "own": own}


def begin_again(batches: Batches, start: RandomStart) -> None:
    """Put back the states that `random_start` gave."""
    load_random_state(start["tensors"], start["plain"])
    for name, generator in _generators(batches).items():
        if name in start["own"]:
            generator.set_state(start["own"][name])


def _generators(batches: Batches) -> dict[str, torch.Generator]:
    """Generators of a torch DataLoader and of its sampler."""
    places = {"loader": batches, "sampler": getattr(batches, "sampler", None)}
    found = {name: getattr(place, "generator", None) for name, place in places.items()}
    return {name: g for name, g in found.items() if isinstance(g, torch.Generator)}
