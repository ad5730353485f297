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
    if rows and rows[0]["family"] == "field":
        return field_table(rows)
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
    return "\n".join(lines + _failures(bad)) + "\n"


def _failures(bad: list[Row]) -> list[str]:
    if not bad:
        return []
    head = ["", "## Failures", "", "| family | architecture | reason |", "| --- | --- | --- |"]
    return head + [
        f"| {r['family']} | {r['name']} | {r['reason'].replace('|', '/')} |" for r in bad
    ]


def field_table(rows: list[Row]) -> str:
    """The summary of the models of other libraries, judged by what people expect."""
    lines = [
        "# The field",
        "",
        "By `python -m benchmarks.coverage --family field`; `results.csv` has a row for each "
        "model, `expectations.csv` what people expect of it.",
        "",
        "| source | models | head right | parts sensible | cover and freezing exact | "
        "replace_head runs, refuses, breaks | median seconds for all checks |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    sources = {source: [r for r in rows if r["kind"] == source] for source in
               dict.fromkeys(r["kind"] for r in rows)}  # fmt: skip
    for source, mine in {**sources, "all": rows}.items():
        right = [len(mine) - sum(_failed(r, c) for r in mine) for c in ("head", "parts")]
        exact = len(mine) - sum(_failed(r, "cover", "freeze", "changed") for r in mine)
        new = [sum((r["new head"] or "breaks").startswith(w) for r in mine)
               for w in ("runs", "refused", "breaks")]  # fmt: skip
        seconds = statistics.median(float(row["seconds"] or 0) for row in mine)
        lines.append(
            f"| {source} | {len(mine)} | {right[0]} | {right[1]} | {exact} | "
            f"{', '.join(map(str, new))} | {seconds:.1f} |"
        )
    return "\n".join(lines + _failures([r for r in rows if r["ok"] != "True"])) + "\n"


def _failed(row: Row, *checks: str) -> bool:
    return any(check in row["failed"].split() for check in ("run", *checks))
