"""What reports show of images: counts, folder, sizes, what was left out, as text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from layergroups.data._source import DataFacts

if TYPE_CHECKING:
    from layergroups.data._image_loaders import ImageDataLoaders
    from layergroups.data.inspect._data_summary import DataSummary

_PARTS = ("train", "training", "valid", "validation", "val", "test", "photos", "images", "data")

_KINDS: Final = 5  # of files that are listed


def image_facts(
    dls: ImageDataLoaders, general: Mapping[str, str], summary: DataSummary | None
) -> DataFacts:
    """The facts of `ImageDataLoaders`.

    Args:
        dls: the images.
        general: what holds for any data, which comes first.
        summary: what the files are like, if they were read.
    """
    train, valid = dls.train_photos, dls.valid_photos
    folder = common_folder((*train.files, *valid.files))
    counts = zip(dls.vocab, train.counts(dls.c), valid.counts(dls.c), strict=True)
    how = "as they are" if dls.augment is None else _augmentation(dls.augment)
    found = {"folder": folder} if folder else {}
    found |= {**general, "training images": how, **({} if summary is None else _of_files(summary))}
    broken = dls.broken if summary is None else summary.broken
    return DataFacts(
        name=data_name(folder) if folder else "",
        train=len(train),
        valid=len(valid),
        counts=tuple(counts) if dls.task.has_counts else (),
        facts=found,
        broken=tuple((str(image.path), image.reason) for image in broken),
    )


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
    """A short name for the data of a folder."""
    path = Path(folder)
    own = path.name.lower() not in _PARTS or not path.parent.name
    return path.name if own else f"{path.parent.name}/{path.name}"


def _of_files(summary: DataSummary) -> dict[str, str]:
    found = {}
    if summary.width is not None and summary.height is not None:
        w, h = summary.width, summary.height
        found["sizes of the files"] = (
            f"{w.min:.0f} × {h.min:.0f} to {w.max:.0f} × {h.max:.0f} pixels, "
            f"median {w.median:.0f} × {h.median:.0f} (width × height)"
        )
    found["kinds"] = ", ".join(f"{n:,} {kind}" for kind, n in summary.kinds[:_KINDS])
    found["smaller than the network's images"] = f"{summary.small:,}" if summary.small else ""
    both = sum(twins.both_parts for twins in summary.twins)
    if summary.twins:
        found["the same file twice or more"] = f"{len(summary.twins):,} times"
    if both:
        found["the same file in both parts"] = f"{both:,} times, which measures too well"
    return {name: value for name, value in found.items() if value}


def _augmentation(augment: Any) -> str:
    """The names and values of what is on."""
    if not is_dataclass(augment):
        return str(augment)
    values = ((each.name, getattr(augment, each.name)) for each in fields(augment))
    return ", ".join(f"{name} {_value(value)}" for name, value in values if value)


def _value(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 2:
        return " to ".join(map(_value, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
