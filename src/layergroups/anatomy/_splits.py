"""Where a body can be divided, and the reason in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from layergroups.anatomy._blocks import Block
from layergroups.anatomy._dataflow import spatial_size

_SIXTEENTH = 1.15 / 16  # of the image; 15 of 224 pixels still counts
_TOO_DEEP = 2 / 3  # of the depth
_EDGE = 0.1  # a part of less than a tenth of the depth is no half
_UNEVEN = 0.25  # repeated blocks whose middle leaves less than this are no guide
_TOWER = 0.2  # an input branch with this share of the depth is a tower of its own


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
        """How much of the depth comes before it, "7 of 13 weight layers"."""
        return f"{self.weight_ops_before} of {self.weight_ops} weight layers"

    def describe(self) -> str:
        """One sentence in plain words."""
        what = f"the resolution falls {self.resolution}" if self.downsamples else "a block begins"
        return f"{what}, after {self.depths} of the body"


def towers_of(blocks: tuple[Block, ...]) -> list[list[Block]]:
    """The branches of a body that are divided each by itself: its input towers, or all of it.

    Two towers or more have each a fifth of the depth. What joins them, and small branches, are in
    none.
    """
    body = [b for b in blocks if not b.in_head]
    depth = sum(b.weight_ops for b in body)
    towers: dict[int, list[Block]] = {}
    for block in body:
        if block.tower >= 0:
            towers.setdefault(block.tower, []).append(block)
    large = [
        tower for tower in towers.values()
        if len(tower) > 1 and sum(b.weight_ops for b in tower) >= depth * _TOWER
    ]  # fmt: skip
    return large if len(large) > 1 else [body]


def find_boundaries(
    blocks: tuple[Block, ...], image: tuple[int, int] | None
) -> tuple[Boundary, ...]:
    """All boundaries inside the body, in order; `image` is the input's height and width.

    Of several towers each has its own, and depth and shares are those of the tower.
    """
    found = [b for tower in towers_of(blocks) for b in _boundaries_of(tower, image)]
    return tuple(sorted(found, key=lambda b: b.block))


def _boundaries_of(body: list[Block], image: tuple[int, int] | None) -> list[Boundary]:
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
    return found


def _side(block: Block, image: tuple[int, int] | None) -> int:
    if not image:
        return block.side
    found = spatial_size((2, *block.shape), image[0] / image[1]) if block.shape else None
    return round(max(found)) if found else 0


def _channels(block: Block, image: tuple[int, int] | None) -> int:
    shape = block.shape
    if len(shape) == 3 and image:
        last = spatial_size((2, *shape), image[0] / image[1]) == shape[:2] != shape[1:]
        return shape[-1] if last else shape[0]
    first = not image and block.side in shape[1:]  # of a convolution, channels come first
    return (shape[0] if first else shape[-1]) if shape else 0


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

    Each tower is divided by itself. Before a decoder a part begins, if there are three at most.
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
    verdicts: _Verdicts = {}
    decoder = next((b for b in boundaries if blocks[b.block].begins_decoder), None)
    if decoder is not None and parts <= 3:
        words = f"the decoder begins, after {decoder.depths} of the body"
        verdicts[decoder.block] = True, words
        encoder = [
            replace(b, weight_ops=decoder.weight_ops_before)
            for b in boundaries if b.block < decoder.block
        ]  # fmt: skip
        if encoder and parts == 3:
            verdicts |= _divided(encoder, list(blocks[: decoder.block]), image, 2)
    else:
        for tower in towers_of(blocks):
            own = [b for b in boundaries if any(b.block == block.index for block in tower)]
            verdicts |= _divided(own, tower, image, parts) if own else {}
    return tuple(SplitCandidate(b, *verdicts[b.block]) for b in boundaries if b.block in verdicts)


def has_decoder(blocks: tuple[Block, ...]) -> bool:
    """Whether a body has a decoder, which reads what an encoder gives in each of its blocks."""
    return any(b.begins_decoder for b in blocks)


_Verdicts = dict[int, tuple[bool, str]]  # by the block that would begin a part


def _divided(
    boundaries: list[Boundary], body: list[Block], image: tuple[int, int] | None, parts: int
) -> _Verdicts:
    middle, place = _middle(boundaries, body)
    if parts > 2:
        return _in_several(boundaries, middle, place, parts)
    sides = {side for b in boundaries for side in (b.side_before, b.side_after) if side}
    return _in_two(
        boundaries, middle, place, body[0].name == "stem", image, same_size=len(sides) == 1
    )


def _in_two(
    boundaries: list[Boundary], middle: Boundary, place: str, stem: bool,
    image: tuple[int, int] | None, *, same_size: bool,
) -> _Verdicts:  # fmt: skip
    sixteenth = max(image) * _SIXTEENTH if image else 0.0
    verdicts: _Verdicts = {}
    falls = []
    for b in boundaries:
        what = f"falls {b.resolution}"
        if b.downsamples and stem and b.block == 1:
            verdicts[b.block] = False, f"{what}, but only the stem comes before, {b.depths}"
        elif b.downsamples and b.share < _EDGE:
            verdicts[b.block] = False, f"{what} already after {b.depths}, less than a tenth"
        elif b.downsamples and b.share > 1 - _EDGE:
            verdicts[b.block] = False, f"{what} only after {b.depths}, more than nine tenths"
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
        why = "the resolution stays the same, so " if same_size else ""
        best, reason = middle, f"{why}{place} ({middle.depths} before)"
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
        verdicts[b.block] = False, f"falls {b.resolution} {why}"
    if not middle.downsamples and _EDGE <= middle.share <= 1 - _EDGE:
        why = "but the resolution does not fall here, and a fall is preferred"
        verdicts[middle.block] = False, f"{place}, after {middle.depths}, {why}"
    return verdicts | {best.block: (True, reason)}


def _in_several(boundaries: list[Boundary], middle: Boundary, place: str, parts: int) -> _Verdicts:
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
            what = f"falls {b.resolution}" if b.downsamples else place
            verdicts.setdefault(b.block, (False, f"{what} after {_not_even(b, chosen)}"))
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
    return f"{other.depths}; {better}"


def _middle(boundaries: list[Boundary], body: list[Block]) -> tuple[Boundary, str]:
    """The middle of the longest run of blocks of one class, or of the depth; and that in words."""
    runs = [list(run) for _, run in groupby(body, key=lambda b: b.kind)]
    longest = max(runs, key=lambda run: (len(run) > 1, sum(b.weight_ops for b in run)))
    if len(longest) > 1:
        target = longest[len(longest) // 2].index
        at = next((b for b in boundaries if b.block == target), None)
        if at is not None and _UNEVEN <= at.share <= 1 - _UNEVEN:
            return at, "in the middle of the repeated blocks"
    return min(boundaries, key=lambda b: abs(b.share - 0.5)), "nearest to half of the depth"


def choose_splits(
    boundaries: tuple[Boundary, ...],
    blocks: tuple[Block, ...],
    image: tuple[int, int] | None,
    parts: int,
) -> list[tuple[Boundary, str]]:
    """The chosen places of `split_candidates`, each with the reason."""
    found = split_candidates(boundaries, blocks, image, parts)
    return [(c.boundary, c.reason) for c in found if c.chosen]
