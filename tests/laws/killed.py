"""A run that is killed at any moment, for law 9: started by the test as a process of its own.

The process forks a child for each attempt at the run, kills it with SIGKILL after a while, and
starts the run again, until it is done. Nothing is computed before the fork, so forking is safe.
"""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from layergroups import checkpoints
from layergroups.training import FineTuneDefaults, FitContext, Learner
from tests.laws.models import Residual
from tests.training.tiny import TinyLoaders, pretrained, tiny_model


class Regrow:
    """Surgery in the midst of a fit: a new last layer at a certain step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def before_step(self, run: FitContext) -> None:
        if run.step == self.step:
            run.model[1][4] = nn.Linear(8, 3)
            run.model[0].append(Residual(8, 8))


class Thawing:
    """Half thawed from the second epoch on."""

    def before_epoch(self, run: FitContext) -> None:
        run.groups.freeze_to(-1 if run.epoch == 0 else -2)


def learner(callbacks: tuple[object, ...] = ()) -> Learner:
    torch.manual_seed(0)
    options = {"progress": False, "seed": 3, "metrics": ["accuracy"], "callbacks": callbacks}
    split = ["0.0", "0.7", "1"]
    return Learner(TinyLoaders(n=96), pretrained(tiny_model()), split=split, **options)


def phases(folder: Path) -> Learner:
    """Frozen, half thawed, unfrozen, with another head between the fits, then fine_tune."""
    saved = {"checkpoint_dir": folder / "saved", "checkpoint_every": 3, "resume": True}
    learn = learner((Thawing(),))
    learn.fit(2, 1e-2, **saved)
    learn.callbacks.clear()
    learn.model[1][4] = nn.Linear(8, 3)
    learn.unfreeze()
    learn.fit_one_cycle(2, slice(1e-4, 1e-2), **saved)
    figures = FineTuneDefaults(head_passes=4)
    learn.fine_tune(1, 1e-2, defaults=figures, **saved)
    return learn


def two_boundaries(folder: Path) -> Learner:
    """fine_tune whose second phase trains on what the first one kept for it."""
    saved = {"checkpoint_dir": folder / "saved", "checkpoint_every": 3, "resume": True}
    learn = learner()
    figures = FineTuneDefaults(lowest=1, head_passes=4, hold_out=0.3)
    learn.fine_tune(3, 1e-2, defaults=figures, **saved)
    learn.fit(1, 1e-3, **saved)
    return learn


def surgery(folder: Path) -> Learner:
    """Parts change in the midst of a fit, twice."""
    saved = {"checkpoint_dir": folder / "saved", "checkpoint_every": 2, "resume": True}
    learn = learner((Regrow(9), Regrow(29)))
    learn.fit(4, 1e-2, **saved)
    return learn


def unseeded(folder: Path) -> Learner:
    """All randomness comes from torch's global generator, order of the data too."""
    saved = {"checkpoint_dir": folder / "saved", "checkpoint_every": 5, "resume": True}
    torch.manual_seed(5)
    dls = TinyLoaders(n=96)
    photos = torch.utils.data.TensorDataset(dls.train.x, dls.train.y)
    dls.train = torch.utils.data.DataLoader(photos, 8, shuffle=True)
    model = pretrained(tiny_model())
    learn = Learner(dls, model, split=["0.0", "1"], progress=False, opt_func="sgd")
    learn.fit(3, 1e-2, **saved)
    return learn


RUNS: dict[str, Callable[[Path], Learner]] = {
    "phases": phases, "two_boundaries": two_boundaries, "surgery": surgery, "unseeded": unseeded,
}  # fmt: skip


def attempt(run: str, folder: Path, die_at_write: int = 0) -> int:
    """Fork a child that does the run; returns its process number."""
    child = os.fork()
    if child:
        return child
    try:
        logging.disable()
        torch.set_num_threads(1)
        random.seed(1)  # Python seeds it anew in a fork
        if die_at_write:
            _die_at_write(die_at_write)
        learn = RUNS[run](folder)
        learn.path = folder
        learn.save("end")
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
        os._exit(1)


def _die_at_write(count: int) -> None:
    """The process kills itself when a checkpoint is written but not yet in its place."""
    replace, done = os.replace, []

    def fatal(*names: object) -> None:
        done.append(names)
        if len(done) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*names)

    os.replace = fatal


def to_the_end(run: str, folder: Path) -> float:
    """Let the run end; returns how long it took."""
    started = time.perf_counter()
    _, status = os.waitpid(attempt(run, folder), 0)
    if status:
        sys.exit(f"the run failed with {status}")
    return time.perf_counter() - started


def same(one: Path, two: Path) -> None:
    """Both ended with the same weights, optimizer, history and random states, to the bit."""
    (tensors, state), (others, other) = (
        checkpoints.read(p / "end.safetensors") for p in (one, two)
    )
    assert tensors.keys() == others.keys()
    different = [name for name, t in tensors.items() if not torch.equal(t, others[name])]
    assert not different, different
    for row in (*state["history"], *other["history"]):
        row.pop("seconds")  # times and memory are those of the process
        row["resources"] = {
            name: row["resources"][name]
            for name in ("passes", "body_passes")
            if name in row["resources"]
        }
    told = [(key, state[key], other[key]) for key in state if state[key] != other[key]]
    assert not told, told


def kill_often(run: str, folder: Path, times: int, seed: int) -> None:
    """Kill the run at random moments, each time a new run, and compare its end."""
    duration = to_the_end(run, folder / "unbroken")
    moments = random.Random(seed)
    for number in range(times):
        broken = folder / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        if number % 4 == 3:
            child = attempt(run, broken, die_at_write=moments.randint(1, 12))
        else:
            child = attempt(run, broken)
            time.sleep(moments.uniform(0, duration))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status)
        files = len(list(broken.rglob("step-*.safetensors")))
        to_the_end(run, broken)
        same(folder / "unbroken", broken)
        print(f"{run} {number}: killed={killed} files={files} ok", flush=True)


if __name__ == "__main__":
    kill_often(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
