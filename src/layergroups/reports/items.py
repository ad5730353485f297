"""The items of a validation as a report shows them: their names and their pictures."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from layergroups.data.images import open_image, quiet
from layergroups.errors import LayerGroupsError
from layergroups.reports.interpretation import Interpretation
from layergroups.reports.thumbnails import THUMB, image_of

if TYPE_CHECKING:
    from layergroups.reports.as_seen import Pixels

_PARTS = ("train", "training", "valid", "validation", "val", "test", "photos", "images", "data")


@dataclass(frozen=True)
class Items:
    """Names and pictures of items, by their position.

    Attributes:
        interp: what was said of them.
        root: the folder that all their files lie in; empty if there is none.
    """

    interp: Interpretation
    root: str

    @classmethod
    def of(cls, interp: Interpretation) -> Items:
        """The items of an interpretation."""
        return cls(interp, common_folder(str(path) for path in interp.paths if path is not None))

    def name(self, position: int) -> str:
        """The file below the common folder, or a number."""
        path = self.interp.paths[position]
        if path is None:
            return f"item {position}"
        below = self.root and path.parent != Path()
        return os.path.relpath(path, self.root) if below else str(path)

    def pictures(self, positions: Sequence[int]) -> dict[int, Image.Image]:
        """Small pictures of items; those that cannot be made are left out."""
        files = {position: self.interp.paths[position] for position in positions}
        opened = {p: _opened(path) for p, path in files.items() if path is not None}
        found = {p: image for p, image in opened.items() if image is not None}
        others = [position for position in positions if position not in found]
        return found | {p: image_of(pixels) for p, pixels in self.as_seen(others).items()}

    def as_seen(self, positions: Sequence[int]) -> dict[int, Pixels]:
        """Items as the model has seen them, as pixels for people; none if they are no images."""
        try:
            found = self.interp.images(positions) if positions else []
        except (LayerGroupsError, TypeError, ValueError, AttributeError):
            return {}  # they cannot be had again, or are no images
        return dict(zip(positions, found, strict=True))


def common_folder(files: Iterable[str]) -> str:
    """The folder that all files lie in; empty if there are none, or if they share none."""
    folders = {os.path.dirname(os.path.abspath(file)) for file in files if os.path.dirname(file)}
    if not folders:
        return ""
    try:
        return os.path.commonpath(folders)
    except ValueError:  # different drives
        return ""


def data_name(folder: str) -> str:
    """What the data of a folder are called."""
    path = Path(folder)
    own = path.name.lower() not in _PARTS or not path.parent.name
    return path.name if own else f"{path.parent.name}/{path.name}"


def _opened(file: Path) -> Image.Image | None:
    try:
        with quiet():
            image: Image.Image = open_image(file, min_size=THUMB)
            return image
    except Exception:  # no file, or no image that Pillow reads: it is shown as the model sees it
        return None
