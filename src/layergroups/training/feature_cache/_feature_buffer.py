"""Rows of tensors for every item of a data set in several views: in memory, or in a mapped file."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from layergroups._formatting import memory
from layergroups.errors import TrainingError

_MOST_OF_FREE: Final = 0.9  # of a disk; others write to it too

_ZEROS: Final = bytes(1 << 20)


@dataclass(frozen=True, kw_only=True)
class FeatureCacheConfig:
    """How outputs of a frozen body are kept, so that it runs once and not in every epoch.

    Attributes:
        views: augmented views of each training item to keep; each epoch draws one of them for each
            item. Data that are not varied have one. Views that the first phase of `fine_tune` has
            kept for the second (see `FineTuneDefaults.views`) count, and all stay.
        memory: the most bytes to keep in memory, for all that one learner keeps. With several
            processes each keeps all, and has these bounds for itself.
        disk: the most bytes to keep in memory-mapped files, where memory does not suffice; 0 for
            never.
        folder: where that file is made; None is the system's folder for temporary files.
        half: keep floats as bfloat16, in half the space; the head then sees them rounded.
    """

    views: int = 2
    memory: int = 1 << 30
    disk: int = 8 << 30
    folder: Path | None = None
    half: bool = False

    def __post_init__(self) -> None:
        if self.views < 1 or self.memory < 0 or self.disk < 0:
            raise TrainingError(
                f"views={self.views}, memory={self.memory}, disk={self.disk}: expected at least "
                "one view, and bytes of 0 or more."
            )

    def left_by(self, shelves: Iterable[FeatureBuffer]) -> FeatureCacheConfig:
        """The same with the room that these leave."""
        kept = list(shelves)
        memory = self.memory - sum(shelf.bytes for shelf in kept if not shelf.mapped)
        disk = self.disk - sum(shelf.bytes for shelf in kept if shelf.mapped)
        return replace(self, memory=max(0, memory), disk=max(0, disk))


class TooLargeError(TrainingError):
    """The values would need more room than is allowed."""


class FeatureBuffer:
    """A place for the values of each item in each view.

    Args:
        items: in the data set.
        views: of each item.
        examples: for each tensor to keep one batch of it, (N, ...), for shapes and types.
        options: bounds and number format.

    Raises:
        TooLargeError: neither memory nor disk may take that much.
    """

    def __init__(
        self, items: int, views: int, examples: Sequence[Tensor], options: FeatureCacheConfig
    ) -> None:
        self.items, self.views = items, views
        self._dtypes = [example.dtype for example in examples]
        self._last = [is_channels_last(example) for example in examples]
        shapes = [_row(e, last) for e, last in zip(examples, self._last, strict=True)]
        kept = [_kept_dtype(example.dtype, options.half) for example in examples]
        sizes = [
            torch.Size(shape).numel() * dtype.itemsize * items * views
            for shape, dtype in zip(shapes, kept, strict=True)
        ]
        self.bytes = sum(sizes)
        self.mapped = self.bytes > options.memory
        if self.mapped and self.bytes > options.disk:
            raise TooLargeError(
                f"its outputs need {memory(self.bytes)}, more than the "
                f"{memory(options.memory)} of memory and {memory(options.disk)} of disk "
                "that StoreOptions(memory=..., disk=...) allows"
            )
        self._rows = [
            _empty((views * items, *shape), dtype, options if self.mapped else None)
            for shape, dtype in zip(shapes, kept, strict=True)
        ]
        self._targets: Tensor | None = None

    def put(self, view: int, positions: Sequence[int], values: Sequence[Tensor], y: Tensor) -> None:
        """Keep the values (N, ...) and targets (N, ...) of the items at these positions."""
        index = torch.tensor(positions, dtype=torch.long)
        rows = index + view * self.items
        for room, last, value in zip(self._rows, self._last, values, strict=True):
            plain = value.permute(0, 2, 3, 1) if last else value
            room[rows] = plain.to(room.device, room.dtype)
        if self._targets is None:
            self._targets = torch.zeros(self.items, *y.shape[1:], dtype=y.dtype)
        self._targets[index] = y.cpu()

    def get(self, views: Tensor, positions: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Values and targets of the items at these positions (N,), each in one view (N,)."""
        assert self._targets is not None
        rows = views * self.items + positions
        values = tuple(
            (room[rows].permute(0, 3, 1, 2) if last else room[rows]).to(dtype)
            for room, last, dtype in zip(self._rows, self._last, self._dtypes, strict=True)
        )
        return values, self._targets[positions]

    @property
    def targets(self) -> Tensor:
        """The targets of all items (items, ...)."""
        assert self._targets is not None
        return self._targets


def _empty(shape: tuple[int, ...], dtype: torch.dtype, mapped: FeatureCacheConfig | None) -> Tensor:
    """An empty tensor, in memory, or in a file that vanishes when nobody uses it any more.

    Raises:
        TooLargeError: the file system has no room for the file.
    """
    if mapped is None:
        return torch.empty(shape, dtype=dtype)
    count = torch.Size(shape).numel()
    try:
        if mapped.folder is not None:
            mapped.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix="layergroups-", dir=mapped.folder) as file:
            _reserve(file.fileno(), file.name, count * dtype.itemsize)
            flat: Any = torch.from_file(file.name, shared=True, size=count, dtype=dtype)
    except OSError as cause:
        raise TooLargeError(
            f"there is no room for its outputs in {mapped.folder or tempfile.gettempdir()}: {cause}"
        ) from cause
    room: Tensor = flat.view(shape)
    return room


def _reserve(handle: int, name: str, size: int) -> None:
    """Give the file its blocks on the disk now.

    Raises:
        OSError: there are too few, or the file may not become so large.
    """
    # A file that is only truncated to its size has no blocks yet. On a full disk the first write
    # to the mapped memory then ends in SIGBUS, which kills the interpreter without an exception.
    free = shutil.disk_usage(Path(name).parent).free
    if size > _MOST_OF_FREE * free:
        raise OSError(errno.ENOSPC, f"{size / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
        return
    for start in range(0, size, len(_ZEROS)):  # macOS and Windows: written blocks are there
        os.write(handle, _ZEROS[: size - start])


def is_channels_last(example: Tensor) -> bool:
    """Whether maps (N, C, H, W) come with the channels innermost, as they are then given back."""
    return (
        example.ndim == 4
        and example.is_contiguous(memory_format=torch.channels_last)
        and not example.is_contiguous()
    )


def _row(example: Tensor, last: bool) -> tuple[int, ...]:
    shape = example.permute(0, 2, 3, 1).shape if last else example.shape
    return tuple(shape[1:])


def _kept_dtype(dtype: torch.dtype, half: bool) -> torch.dtype:
    return torch.bfloat16 if half and dtype.is_floating_point else dtype
