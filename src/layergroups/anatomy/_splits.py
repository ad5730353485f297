"""Where a body can be divided, and the reason in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby, pairwise

from layergroups.anatomy._blocks import Block
from layergroups.anatomy._dataflow import spatial_size

_SIXTEENTH = 1.15 / 16  # of the image; 15 of 224 pixels still counts
_TOO_DEEP = 2 / 3  # of the depth
_EDGE = 0.1  # a part of less than a tenth of the depth is no half


@dataclass(frozen=True)
class Boundary:
    """A place between two blocks of the body.

    Attributes:
        block: index of the block that begins there.
        path: name of that block.
        weight_ops_before: weight_ops of the body before it.
        weight_ops: weight_ops of the body in all.
        side_before: side in pixels (or the root of the number of tokens) that the block before
            works at; 0 where there is none.
        side_after: likewise of the block that begins here.
        channels_before: channels that the block before gives.
        channels_after: likewise of the block that begins here.
        parameters: share of the body's parameters before it, 0..1.
        flops: share of the body's FLOPs before it, 0..1.
    """

    block: int
    path: str
    weight_ops_before: int
    weight_ops: int
    side_before: int
    side_after: int
    channels_before: int
    channels_after: int
    parameters: float
    flops: float

    @property
    def share(self) -> float:
        """Share of the depth before it, 0..1."""
        return self.weight_ops_before / max(1, self.weight_ops)

    @property
    def downsamples(self) -> bool:
        """Whether the resolution falls here."""
        return 0 < self.side_after < self.side_before

    @property
    def resolution(self) -> str:
        """The fall of the resolution, "28 → 14"."""
        return f"{self.side_before} → {self.side_after}"

    @property
    def depths(self) -> str:
        """How much of the depth comes before it, "7 of 13 layers"."""
        return f"{self.weight_ops_before} of {self.weight_ops} layers"

    @property
    def what(self) -> str:
        """What makes it a candidate, in a few words."""
        return (
            f"falls {self.resolution}" if self.downsamples else "the middle of the repeated blocks"
        )

    def describe(self) -> str:
        """One sentence in plain words."""
        what = f"the resolution falls {self.resolution}" if self.downsamples else "a block begins"
        return f"{what}, after {self.depths} of the body"


def find_boundaries(
    blocks: tuple[Block, ...], image: tuple[int, int] | None
) -> tuple[Boundary, ...]:
    """All boundaries inside the body, in order; `image` is the input's height and width."""
    body = [b for b in blocks if not b.in_head]
    depth = sum(b.weight_ops for b in body)
    parameters = max(1, sum(b.n_parameters for b in body))
    flops = max(1, sum(b.flops for b in body))
    found = []
    done = [0, 0, 0]
    for before, after in pairwise(body):
        done = [
            done[0] + before.weight_ops,
            done[1] + before.n_parameters,
            done[2] + before.flops,
        ]
        found.append(
            Boundary(
                block=after.index,
                path=after.name,
                weight_ops_before=done[0],
                weight_ops=depth,
                side_before=_side(before, image),
                side_after=_side(after, image),
                channels_before=_channels(before, image),
                channels_after=_channels(after, image),
                parameters=done[1] / parameters,
                flops=done[2] / flops,
            )
        )
    return tuple(found)


def _side(block: Block, image: tuple[int, int] | None) -> int:
    aspect = image[0] / image[1] if image else 1.0
    found = spatial_size((2, *block.shape), aspect) if image and block.shape else None
    return round(max(found)) if found else 0


def _channels(block: Block, image: tuple[int, int] | None) -> int:
    shape = block.shape
    if len(shape) == 3 and image:
        last = spatial_size((2, *shape), image[0] / image[1]) == shape[:2] != shape[1:]
        return shape[-1] if last else shape[0]
    return shape[-1] if shape else 0


@dataclass(frozen=True)
class SplitCandidate:
    """A boundary that the rule weighed, and what it decided.

    Attributes:
        boundary: the place.
        chosen: whether a part of the body begins there.
        reason: why it does, or why not, in plain words.
    """

    boundary: Boundary
    chosen: bool
    reason: str


def split_candidates(
    boundaries: tuple[Boundary, ...],
    blocks: tuple[Block, ...],
    image: tuple[int, int] | None,
    parts: int = 2,
) -> tuple[SplitCandidate, ...]:
    """Divide a body into `parts` parts, or as many as it has blocks; each place with its verdict.

    Two parts: the second begins with the first block at 1/16 of the image, if at most two thirds
    of the depth precede it; otherwise where the resolution falls nearest to half of the depth;
    otherwise in the middle of the repeated blocks. More parts are balanced by depth; a place where
    the resolution falls is preferred where it lies within half a part of the even division.

    Returns:
        In order of execution: the chosen places; of the others those where the resolution falls,
        and the middle of the repeated blocks.
    """
    if not boundaries or parts < 2:
        return ()
    middle = _middle(boundaries, blocks)
    if parts == 2:
        verdicts = _in_two(boundaries, middle, blocks[0].name == "stem", image)
    else:
        verdicts = _in_several(boundaries, middle, parts)
    return tuple(SplitCandidate(b, *verdicts[b.block]) for b in boundaries if b.block in verdicts)


_Verdicts = dict[int, tuple[bool, str]]  # by the block that would begin a part


def _in_two(
    boundaries: tuple[Boundary, ...], middle: Boundary, stem: bool, image: tuple[int, int] | None
) -> _Verdicts:
    sixteenth = max(image) * _SIXTEENTH if image else 0.0
    verdicts: _Verdicts = {}
    falls = []
    for b in boundaries:
        if b.downsamples and stem and b.block == 1:
            verdicts[b.block] = False, f"{b.what}, but only the stem comes before, {b.depths}"
        elif b.downsamples and b.share < _EDGE:
            verdicts[b.block] = False, f"{b.what} already after {b.depths}, less than a tenth"
        elif b.downsamples and b.share > 1 - _EDGE:
            verdicts[b.block] = False, f"{b.what} only after {b.depths}, more than nine tenths"
        elif b.downsamples:
            falls.append(b)
    deep = next((b for b in falls if b.side_after <= sixteenth), None)
    if deep is not None and deep.share > _TOO_DEEP:
        deep = None
    if deep is not None:
        best, reason = (
            deep,
            (
                f"the resolution falls {deep.resolution}, 1/16 of the image; {deep.depths} of the "
                "body come before"
            ),
        )
    elif falls:
        best = min(falls, key=lambda b: abs(b.share - 0.5))
        reason = (
            f"the resolution falls {best.resolution}, the fall nearest to half of the depth "
            f"({best.depths})"
        )
    else:
        best, reason = (
            middle,
            (
                f"the resolution stays the same, so in the middle of the repeated blocks "
                f"({middle.depths} before)"
            ),
        )
    for b in falls:
        late = b.share > _TOO_DEEP
        if best is deep and b.side_after > sixteenth:
            why = f"after {b.depths}, but that is not yet 1/16 of the image"
        elif best is deep:
            why = f"only after {b.depths}{', more than two thirds' * late}; 1/16 is reached before"
        elif late and b.side_after <= sixteenth and best.share <= _TOO_DEEP:
            why = f"only after {b.depths}, more than two thirds"
        else:
            why = f"after {b.depths}, further from half of the depth than the one chosen"
        verdicts[b.block] = False, f"{b.what} {why}"
    if not middle.downsamples and _EDGE <= middle.share <= 1 - _EDGE:
        why = "but the resolution stays the same here, and a fall is preferred"
        verdicts[middle.block] = False, f"{middle.what}, after {middle.depths}, {why}"
    return verdicts | {best.block: (True, reason)}


def _in_several(boundaries: tuple[Boundary, ...], middle: Boundary, parts: int) -> _Verdicts:
    parts = min(parts, len(boundaries) + 1)
    chosen: list[Boundary] = []
    rest = list(boundaries)
    for k in range(1, parts):
        spare = parts - 1 - k  # places to keep for the parts after this one
        options = rest[: len(rest) - spare]
        near = [b for b in options if b.downsamples and abs(b.share - k / parts) <= 0.5 / parts]
        best = min(near or options, key=lambda b: abs(b.share - k / parts))
        chosen.append(best)
        rest = [b for b in rest if b.block > best.block]
    verdicts: _Verdicts = {
        b.block: (True, f"{b.describe()}; nearest to {k}/{parts} of the depth")
        for k, b in enumerate(chosen, 1)
    }
    for b in boundaries:
        if b.downsamples or (b is middle and _EDGE <= b.share <= 1 - _EDGE):
            verdicts.setdefault(b.block, (False, _not_even(b, chosen)))
    return verdicts


def _not_even(other: Boundary, chosen: list[Boundary]) -> str:
    parts = len(chosen) + 1
    k = min(max(round(other.share * parts), 1), parts - 1)
    nearest = chosen[k - 1]
    place = f"{nearest.path} ({nearest.weight_ops_before})"
    if abs(nearest.share - k / parts) <= abs(other.share - k / parts):
        better = (
            f"{nearest.path} ({nearest.weight_ops_before}) is nearer to {k}/{parts} of the depth"
        )
    elif nearest.downsamples and not other.downsamples:
        better = f"{place} is where the resolution falls"
    else:
        better = f"the {parts} parts of the body begin elsewhere, so that each has its blocks"
    return f"{other.what} after {other.depths}; {better}"


def _middle(boundaries: tuple[Boundary, ...], blocks: tuple[Block, ...]) -> Boundary:
    kinds = [b.kind for b in blocks if not b.in_head]
    runs = [(kind, len(list(run))) for kind, run in groupby(kinds)]
    longest = max(range(len(runs)), key=lambda i: runs[i][1])
    first, length = sum(n for _, n in runs[:longest]), runs[longest][1]
    target = first + length // 2 if length > 1 else len(kinds) // 2
    return min(boundaries, key=lambda b: abs(b.block - target))


def choose_splits(
    boundaries: tuple[Boundary, ...],
    blocks: tuple[Block, ...],
    image: tuple[int, int] | None,
    parts: int,
) -> list[tuple[Boundary, str]]:
    """The chosen places of `split_candidates`, each with the reason."""
    found = split_candidates(boundaries, blocks, image, parts)
    return [(c.boundary, c.reason) for c in found if c.chosen]
