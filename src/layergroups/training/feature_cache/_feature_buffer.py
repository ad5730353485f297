"""Storage for cached values: rows of tensors in memory, or in a memory-mapped file."""

from __future__ import annotations

import errno
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from layergroups._checks import whole_number
from layergroups._formatting import memory
from layergroups._paths import path_of
from layergroups.errors import TrainingError
from layergroups.training.feature_cache._feature_cut import NoCutError, TensorSpec

_MOST_OF_FREE: Final = 0.9  # of a disk; others write to it too
_ZEROS: Final = bytes(1 << 20)


@dataclass(frozen=True, kw_only=True)
class FeatureCacheConfig:
    """How outputs of frozen layers are cached, so that these run once and not in every epoch.

    Attributes:
        views: augmented views of each training item; each epoch draws one of them for each item.
            Data without augmentation have one. Views from the first phase of `fine_tune` (see
            `FineTuneDefaults.views`) count too, and are never dropped.
        memory: maximum bytes in memory for one learner. With several processes each one caches
            everything, within its own limits.
        disk: maximum bytes in memory-mapped files, used if memory is not enough; 0 for no files.
            The space is reserved before it is used.
        folder: of these files; None is the system's folder for temporary files.
        half: store floats as bfloat16, in half the space; the head then gets rounded inputs.
    """

    views: int = 2
    memory: int = 1 << 30
    disk: int = 8 << 30
    folder: str | Path | None = None
    half: bool = False

    def __post_init__(self) -> None:
        whole_number("views", self.views, 1, 2)
        whole_number("memory", self.memory, 0, 1 << 30)
        whole_number("disk", self.disk, 0, 8 << 30)
        if self.folder is not None:
            right = 'FeatureCacheConfig(folder="cache")'
            object.__setattr__(self, "folder", path_of(self.folder, TrainingError, right))
        if not isinstance(self.half, bool):
            raise TrainingError(f"half={self.half!r} must be True or False.")

    def left_by(self, buffers: Iterable[FeatureBuffer]) -> FeatureCacheConfig:
        """The same config with the limits that these buffers leave."""
        taken = [0, 0]
        for buffer in buffers:
            taken[buffer.mapped] += buffer.bytes
        memory, disk = max(0, self.memory - taken[False]), max(0, self.disk - taken[True])
        return replace(self, memory=memory, disk=disk)


def checked_cache_config(config: FeatureCacheConfig | None) -> FeatureCacheConfig:
    if config is not None and not isinstance(config, FeatureCacheConfig):
        raise TrainingError(
            f"feature_cache={config!r} of a learner must be a FeatureCacheConfig, such as "
            "FeatureCacheConfig(views=4). To train without a cache: fit(..., feature_cache=False)."
        )
    return config or FeatureCacheConfig()


class NoSpaceError(TrainingError):
    """The values need more space than is available or allowed."""


class FeatureBuffer:
    """Space for the values of each item in each view; `NoSpaceError` if they exceed all limits."""

    def __init__(
        self, items: int, views: int, specs: Sequence[TensorSpec], config: FeatureCacheConfig
    ) -> None:
        self.items, self.views, self._specs = items, views, tuple(specs)
        shapes = [(views * items, *_stored_shape(spec)) for spec in specs]
        dtypes = [
            torch.bfloat16 if config.half and spec.dtype.is_floating_point else spec.dtype
            for spec in specs
        ]
        sizes = (math.prod(s) * d.itemsize for s, d in zip(shapes, dtypes, strict=True))
        self.bytes = sum(sizes)
        self.mapped = self.bytes > config.memory
        if self.mapped and self.bytes > config.disk:
            raise NoSpaceError(
                f"its outputs need {memory(self.bytes)}, more than the "
                f"{memory(config.memory)} of memory and {memory(config.disk)} of disk "
                "that FeatureCacheConfig(memory=..., disk=...) allows"
            )
        folder = Path(config.folder or tempfile.gettempdir())
        self._values = [
            _in_file(shape, dtype, folder) if self.mapped else torch.empty(shape, dtype=dtype)
            for shape, dtype in zip(shapes, dtypes, strict=True)
        ]
        self.targets = torch.empty(0)  # of all items (items, ...)
        self.is_filled = False

    def write(
        self, view: int, positions: Sequence[int], values: Sequence[Tensor], targets: Tensor
    ) -> None:
        """Store the values (N, ...) and targets (N, ...) of the items at these positions."""
        index = torch.tensor(positions, dtype=torch.long)
        for stored, spec, value in zip(self._values, self._specs, values, strict=True):
            plain = value.permute(0, 2, 3, 1) if spec.channels_last else value
            if plain.shape[1:] != stored.shape[1:]:  # such as tokens of texts
                raise NoCutError("its outputs have other sizes in other batches")
            stored[view * self.items + index] = plain.to(stored.device, stored.dtype)
        if not self.is_filled:
            self.targets = torch.zeros(self.items, *targets.shape[1:], dtype=targets.dtype)
            self.is_filled = True
        self.targets[index] = targets.cpu()

    def read(self, views: Tensor, positions: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Values and targets of the items at these positions (N,), each in one view (N,)."""
        rows = views * self.items + positions
        values = []
        for stored, spec in zip(self._values, self._specs, strict=True):
            value = stored[rows].to(spec.dtype)
            values.append(value.permute(0, 3, 1, 2) if spec.channels_last else value)
        return tuple(values), self.targets[positions]


def _stored_shape(spec: TensorSpec) -> tuple[int, ...]:
    # Of one item. channels_last maps are stored as (H, W, C), so that rows are contiguous.
    return (*spec.shape[1:], spec.shape[0]) if spec.channels_last else spec.shape


def _in_file(shape: tuple[int, ...], dtype: torch.dtype, folder: Path) -> Tensor:
    """An empty tensor in a file that is deleted when the tensor is freed."""
    count = math.prod(shape)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix="layergroups-", dir=folder) as file:
            _reserve(file.fileno(), folder, count * dtype.itemsize)
            flat: Any = torch.from_file(file.name, shared=True, size=count, dtype=dtype)
    except OSError as cause:
        raise NoSpaceError(f"there is no space for its outputs in {folder}: {cause}") from cause
    mapped: Tensor = flat.view(shape)
    return mapped


def _reserve(handle: int, folder: Path, size: int) -> None:
    # A file that is only truncated to its size has no blocks yet. On a full disk the first write
    # to the mapped memory then ends in SIGBUS, which kills the interpreter without an exception.
    free = shutil.disk_usage(folder).free
    if size > _MOST_OF_FREE * free:
        raise OSError(errno.ENOSPC, f"{size / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free")
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(handle, 0, size)
        return
    for start in range(0, size, len(_ZEROS)):  # macOS and Windows: written blocks are there
        os.write(handle, _ZEROS[: size - start])
