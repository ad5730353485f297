"""Cache of decoded images in the user's cache folder, one file per image.

A file is written under a temporary name and renamed, so several processes may read and write at
once, and a killed process leaves no incomplete entry.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from layergroups._formatting import memory
from layergroups._paths import cache_folder
from layergroups.data.image._opening import Array, Picture, open_picture

_LOG = logging.getLogger("layergroups")
LIMIT: Final = 10 << 30
_SHARE_OF_FREE: Final = 0.25
_HEAD: Final = 128  # bytes of a .npy file before its numbers
_LEAST_WRITES: Final = 256  # files between two checks of the folder's size, which reads all of it
_STALE: Final = 3600  # seconds after which the file of a writer counts as left behind


class DecodedCache:
    """Opens images, from the file the first time, afterwards from their stored pixels.

    Images that exceed the limit, or a quarter of what the disk had free, are decoded each time; a
    new cache deletes the oldest entries if the folder exceeds the limit.
    """

    def __init__(self, folder: str | os.PathLike[str] | None = None, limit: int = LIMIT) -> None:
        self.folder = Path(folder) if folder is not None else cache_folder() / "photos"
        self.limit = limit
        self._capacity: int | None = None  # bytes, as of the last check and less what was written
        self._entries = 0  # at the last check
        self._since = 0, 0  # files and bytes since the last check

    def announce(self) -> None:
        """Log, before the folder is created, what will be written where, and how to turn it off."""
        if self.folder.exists():
            return
        there = next(parent for parent in self.folder.absolute().parents if parent.exists())
        limit = min(self.limit, int(shutil.disk_usage(there).free * _SHARE_OF_FREE))
        _LOG.warning(
            "Decoded images are stored in %s, at most %s, so that the next epoch and the next run "
            "read them faster; cache=False turns this off.", self.folder, memory(limit),
        )  # fmt: skip

    def open(
        self, file: str | os.PathLike[str], *, min_size: int | None, channels: int = 3
    ) -> Picture:
        """As `open_picture`; the result is the same whether it comes from the cache or not."""
        if min_size is None:  # the whole image, which may be large
            return open_picture(file, channels=channels)
        entry = self._entry(file, min_size, channels)
        stored = _load(entry)
        if stored is not None:
            return stored
        image = open_picture(file, min_size=min_size, channels=channels)
        self._store(entry, image)
        return image

    def _entry(self, file: str | os.PathLike[str], min_size: int, channels: int) -> Path:
        path = os.path.abspath(file)
        found = os.stat(path)
        key = f"{path}\n{found.st_size}\n{found.st_mtime_ns}\n{min_size}"
        key += "" if channels == 3 else f"\n{channels} channels"
        name = hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=16).hexdigest()
        return self.folder / name[:2] / name[2:]

    def _store(self, entry: Path, image: Picture) -> None:
        """Write an entry within the limit; a read-only or full disk is not an error."""
        pixels = np.asarray(image)
        size = pixels.nbytes + _HEAD
        try:
            if self._capacity is None or self._check_is_due(self._capacity):
                self._capacity = self._free_capacity(delete=self._capacity is None)
            files, written = self._since
            fits = size <= self._capacity
            self._since = files + 1, written + size * fits
            if fits:
                self._capacity -= size
                _write(entry, pixels)
        except OSError:
            self._capacity = 0

    def _check_is_due(self, capacity: int) -> bool:
        """Whether to read the folder's size again, as other processes write to it too.

        A check reads every entry, so that filling a folder would cost the square of its size if
        checks did not become rarer as it grows.
        """
        files, written = self._since
        return files >= _LEAST_WRITES and (files >= self._entries or written > capacity / 4)

    def _free_capacity(self, *, delete: bool) -> int:
        """Bytes that may still be written; may delete the oldest entries if there are too many."""
        self.folder.mkdir(parents=True, exist_ok=True)
        entries = sorted(_entries(self.folder))
        self._entries, self._since = len(entries), (0, 0)
        taken = sum(size for _, size, _ in entries)
        limit = min(self.limit, taken + int(shutil.disk_usage(self.folder).free * _SHARE_OF_FREE))
        for _, size, path in entries if delete and taken > limit else ():
            path.unlink(missing_ok=True)
            taken -= size
            if taken <= limit * 0.8:
                break
        return limit - taken


def _load(entry: Path) -> Picture | None:
    """The image of an entry; None if it is absent or incomplete."""
    try:
        pixels = np.load(entry)
    except (OSError, ValueError, EOFError):
        return None
    return (
        Image.fromarray(pixels)
        if pixels.dtype == np.uint8 and pixels.shape[2:] in ((), (3,))
        else pixels
    )


def _write(entry: Path, pixels: Array) -> None:
    entry.parent.mkdir(exist_ok=True)
    handle, name = tempfile.mkstemp(dir=entry.parent, suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            np.save(file, pixels)
        os.replace(name, entry)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _entries(folder: Path) -> list[tuple[float, int, Path]]:
    """Time, size and path of every entry; files of killed writers are deleted."""
    found = []
    for path in folder.glob("??/*"):
        try:
            status = path.stat()
        except OSError:
            continue
        if path.suffix == ".part":
            if time.time() - status.st_mtime > _STALE:
                path.unlink(missing_ok=True)
            continue
        found.append((status.st_mtime, status.st_size, path))
    return found
