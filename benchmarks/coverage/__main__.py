"""Runs the coverage: one worker process, bounded in time and memory, restarted when it dies."""

from __future__ import annotations

import argparse
import csv
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.coverage import families, summary

HERE = Path(__file__).resolve().parent
FIELDS = (
    "family", "name", "kind", "ok", "failed", "reason", "seconds", "source", "parameters", "cut",
    "removed", "features", "pooled", "groups", "blocks", "unused", "numbers", "split",
)  # fmt: skip
FIELD = (*FIELDS[:7], "source", "parameters", "groups", "blocks", "unused", "split", "new head",
         "head reason")  # fmt: skip
PATIENCE = 90.0  # seconds for one architecture
FRESH = 60  # architectures after which a new worker starts


class Worker:
    """A process that answers one line for each architecture."""

    def __init__(self) -> None:
        self.answered = 0
        self.process = subprocess.Popen(
            ["nice", "-n", "10", sys.executable, "-m", "benchmarks.coverage.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def ask(self, family: str, name: str) -> dict[str, Any] | None:
        """The answer, or None where none came in time."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.answered += 1
        try:
            self.process.stdin.write(f"{family}\t{name}\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        line = self.process.stdout.readline() if ready else ""
        return json.loads(line) if line else None

    def stop(self) -> None:
        """End this process."""
        self.process.kill()
        self.process.wait()


def main() -> None:
    options = _options()
    in_field = options.family == ["field"]
    table = Path(options.out or HERE / ("field/results.csv" if in_field else "results.csv"))
    done = _done(summary.read(table), options)
    worker = Worker()
    with table.open("a", newline="") as file:
        rows = csv.DictWriter(file, FIELD if in_field else FIELDS)
        if not table.stat().st_size:
            rows.writeheader()
        for family, name, kind in _chosen(options):
            if (family, name) in done:
                continue
            if worker.answered >= FRESH:
                worker.stop()
                worker = Worker()
                table.with_suffix(".md").write_text(summary.table(summary.read(table)))
            found = worker.ask(family, name)
            if found is None:
                worker.stop()
                worker = Worker()
                found = {"failed": "run", "reason": f"no answer in {PATIENCE:.0f} s, or it crashed"}
            row = {"family": family, "name": name, "kind": kind, "ok": not found["failed"], **found}
            rows.writerow(row)
            file.flush()
            if found["failed"] or options.verbose:
                print(
                    family,
                    name,
                    "ok" if row["ok"] else found["reason"],
                    found.get("seconds"),
                    flush=True,
                )
    worker.stop()
    table.with_suffix(".md").write_text(summary.table(summary.read(table)))


def _done(rows: list[summary.Row], options: argparse.Namespace) -> set[tuple[str, str]]:
    if options.again:
        return set()
    kept = (r for r in rows if r["ok"] == "True" or not options.retry)
    return {(r["family"], r["name"]) for r in kept}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage")
    every = (*families.FAMILIES, "field")
    parser.add_argument("--family", nargs="*", default=families.FAMILIES, choices=every)
    parser.add_argument("--sample", type=int, default=0, help="so many of each kind")
    parser.add_argument("--only", nargs="*", help="names such as timm:resnet18")
    parser.add_argument("--again", action="store_true", help="also what is done already")
    parser.add_argument("--retry", action="store_true", help="also what has failed")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("--out", help="a CSV file; default: results.csv beside the checks")
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[tuple[str, str, str]]:
    if options.only:
        split = [full.partition(":") for full in options.only]
        sources = [name.partition(":")[0] if family == "field" else "" for family, _, name in split]
        return [(f, name, kind) for (f, _, name), kind in zip(split, sources, strict=True)]
    chosen = []
    for family in options.family:
        rows = families.names(family)
        rows = families.sample(rows, options.sample) if options.sample else families.spread(rows)
        chosen += [(family, name, kind) for name, kind in rows]
    return chosen


if __name__ == "__main__":
    main()
