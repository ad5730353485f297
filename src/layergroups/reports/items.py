"""The items of the validation data as a report shows them: names, classes in words, pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch import Tensor

from layergroups.data.images import open_image_quietly
from layergroups.errors import LayerGroupsError
from layergroups.reports.as_seen import as_pixels, images_at
from layergroups.reports.thumbnails import THUMB, image_of

if TYPE_CHECKING:
    from layergroups.reports.as_seen import Pixels


@dataclass(frozen=True)
class Items:
    """Names and pictures of validation items, by their position.

    Attributes:
        dls: the data that they belong to.
    """

    dls: Any

    @cached_property
    def files(self) -> tuple[str, ...]:
        """The files, in order; empty where the items are none."""
        return tuple(map(str, getattr(self.dls.valid, "paths", None) or ()))

    @cached_property
    def root(self) -> str:
        """The folder that all files lie in; empty if there is none."""
        return common_folder(self.files)

    def name(self, position: int) -> str:
        """The file below the common folder, or a number."""
        if position >= len(self.files):
            return f"item {position}"
        return os.path.relpath(self.files[position], self.root or None)

    def pictures(self, positions: Sequence[int]) -> dict[int, Image.Image]:
        """Small pictures of items; those that cannot be made are left out."""
        if self.files:
            opened = ((position, _opened(self.files[position])) for position in positions)
            return {position: image for position, image in opened if image is not None}
        seen = {position: self.as_seen(x) for position, x in self.inputs(positions).items()}
        return {position: image_of(pixels) for position, pixels in seen.items()}

    def inputs(self, positions: Sequence[int]) -> dict[int, Tensor]:
        """Items as the model takes them, if they are images (C, H, W)."""
        try:
            images = images_at(self.dls.valid, positions) if positions else ()
        except (LayerGroupsError, TypeError, AttributeError):
            return {}  # they cannot be had again, or are no tensors
        shaped = isinstance(images, Tensor) and images.ndim == 4
        return dict(zip(positions, images, strict=True)) if shaped else {}

    def as_seen(self, inputs: Tensor) -> Pixels:
        """An item as the model takes it, as pixels for people."""
        return as_pixels(inputs, getattr(self.dls, "input", None))


def common_folder(files: Iterable[str]) -> str:
    """The folder that all files lie in; empty if there are none, or if they share none."""
    folders = {os.path.dirname(os.path.abspath(file)) for file in files}
    if not folders:
        return ""
    try:
        folder = os.path.commonpath(folders)
    except ValueError:  # different drives
        return ""
    return os.path.dirname(folder) if len(folders) == 1 else folder


def data_name(folder: str) -> str:
    """What data of a folder are called."""
    path = Path(folder)
    own = path.name.lower() not in ("train", "valid", "val", "test", "photos", "images", "data")
    return path.name if own or not path.parent.name else f"{path.parent.name}/{path.name}"


def _opened(file: str) -> Image.Image | None:
    try:
        return open_image_quietly(file, min_size=THUMB)
    except Exception:  # it changed since it was checked; the record goes on without its picture
        return None
