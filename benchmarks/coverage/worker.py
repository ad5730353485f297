"""Checks architectures one after the other: a line in, a line of JSON out."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import time
import warnings
from typing import Any

MEMORY = 12 * 2**30  # of addresses; a process of torch begins with 4 GB


def main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print must not mix with the answers
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    for line in sys.stdin:
        family, name = line.rstrip("\n").split("\t")
        answers.write(json.dumps(answer(family, name)) + "\n")
        answers.flush()


def answer(family: str, name: str) -> dict[str, Any]:
    """One row of the results."""
    from benchmarks.coverage import classification, modules

    begun = time.perf_counter()
    try:
        if family in ("torchvision", "timm"):
            verdict = classification.check(f"{family}:{name}")
        elif family == "field":
            from benchmarks.coverage.field import check

            verdict = check.check(name)
        else:
            verdict = modules.check(family, name)
        failed, facts = verdict.failed, verdict.facts
    except Exception as error:
        failed = {"run": f"{type(error).__name__}: {error}"}
        facts = {}
        if os.environ.get("COVERAGE_TRACEBACK"):
            import traceback

            traceback.print_exc()
    return {
        "failed": " ".join(failed),
        "reason": "; ".join(f"{k}: {v}" for k, v in failed.items()).replace("\n", " ")[:600],
        "seconds": round(time.perf_counter() - begun, 2),
        **facts,
    }


if __name__ == "__main__":
    main()
