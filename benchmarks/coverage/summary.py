"""The results as a table by family, with the failures and their reasons."""

from __future__ import annotations

import csv
import statistics
from pathlib import Path

Row = dict[str, str]


def read(table: Path) -> list[Row]:
    """The rows of a results file; the latest of each architecture counts."""
    if not table.is_file() or not table.stat().st_size:
        return []
    with table.open(newline="") as file:
        latest = {(row["family"], row["name"]): row for row in csv.DictReader(file)}
    return list(latest.values())


def table(rows: list[Row]) -> str:
    """The summary as Markdown."""
    lines = [
        "# Coverage",
        "",
        "By `python -m benchmarks.coverage`; `results.csv` has a row for each architecture.",
        "",
        "| family | architectures | all checks pass | fail | median seconds for all checks |",
        "| --- | --- | --- | --- | --- |",
    ]
    bad = [row for row in rows if row["ok"] != "True"]
    for family in dict.fromkeys(row["family"] for row in rows):
        mine = [row for row in rows if row["family"] == family]
        good = sum(row["ok"] == "True" for row in mine)
        seconds = statistics.median(float(row["seconds"] or 0) for row in mine)
        lines.append(f"| {family} | {len(mine)} | {good} | {len(mine) - good} | {seconds:.1f} |")
    if bad:
        lines += [
            "",
            "## Failures",
            "",
            "| family | architecture | reason |",
            "| --- | --- | --- |",
        ]
        lines += [f"| {r['family']} | {r['name']} | {r['reason'].replace('|', '/')} |" for r in bad]
    return "\n".join(lines) + "\n"
