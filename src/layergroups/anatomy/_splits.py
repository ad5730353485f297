"""Where a body can be divided, and the reason in words and numbers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from layergroups.anatomy._blocks import Block
from layergroups.anatomy._dataflow import sides

SIXTEENTH = 1.15 / 16  # of the image; 15 of 224 pixels still counts


TOO_DEEP = 2 / 3  # of the depth


EDGE = 0.1  # a part of less than a tenth of the depth is no half


@dataclass(frozen=True)
class Boundary:
    """A place between two blocks of the body.

    Attributes:
        block: index of the block that begins there.
        path: name of that block.
        depth_before: contractions of the body before it.
        depth: contractions of the body in all.
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
    depth_before: int
    depth: int
    side_before: int
    side_after: int
    channels_before: int
    channels_after: int
    parameters: float
    flops: float

    @property
    def share(self) -> float:
        """Share of the depth before it, 0..1."""
        return self.depth_before / max(1, self.depth)

    @property
    def falls(self) -> bool:
        """Whether the resolution falls here."""
        return 0 < self.side_after < self.side_before

    @property
    def fall(self) -> str:
        """The fall of the resolution, "28 → 14"."""
        return f"{self.side_before} → {self.side_after}"

    def describe(self) -> str:
        """One sentence in plain words."""
        what = f"the resolution falls {self.fall}" if self.falls else "a block begins"
        return f"{what}, after {self.depth_before} of {self.depth} layers of the body"


def find_boundaries(
    blocks: tuple[Block, ...], image: tuple[int, int] | None
) -> tuple[Boundary, ...]:
    """All boundaries inside the body, in order; `image` is the input's height and width."""
    body = [b for b in blocks if not b.in_head]
    depth = sum(b.contractions for b in body)
    parameters = max(1, sum(b.n_parameters for b in body))
    flops = max(1, sum(b.flops for b in body))
    found = []
    done = [0, 0, 0]
    for before, after in pairwise(body):
        done = [
            done[0] + before.contractions,
            done[1] + before.n_parameters,
            done[2] + before.flops,
        ]
        found.append(
            Boundary(
                block=after.index,
                path=after.name,
                depth_before=done[0],
                depth=depth,
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
    found = sides((2, *block.shape), aspect) if image and block.shape else None
    return round(max(found)) if found else 0


def _channels(block: Block, image: tuple[int, int] | None) -> int:
    if len(block.shape) == 3 and image:
        found = sides((2, *block.shape), image[0] / image[1])
        if (
            found
            == (float(block.shape[0]), float(block.shape[1]))
            != tuple(float(s) for s in block.shape[1:])
        ):
            return block.shape[-1]
        return block.shape[0]
    return block.shape[-1] if block.shape else 0


def choose_split(
    boundaries: tuple[Boundary, ...], blocks: tuple[Block, ...], image: tuple[int, int] | None
) -> tuple[Boundary | None, str]:
    """Where a body is best divided in two, and why.

    Before the first block at 1/16 of the image if at most two thirds of the depth precede it;
    otherwise at the fall of resolution nearest to half the depth; otherwise in the middle of the
    repeated blocks.
    """
    inner = [b for b in boundaries if EDGE <= b.share <= 1 - EDGE]
    falls = [b for b in inner if b.falls and not _is_stem_end(b, blocks)]
    sixteenth = max(image) * SIXTEENTH if image else 0.0
    deep = next((b for b in falls if b.side_after <= sixteenth), None)
    if deep is not None and deep.share <= TOO_DEEP:
        return deep, (
            f"the resolution falls {deep.fall}, 1/16 of the image; {deep.depth_before} of "
            f"{deep.depth} layers of the body come before"
        )
    if falls:
        half = min(falls, key=lambda b: abs(b.share - 0.5))
        return half, (
            f"the resolution falls {half.fall}, the fall nearest to half of the depth "
            f"({half.depth_before} of {half.depth} layers)"
        )
    middle = _middle(boundaries, blocks)
    if middle is None:
        return None, "the body is one block, so it cannot be divided"
    return middle, (
        f"the resolution stays the same, so in the middle of the repeated blocks "
        f"({middle.depth_before} of {middle.depth} layers before)"
    )


def _is_stem_end(boundary: Boundary, blocks: tuple[Block, ...]) -> bool:
    return boundary.block == 1 and blocks[0].name == "stem"


def _middle(boundaries: tuple[Boundary, ...], blocks: tuple[Block, ...]) -> Boundary | None:
    body = [b for b in blocks if not b.in_head]
    if not boundaries:
        return None
    first, length = _longest_run([b.kind for b in body])
    target = first + length // 2 if length > 1 else len(body) // 2
    return min(boundaries, key=lambda b: abs(b.block - target))


def _longest_run(kinds: list[str]) -> tuple[int, int]:
    best = (0, 0)
    start = 0
    for i in range(1, len(kinds) + 1):
        if i == len(kinds) or kinds[i] != kinds[start]:
            if i - start > best[1]:
                best = (start, i - start)
            start = i
    return best


def choose_splits(
    boundaries: tuple[Boundary, ...],
    blocks: tuple[Block, ...],
    image: tuple[int, int] | None,
    parts: int,
) -> list[tuple[Boundary, str]]:
    """Divide a body into `parts` parts, or as many as it has blocks, balanced by depth.

    Falls of the resolution are preferred where one lies within half a part of the even division.
    """
    if parts == 2:
        boundary, reason = choose_split(boundaries, blocks, image)
        return [(boundary, reason)] if boundary else []
    chosen: list[tuple[Boundary, str]] = []
    rest = list(boundaries)
    for k in range(1, min(parts, len(boundaries) + 1)):
        target = k / parts
        spare = min(parts, len(boundaries) + 1) - 1 - k
        options = rest[: len(rest) - spare] if spare else rest
        near = [b for b in options if b.falls and abs(b.share - target) <= 0.5 / parts]
        best = min(near or options, key=lambda b: abs(b.share - target))
        words = f"{best.describe()}; nearest to {k}/{parts} of the depth"
        chosen.append((best, words))
        rest = [b for b in rest if b.block > best.block]
    return chosen
