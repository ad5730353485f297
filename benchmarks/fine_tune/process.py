"""A contender as a process of its own, so that none meets the caches or threads of another."""

from __future__ import annotations

import json
import subprocess
from typing import Any


def measure(python: str, *command: str) -> dict[str, Any]:
    """Run one contender and read the JSON line that it ends with.

    Args:
        python: of its environment.
        command: what follows: a script and its options, or "-c", code and its options.
    """
    done = subprocess.run([python, *command], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a contender failed:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))
