"""Reuse of freed memory between batches on the CPU.

glibc maps blocks above 32 MB from the system and returns them when freed; the system clears their
pages each time, which took a third of a training step.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

_TRIM, _MAP_FROM = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of <malloc.h>
_NEVER: Final = -1
_HELD: Final = 1 << 30  # bytes; larger blocks are still mapped
# what glibc adjusts itself to once large blocks have been freed
_USUAL_TRIM: Final = 64 << 20
_USUAL_MAP: Final = 32 << 20
_OWN_SETTINGS: Final = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
_LOCK = threading.Lock()
_inside = 0


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory for the next batch, and return it to the system at the end.

    It affects the whole process, may be nested, and does nothing if the allocator is not glibc's or
    the environment has settings for it. The peak of memory grows by up to a fifth. See mallopt(3).
    """
    global _inside
    library = _glibc()
    if library is None:
        yield
        return
    with _LOCK:
        _inside += 1
        if _inside == 1:
            library.mallopt(_MAP_FROM, _HELD)
            library.mallopt(_TRIM, _NEVER)
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if not _inside:
                library.mallopt(_MAP_FROM, _USUAL_MAP)
                library.mallopt(_TRIM, _USUAL_TRIM)
                library.malloc_trim(0)


@cache
def _glibc() -> Any:
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _OWN_SETTINGS):
        return None
    library = ctypes.CDLL(None)
    known = all(hasattr(library, name) for name in ("gnu_get_libc_version", "malloc_trim"))
    return library if known else None
