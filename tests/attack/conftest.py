"""How hard the attacks are: LAYERGROUPS_ATTACK=20 (`make attack`) tries twenty times as much."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

TIMES = int(os.environ.get("LAYERGROUPS_ATTACK", "1"))
SEED = int(os.environ.get("LAYERGROUPS_ATTACK_SEED", "0"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "attack" in item.path.parts:
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def rng() -> random.Random:
    return random.Random(SEED)


@pytest.fixture
def times() -> int:
    return TIMES


def mutations(rng: random.Random, data: bytes, n: int) -> Iterator[bytes]:
    """Changed forms of some bytes: bits, runs, cuts, repeats, numbers at their ends."""
    for _ in range(n):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            at = rng.randrange(len(changed))
            length = rng.choice((1, 2, 4, 64))
            kind = rng.randrange(6)
            if kind == 0:
                changed[at] ^= 1 << rng.randrange(8)
            elif kind == 1:
                changed[at : at + length] = rng.randbytes(length)
            elif kind == 2:
                changed[at : at + length] = rng.choice((b"\0", b"\xff", b"\x7f")) * length
            elif kind == 3:
                del changed[at : at + length]
            elif kind == 4:
                changed[at:at] = changed[at : at + length]
            elif len(changed) > 8:
                del changed[max(4, at) :]
        yield bytes(changed)
