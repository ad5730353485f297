"""`layergroups report`: the page of a run, or of two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from layergroups._formatting import say, show, show_json
from layergroups.reports import RunReport, check_page_name


def run(runs: Sequence[Path], *, compare: bool, out: Path | None, text: bool, json: bool) -> None:
    """Read the records of runs, and write a page, tables or JSON.

    Raises:
        LayerGroupsError: a folder has no record of a run, or the page cannot be written.
        typer.BadParameter: the number of runs or the options do not fit.
    """
    if compare and len(runs) != 2:
        raise typer.BadParameter(f"--compare takes two runs, not {len(runs)}: --compare A B.")
    if not compare and len(runs) != 1:
        raise typer.BadParameter(
            f"{len(runs)} runs are given; a page is of one, or of two with --compare A B."
        )
    if text and json:
        raise typer.BadParameter("--text and --json are two formats; give one.")
    if out is not None:
        check_page_name(out)
    report = RunReport.read(*runs)
    if json:
        show_json(report.to_dict())
    elif text:
        show(report)
    folder = runs[0] if runs[0].is_dir() else runs[0].parent  # or the record in it
    if not (text or json):
        target = out or (Path("compare.html") if compare else folder / "run.html")
        report.save(target)
        show(str(target))
        say("Open it in a browser; it is one file, and needs no network.")
    elif out is not None:
        report.save(out)
        say(f"The page is in {out}.")
