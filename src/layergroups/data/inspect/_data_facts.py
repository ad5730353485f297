"""What reports show of images: counts, folder, sizes, what was left out, as text."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from layergroups._formatting import first_few
from layergroups.data._samples import Samples
from layergroups.data._source import DataFacts
from layergroups.data.image import BrokenImage
from layergroups.data.inspect._data_summary import DataSummary

_PARTS = ("train", "training", "valid", "validation", "val", "test", "photos", "images", "data")
_KINDS: Final = 5  # of files that are listed


def image_facts(
    train: Samples,
    valid: Samples,
    vocab: Sequence[str],
    augment: Any,
    broken: Sequence[BrokenImage],
    general: Mapping[str, str],
    summary: DataSummary | None,
) -> DataFacts:
    """The facts of `ImageDataLoaders`, whose fields the first arguments are."""
    folder = common_folder((*train.files, *valid.files))
    counts = zip(vocab, train.counts(len(vocab)), valid.counts(len(vocab)), strict=True)
    found = {"folder": folder} if folder else {}
    found |= general
    found["augmentation"] = "none" if augment is None else _augmentation(augment)
    if summary is not None:
        found |= _of_files(summary)
        broken = summary.broken
    return DataFacts(
        name=data_name(folder) if folder else "",
        train=len(train),
        valid=len(valid),
        counts=tuple(counts) if train.task.has_counts else (),
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
        found["image sizes"] = (
            f"{w.min:.0f} × {h.min:.0f} to {w.max:.0f} × {h.max:.0f} pixels, "
            f"median {w.median:.0f} × {h.median:.0f} (width × height)"
        )
    found["file types"] = first_few((f"{n:,} {kind}" for kind, n in summary.kinds), _KINDS)
    found["smaller than the network's input"] = f"{summary.upscaled:,}" if summary.upscaled else ""
    both = sum(copies.both_parts for copies in summary.duplicates)
    if summary.duplicates:
        found["duplicate files"] = f"{len(summary.duplicates):,}"
    if both:
        found["in training and validation"] = f"{both:,} files: results look better than they are"
    return {name: value for name, value in found.items() if value}


def _augmentation(augment: Any) -> str:
    if not is_dataclass(augment):
        return str(augment)
    values = ((each.name, getattr(augment, each.name)) for each in fields(augment))
    return ", ".join(f"{name} {_value(value)}" for name, value in values if value)


def _value(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 2:
        return " to ".join(map(_value, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)
