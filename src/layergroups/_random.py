"""Seeds that do not repeat from one epoch to the next."""

from __future__ import annotations

import hashlib


def mixed(*parts: int | str) -> int:
    """A seed, 0 to 2**63 - 1, that depends on all parts and looks random."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
