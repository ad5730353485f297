"""The places where a body could be divided too, each with why the rule takes another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from layergroups.anatomy import Anatomy, Boundary, choose_split, choose_splits
from layergroups.anatomy.boundaries import EDGE, SIXTEENTH, TOO_DEEP

_MOST = 4

Alternative = tuple[Boundary, str]


def runners_up(anatomy: Anatomy, taken: Sequence[int]) -> list[Alternative]:
    """The best few other boundaries, in order, each with one sentence.

    Where the body is divided as the automatic rule divides it, they are the other falls of the
    resolution and the middle of the repeated blocks; otherwise, what the automatic rule would take.

    Args:
        anatomy: of the model.
        taken: blocks of the body before which it is divided.
    """
    chosen = choose_splits(anatomy.boundaries, anatomy.blocks, anatomy.image, len(taken) + 1)
    if not taken or [b.block for b, _ in chosen] != list(taken):
        return _automatic(anatomy, taken)
    boundaries = [boundary for boundary, _ in chosen]
    middle = _middle(anatomy)
    falls = sorted(
        (b for b in anatomy.boundaries if b.falls and b.block not in taken),
        key=lambda b: abs(b.share - 0.5),
    )
    spare = middle and middle.block not in taken and not middle.falls
    repeats = [middle] if middle and spare and EDGE <= middle.share <= 1 - EDGE else []
    found = [*falls[: _MOST - len(repeats)], *repeats]
    found.sort(key=lambda b: b.block)
    if len(boundaries) == 1:
        return [(b, _not_halved(anatomy, b, boundaries[0])) for b in found]
    return [(b, _not_even(b, boundaries)) for b in found]


def _automatic(anatomy: Anatomy, taken: Sequence[int]) -> list[Alternative]:
    """What the automatic rule takes, where that is something else."""
    best, reason = choose_split(anatomy.boundaries, anatomy.blocks, anatomy.image)
    if best is None or best.block in taken:
        return []
    return [(best, f"split='auto' begins a group here: {reason}")]


def _middle(anatomy: Anatomy) -> Boundary | None:
    """Where the body is divided if its resolution never falls."""
    level = tuple(replace(b, side_after=b.side_before) for b in anatomy.boundaries)
    found, _ = choose_split(level, anatomy.blocks, anatomy.image)
    return next((b for b in anatomy.boundaries if found and b.block == found.block), None)


def _not_halved(anatomy: Anatomy, other: Boundary, chosen: Boundary) -> str:
    """Why a body is not divided in two here."""
    if not other.falls:
        return (
            f"the middle of the repeated blocks, after {_depth(other)}, but the resolution stays "
            f"the same here, and a fall is preferred"
        )
    falls = f"falls {other.fall}"
    if other.block == 1 and anatomy.blocks[0].name == "stem":
        return f"{falls}, but only the stem comes before, {_depth(other)}"
    if other.share < EDGE:
        return f"{falls} already after {_depth(other)}, less than a tenth"
    if other.share > 1 - EDGE:
        return f"{falls} only after {_depth(other)}, more than nine tenths"
    if _is_deep(anatomy, chosen) and chosen.share <= TOO_DEEP:
        if not _is_deep(anatomy, other):
            return f"{falls} after {_depth(other)}, but that is not yet 1/16 of the image"
        too_late = ", more than two thirds" if other.share > TOO_DEEP else ""
        return f"{falls} only after {_depth(other)}{too_late}; 1/16 is reached before"
    if _is_deep(anatomy, other) and chosen.share <= TOO_DEEP < other.share:
        return f"{falls} only after {_depth(other)}, more than two thirds"
    return f"{falls} after {_depth(other)}, further from half of the depth than the one chosen"


def _not_even(other: Boundary, chosen: Sequence[Boundary]) -> str:
    """Why a body is not divided here in several parts."""
    parts = len(chosen) + 1
    what = f"falls {other.fall}" if other.falls else "the middle of the repeated blocks"
    k = min(max(round(other.share * parts), 1), parts - 1)
    nearest = chosen[k - 1]
    if abs(nearest.share - k / parts) <= abs(other.share - k / parts):
        better = f"{nearest.path} ({nearest.depth_before}) is nearer to {k}/{parts} of the depth"
    else:
        better = f"{nearest.path} ({nearest.depth_before}) is where the resolution falls"
        if not nearest.falls or other.falls:
            better = f"the {parts} parts of the body begin elsewhere, so that each has its blocks"
    return f"{what} after {_depth(other)}; {better}"


def _is_deep(anatomy: Anatomy, boundary: Boundary) -> bool:
    limit = max(anatomy.image) * SIXTEENTH if anatomy.image else 0.0
    return boundary.falls and boundary.side_after <= limit


def _depth(boundary: Boundary) -> str:
    return f"{boundary.depth_before} of {boundary.depth} layers"
