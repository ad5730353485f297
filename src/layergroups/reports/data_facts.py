"""What the data of a run tell of themselves, in figures and words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, Final

from layergroups.errors import LayerGroupsError
from layergroups.reports.items import common_folder, data_name
from layergroups.reports.run_facts import DataFacts

_KINDS: Final = 5


def data_facts_of(dls: Any, *, looked_into: bool = True) -> DataFacts:
    """What data tell of themselves.

    Args:
        dls: of a learner.
        looked_into: ask them for their `summary()`, which reads the head of every file.
    """
    train, valid = (getattr(dls, f"{part}_photos", None) for part in ("train", "valid"))
    names = tuple(str(name) for name in getattr(dls, "vocab", None) or ())
    folder = common_folder((*getattr(train, "files", ()), *getattr(valid, "files", ())))
    summary = _summary(dls) if looked_into else None
    return DataFacts(
        name=data_name(folder) if folder else "",
        train=_count(dls, "train"),
        valid=_count(dls, "valid"),
        counts=() if getattr(dls, "task", "") == "regression" else _counts(names, train, valid),
        facts=_facts(dls, folder) | ({} if summary is None else _found(summary)),
        broken=_broken(dls if summary is None else summary),
    )


def _summary(dls: Any) -> Any:
    """What they find when they look into every file; None if they cannot."""
    ask: Callable[[], Any] | None = getattr(dls, "summary", None)
    return None if ask is None else ask()


def _found(summary: Any) -> dict[str, str]:
    """What the files are like, in words."""
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


def _count(dls: Any, part: str) -> int | None:
    """Items in a part of the data; None if it does not tell."""
    try:
        batches = getattr(dls, part)
        photos = getattr(batches, "photos", None)
        return len(photos if photos is not None else batches.dataset)
    except (LayerGroupsError, AttributeError, TypeError):
        return None


def _counts(names: Sequence[str], train: Any, valid: Any) -> tuple[tuple[str, int, int], ...]:
    try:
        parts = [photos.counts(len(names)) for photos in (train, valid)]
    except AttributeError:
        return ()
    return tuple(zip(names, *parts, strict=True))


def _facts(dls: Any, folder: str) -> dict[str, str]:
    """Sizes and what is done to the images."""
    size, spec = getattr(dls, "size", None), getattr(dls, "input", None)
    augment = getattr(dls, "augment", "")
    found = {
        "folder": folder,
        "images": "" if size is None else f"{size[0]} × {size[1]} pixels (height × width)",
        "batch size": str(getattr(dls, "batch_size", "")),
        "training images": "as they are" if augment is None else _varied(augment),
        "statistics": "" if spec is None else f"mean {_few(spec.mean)}, std {_few(spec.std)}",
        "interpolation": str(getattr(spec, "interpolation", "")),
    }
    return {name: value for name, value in found.items() if value}


def _varied(augment: Any) -> str:
    """How training images are varied: the names and values of what is on."""
    if not is_dataclass(augment):
        return str(augment)
    values = ((each.name, getattr(augment, each.name)) for each in fields(augment))
    return ", ".join(f"{name} {_said(value)}" for name, value in values if value)


def _said(value: Any) -> str:
    if isinstance(value, tuple) and len(value) == 2:
        return " to ".join(map(_said, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _few(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


def _broken(dls: Any) -> tuple[tuple[str, str], ...]:
    """Files that were left out, with the reason."""
    found: Any = getattr(dls, "broken", ())
    if isinstance(found, Mapping):
        return tuple((str(path), str(reason)) for path, reason in found.items())
    return tuple((str(image.path), str(image.reason)) for image in found or ())
