"""The position of a fit as JSON values, and how to resume from it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from layergroups.checkpoints import load_random_state, random_state
from layergroups.data import Batches, Shard, can_start_later, generators_of, shards_of, starting_at

if TYPE_CHECKING:
    from layergroups.training.loop._fit_context import FitContext, RandomStart


def position_of(run: FitContext, *, epoch_done: bool) -> dict[str, Any]:
    return {
        "epoch": run.epoch + epoch_done,
        "batch": 0 if epoch_done else run.batch,
        "step": run.step,
        "first_step": run.first_step,
        "changes": run.changes,
        "stop": run.stop,
        "stored": run.batches is not run.train,
        "rows": len(run.rows),
        "losses": run.losses.state_dict(),
        "highest": run.max_multiplier,
        "lrs": list(run.lrs),
        "seconds": time.perf_counter() - run.started,
    }


def restore_position(run: FitContext, fit: Mapping[str, Any], epoch_start: RandomStart) -> None:
    for name in ("epoch", "batch", "step", "changes", "stop"):
        setattr(run, name, fit[name])
    run.max_multiplier, run.lrs = fit["highest"], tuple(fit["lrs"])
    run.first_step = fit.get("first_step", run.step - math.ceil(run.batch / run.accumulate))
    run.seconds_before = float(fit["seconds"]) if run.batch else 0.0
    run.losses.load_state_dict(fit["losses"])
    history = run.learner.history
    run.rows = list(history[len(history) - fit["rows"] :])
    run.epoch_start = epoch_start
    if run.features is not None and run.batch and not fit["stored"]:
        run.features.skip_epoch()


def shards_left(run: FitContext, min_items: int) -> Iterator[Shard]:
    """This process's shards of the remaining batches, of at least `min_items` each."""
    if run.epoch_start is None or run.batch == 0:
        run.epoch_start = random_start(run.batches)
        return shards_of(run.batches, run.processes, min_items=min_items, separate_rng=True)
    # The pass starts from its original random states, so that order and augmentation are the same,
    # whatever draws them. Afterwards the current states are restored.
    now = random_state()
    begin_again(run.batches, run.epoch_start)
    if can_start_later(run.batches) and not run.processes.is_distributed:
        left = shards_of(starting_at(run.batches, run.batch), run.processes)
    else:
        left = shards_of(run.batches, run.processes, min_items=min_items, separate_rng=True)
        for _ in islice(left, run.batch):
            pass
    load_random_state(*now)
    return left


def random_start(batches: Batches) -> RandomStart:
    """The states of the global generators, and of a DataLoader's generator."""
    tensors, plain = random_state()
    own = {name: g.get_state() for name, g in generators_of(batches).items()}
    return {"tensors": tensors, "plain": plain, "own": own}


def begin_again(batches: Batches, start: RandomStart) -> None:
    load_random_state(start["tensors"], start["plain"])
    for name, generator in generators_of(batches).items():
        if name in start["own"]:
            generator.set_state(start["own"][name])
