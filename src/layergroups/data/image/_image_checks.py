"""Which image files are broken, and why: one pass over all of them, before they are used."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from PIL import Image, UnidentifiedImageError

from layergroups._formatting import count, first_few
from layergroups.data.image._opening import open_picture, quiet
from layergroups.errors import BrokenImagesError, DataError
from layergroups.tasks import readable

OnError = Literal["raise", "skip"]
Key = TypeVar("Key", bound=Hashable)
_LOG = logging.getLogger("layergroups")
_CHUNK = 16  # files that one thread takes at a time
_PROGRESS_FROM = 3000  # files from which a check shows its progress on a terminal
_LISTED = 20  # broken images that an error lists
_MENTIONED = 10  # broken images that a one-line message names


@dataclass(frozen=True)
class BrokenImage:
    """A file that cannot be read as an image, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return readable(f"{self.path}: {self.reason}")


def available_cores() -> int:
    """Cores of the processor that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def reading_threads() -> int:
    """Threads to read many files with: one for each core, at most 8."""
    return min(8, available_cores())


def check_images(
    paths: Sequence[str | os.PathLike[str]], *, threads: int | None = None, channels: int = 3
) -> tuple[BrokenImage, ...]:
    """Find the files that cannot be read as images, by decoding each of them once.

    JPEGs are decoded at 1/8 of their size, which reads every byte and costs about 0.2 ms for an
    image of 256 pixels. On a terminal, long checks show their progress.

    Args:
        paths: the files to check.
        threads: how many threads work; by default one for each core, at most 8.
        channels: how many channels the images must have; 3 and 1 can be made of most images.

    Returns:
        The broken ones, in the order of `paths`.
    """
    chunks = [paths[i : i + _CHUNK] for i in range(0, len(paths), _CHUNK)]
    workers = threads or reading_threads()
    broken: list[BrokenImage] = []
    check = partial(_check_chunk, channels=channels)
    with quiet(), progress(len(paths)) as advance, ThreadPoolExecutor(workers) as pool:
        for chunk, found in zip(chunks, pool.map(check, chunks), strict=True):
            broken += found
            advance(len(chunk))
    return tuple(broken)


def drop_broken(
    groups: Mapping[Key, Sequence[str]], on_error: OnError, channels: int = 3
) -> tuple[dict[Key, tuple[str, ...]], tuple[BrokenImage, ...]]:
    """Check files, grouped by any key; the same groups without broken ones, and what is broken."""
    check_on_error(on_error)
    broken = check_images([f for files in groups.values() for f in files], channels=channels)
    report_broken(broken, on_error)
    bad = {image.path for image in broken}
    sound = {
        key: tuple(f for f in files if not bad or Path(f) not in bad)
        for key, files in groups.items()
    }
    return sound, broken


def check_on_error(on_error: OnError) -> OnError:
    if on_error not in ("raise", "skip"):
        raise DataError(f'on_error={on_error!r} is not known; give "raise" or "skip".')
    return on_error


def report_broken(broken: Sequence[BrokenImage], on_error: OnError, *, masks: bool = False) -> None:
    """Stop at images or masks that cannot be used, or say in one line that they are left out."""
    if broken and on_error == "raise":
        raise broken_images_error(broken, masks=masks)
    if broken:
        listed = first_few(broken, _MENTIONED, "; ")
        what = "mask" if masks else "image"
        _LOG.warning("Left out %s: %s.", count(len(broken), what), listed)


def broken_images_error(broken: Sequence[BrokenImage], *, masks: bool = False) -> BrokenImagesError:
    """The error that lists broken images or masks, with what can be done."""
    lines = [f"  {image}" for image in broken[:_LISTED]]
    if len(broken) > _LISTED:
        more = "." if masks else "; check_images(paths) lists all."
        lines.append(f"  and {len(broken) - _LISTED} more{more}")
    them = "it" if len(broken) == 1 else "them"
    n = count(len(broken), "mask" if masks else "image")
    return BrokenImagesError(
        f"{n} cannot be {'used' if masks else 'read'}:\n" + "\n".join(lines) + "\n"
        f'Repair or remove {them}, or leave {them} out with on_error="skip".'
    )


def reason_of(error: BaseException, path: str | os.PathLike[str]) -> str:
    """What an error met while reading an image means, in words."""
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"over Pillow's limit of {Image.MAX_IMAGE_PIXELS} pixels ({error})"
    if isinstance(error, UnidentifiedImageError):
        return (
            "empty, 0 bytes" if not os.path.getsize(path) else "not an image that Pillow can read"
        )
    if isinstance(error, FileNotFoundError):
        hint = "; its path has backslashes, write /" if "\\" in str(path) and os.sep == "/" else ""
        return f"the file does not exist{hint}"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file"
    return str(error) or type(error).__name__


def _check_chunk(paths: Sequence[str | os.PathLike[str]], channels: int) -> list[BrokenImage]:
    checked = ((path, _fault(path, channels)) for path in paths)
    return [BrokenImage(Path(path), fault) for path, fault in checked if fault is not None]


def _fault(path: str | os.PathLike[str], channels: int) -> str | None:
    try:
        open_picture(path, min_size=1, channels=channels)
    except Exception as error:
        # Pillow's readers raise whatever their parsing meets; each of it means a broken file,
        # and none of it is lost: it becomes the reason.
        return reason_of(error, path)
    return None


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yields a function that takes how many more files are done."""
    if total < _PROGRESS_FROM:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("Checking images", total=total)
        yield lambda n: bar.advance(task, n)
