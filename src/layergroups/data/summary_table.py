"""A `DataSummary` as tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from layergroups.data.summary import DataSummary, Spread, Target

_TARGETS = 30  # classes, labels or numbers that the table shows
_LISTED = 10  # broken images and twins
_NAMES = {"single": "class", "multi": "label", "regression": "number"}


def summary_table(found: DataSummary) -> RenderableType:
    """Classes, facts, and what is wrong, one below the other."""
    head = Text(f"{found.train} training and {found.valid} validation photos", style="bold")
    return Group(head, Text(), _targets(found), Text(), _facts(found), *_faults(found))


def _targets(found: DataSummary) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(_NAMES[found.task])
    numbers = found.task == "regression"
    for heading in ("min", "median", "mean", "max") if numbers else ("train", "valid", ""):
        table.add_column(heading, justify="right" if heading else "left")
    most = max((target.train for target in found.targets), default=0) or 1
    for target in found.targets[:_TARGETS]:
        table.add_row(Text(target.name), *_cells(target, most))
    more = len(found.targets) - _TARGETS
    if more <= 0:
        return table
    fewest = min(target.train for target in found.targets[_TARGETS:])
    rest = f"and {more} more" if numbers else f"and {more} more, from {fewest} training photos"
    return Group(table, Text(rest))


def _cells(target: Target, most: int) -> tuple[str, ...]:
    if target.values is not None:
        v = target.values
        return tuple(f"{value:.4g}" for value in (v.min, v.median, v.mean, v.max))
    return str(target.train), str(target.valid), "█" * max(1, round(20 * target.train / most))


def _facts(found: DataSummary) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    rows = [
        ("width", _range(found.width, "pixels")),
        ("height", _range(found.height, "pixels")),
        (
            "shape",
            f"{found.landscape} landscape, {found.portrait} portrait, {found.square} square",
        ),
        ("kinds", ", ".join(f"{n} {kind}" for kind, n in found.kinds)),
        ("files", _files(found)),
    ]
    if found.task == "multi":
        rows.append(("no label", f"{found.unlabelled} photos"))
    if found.imbalance is not None and found.imbalance >= 2:
        rows.append(("balance", f"the largest has {found.imbalance:.1f} times the smallest"))
    if found.small:
        size = f"{found.size[0]} x {found.size[1]}"
        rows.append(("enlarged", f"{found.small} are smaller than {size} pixels"))
    for name, text in rows:
        table.add_row(name, Text(text))
    return table


def _files(found: DataSummary) -> str:
    if found.file_bytes is None:
        return "items of a dataset"
    low, median, high = (
        amount(getattr(found.file_bytes, name)) for name in ("min", "median", "max")
    )
    return f"{low} to {high}, median {median}; {amount(found.total_bytes)} in all"


def _range(spread: Spread | None, unit: str) -> str:
    if spread is None:
        return "unknown"
    if spread.min == spread.max:
        return f"{spread.min:g} {unit}"
    return f"{spread.min:g} to {spread.max:g} {unit}, median {spread.median:g}"


def _faults(found: DataSummary) -> list[RenderableType]:
    lines: list[str] = []
    if found.broken:
        lines += [f"{len(found.broken)} broken images, left out:", *_some(found.broken)]
    if found.twins:
        both = sum(twins.both_parts for twins in found.twins)
        differ = sum(twins.labels_differ for twins in found.twins)
        lines.append(
            f"{len(found.twins)} photos are there more than once; of {both} of them copies are in "
            f"both parts, of {differ} the labels differ:"
        )
        lines += _some([" = ".join(twins.files) for twins in found.twins])
    return [Text(), *(Text(line) for line in lines)] if lines else []


def _some(things: tuple[object, ...] | list[str]) -> list[str]:
    more = [f"  and {len(things) - _LISTED} more"] if len(things) > _LISTED else []
    return [*(f"  {thing}" for thing in things[:_LISTED]), *more]


def amount(size: float) -> str:
    """Bytes in words: 1.2 MB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"
