"""A contender as a process of its own, so that none meets the caches or threads of another."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
from pathlib import Path
from typing import Any

HEADINGS = """| | accuracy, each seed | mean | seconds, median | peak memory, MB |
| --- | --- | --- | --- | --- |"""


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


def parser_of(doc: str | None, epochs: int) -> argparse.ArgumentParser:
    """What all comparisons ask for."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--size", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=epochs)
    return parser


def add_peers(parser: argparse.ArgumentParser) -> None:
    """Where fastai is."""
    parser.add_argument("--peers", help="python of the peers' environment; without it fastai rests")


def row(name: str, results: list[dict[str, Any]]) -> str:
    """A line of the table under `HEADINGS`: one contender, a result for each seed."""
    accuracies = [r["accuracy"] for r in results]
    listed = ", ".join(f"{a:.3f}" for a in accuracies)
    seconds, peak = (statistics.median(r[key] for r in results) for key in ("seconds", "peak_mb"))
    return f"| {name} | {listed} | {statistics.mean(accuracies):.3f} | {seconds:.0f} | {peak:.0f} |"
