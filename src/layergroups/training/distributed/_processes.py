"""Communication of the processes that train one model together, each on its shard of a batch.

Nothing wraps the model: each process runs the plain module, and gradients are summed before the
optimizer step (`Replicas`). So freezing and surgery need no rebuild, and parameters without a
gradient no option.

Before every exchange the processes compare their position in the program and the facts that must be
equal. If they differ, or a process has failed, all raise the same error instead of hanging or
diverging.
"""

from __future__ import annotations

import atexit
import functools
import logging
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from layergroups._interrupts import uninterrupted
from layergroups.errors import TrainingError

Facts = Mapping[str, object]
_Value = TypeVar("_Value")
_MOMENT: Final = 0.1  # seconds
_FAILED: Final = "a failure"
_FIX: Final = (
    "Every process must make the same calls in the same order: freeze, unfreeze, rates, changes of "
    "the model, fit, validate and save belong on all of them, never under `if is_main_process`. "
    "The Learner itself writes and prints on the main process only."
)


class DisagreementError(TrainingError):
    """The processes of a run are not in step, or one has failed; raised on all of them."""


class Processes:
    """The processes of a run; with a single process nothing is exchanged.

    Args:
        rank: this process, 0..world - 1.
        world: number of processes.
        group: for messages between CPUs; None for a single process.
    """

    def __init__(
        self, rank: int = 0, world: int = 1, group: dist.ProcessGroup | None = None
    ) -> None:
        self.rank = rank
        self.world = world
        self.group = group
        self.is_distributed = world > 1
        self.is_main = rank == 0  # writes files and shows rows

    def barrier(
        self, where: str, facts: Facts | None = None, gather: Sequence[int] = ()
    ) -> list[Any]:
        """Wait for all processes; the integers to `gather` from each, by rank.

        `where`, the position in the program, and `facts` must be the same everywhere.
        """
        if not self.is_distributed:
            return [list(gather)]
        facts = {} if facts is None else facts
        own = [_digest(where), _digest(sorted(facts.items())), *gather]
        heard = self._exchange(own, where)
        if any(other[:2] != own[:2] for other in heard):
            self._raise_difference(where, facts)
        return [other[2:] for other in heard]

    def objects(self, what: Any) -> list[Any]:
        """Small objects of all processes, by rank; call it after `barrier`."""
        found: list[Any] = [what] * self.world
        if self.is_distributed:
            dist.all_gather_object(found, what, group=self.group)
        return found

    def rows(self, tensor: Tensor) -> list[Tensor]:
        """The rows of each process, of any number; call it after `barrier`."""
        if not self.is_distributed:
            return [tensor]
        counts = [torch.zeros(1, dtype=torch.long) for _ in range(self.world)]
        dist.all_gather(counts, torch.tensor([len(tensor)]), group=self.group)
        most = max(int(count) for count in counts)
        padded = tensor.new_zeros((most, *tensor.shape[1:]))
        padded[: len(tensor)] = tensor
        found = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(found, padded)
        return [rows[: int(count)] for rows, count in zip(found, counts, strict=True)]

    def in_order(self, tensor: Tensor, positions: Tensor) -> Tensor:
        """The rows of all processes in the order of their positions; call it after `barrier`."""
        if not self.is_distributed:
            return tensor
        places = torch.cat(self.rows(positions.to(tensor.device)))
        return torch.cat(self.rows(tensor))[places.argsort()]

    def total(self, *values: float) -> list[float]:
        """Sums over all processes; call it after `barrier`."""
        if not self.is_distributed:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums, group=self.group)
        return [float(value) for value in sums]

    def from_main(self, where: str, value: _Value) -> _Value:
        """The main process's value of something small that may differ, such as a time."""
        self.barrier(where)
        mine: _Value = self.objects(value)[0]
        return mine

    def any_text(self, where: str, text: str) -> str:
        """The text of the first process that has any; empty if none has."""
        if any(has for (has,) in self.barrier(where, gather=[bool(text)])):
            return str(next(word for word in self.objects(text) if word))
        return ""

    @contextmanager
    def failing_together(self) -> Iterator[None]:
        """If this process fails within the block, make the others fail too."""
        try:
            yield
        except DisagreementError:
            raise
        except BaseException as error:
            if self.is_distributed and not getattr(error, "_told", False):
                error._told = True  # type: ignore[attr-defined]  # an enclosing block knows
                self._tell(f"{type(error).__name__}: {error}")
            raise

    def write(self, what: str, write: Callable[[], Any]) -> None:
        """Write on the main process while the others wait."""
        with self.failing_together():
            self.barrier(f"the start of {what}")
            if self.is_main:
                write()
            self.barrier(f"the end of {what}")

    def _exchange(self, own: list[int], where: str) -> list[list[int]]:
        message = torch.tensor(own, dtype=torch.long)
        with uninterrupted():
            try:
                lengths = [torch.empty(8, dtype=torch.long) for _ in range(self.world)]
                padded = torch.full((8,), len(own), dtype=torch.long)
                padded[1 : 1 + len(own)] = message
                dist.all_gather(lengths, padded, group=self.group)
            except RuntimeError as cause:
                raise DisagreementError(
                    f"Process {self.rank} waited for the others at {where}, but they have ended. "
                    f"{_FIX}"
                ) from cause
        return [heard[1 : 1 + int(heard[0])].tolist() for heard in lengths]

    def _tell(self, failure: str) -> None:
        # Join the next exchange of the others, to say that there will be no more.
        try:
            self._exchange([_digest(_FAILED), _digest(failure)], _FAILED)
            self.objects((_FAILED, {}, failure))
        except (DisagreementError, RuntimeError):
            return  # they have ended already

    def _raise_difference(self, where: str, facts: Facts) -> None:
        own = (where, {name: _listed(value) for name, value in facts.items()}, "")
        try:
            heard = self.objects(own)
        except RuntimeError as cause:
            raise DisagreementError(f"Another process ended at {where}.") from cause
        failures = [
            f"Process {rank} failed: {text}" for rank, (_, _, text) in enumerate(heard) if text
        ]
        if failures:
            raise DisagreementError(
                "\n".join(failures) + f"\nProcess {self.rank} was at {where} then."
            )
        raise DisagreementError(f"The processes are not in step. {_difference(heard)} {_FIX}")


def _difference(heard: Sequence[tuple[str, Mapping[str, list[str]], str]]) -> str:
    where, facts, _ = heard[0]
    for rank, (other_where, other_facts, _) in enumerate(heard):
        found = []
        if other_where != where:
            found.append(f"Process 0 is at {where}, process {rank} at {other_where}.")
        for name, mine in facts.items():
            pairs = zip_longest(mine, other_facts.get(name, mine), fillvalue="nothing")
            different = [(one, other) for one, other in pairs if one != other]
            if different:
                one, other = different[0]
                found.append(f"{name}: {one} on process 0, {other} on process {rank}.")
        if found:
            return " ".join(found)
    return "Their numbers differ."


def _listed(value: object) -> list[str]:
    return list(map(str, value)) if isinstance(value, list | tuple) else [str(value)]


def _digest(what: object) -> int:
    return zlib.crc32(repr(what).encode())


SINGLE_PROCESS: Final = Processes()


def current_processes() -> Processes:
    """The processes of this job, once the accelerator is made; else `SINGLE_PROCESS`."""
    if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return SINGLE_PROCESS
    return _joined(dist.group.WORLD)


@functools.lru_cache(maxsize=1)
def _joined(everybody: dist.ProcessGroup) -> Processes:
    atexit.register(_leave)
    if dist.get_rank() > 0:  # what all say needs to be read once
        logging.getLogger("layergroups").addFilter(lambda record: record.levelno > logging.WARNING)
    backend = dist.get_backend(everybody)
    group = everybody if backend == "gloo" else dist.new_group(backend="gloo")
    assert isinstance(group, dist.ProcessGroup)
    return Processes(dist.get_rank(), dist.get_world_size(), group)


def _leave() -> None:
    # Threads of gloo release the tensors of the last message a moment after it has arrived, and
    # abort the process if the interpreter has ended by then.
    time.sleep(_MOMENT)
    if dist.is_initialized():
        _joined.cache_clear()
        dist.destroy_process_group()
