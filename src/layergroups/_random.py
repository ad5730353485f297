"""Seeds that do not repeat from one epoch to the next, and random states that are put back."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def mixed(*parts: int | str) -> int:
    """A seed, 0 to 2**63 - 1, that depends on all parts and looks random."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def derived_seed(*numbers: int) -> int:
    """A 32-bit seed that depends on all of the numbers."""
    text = ",".join(map(str, numbers)).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=4).digest(), "big")


@contextmanager
def private_randomness(seed: int) -> Iterator[None]:
    """Python's, NumPy's and PyTorch's CPU generators start from a seed, and are restored after."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the generators of accelerators too.
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
