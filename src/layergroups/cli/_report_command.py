"""`layergroups report`: the page of a run, or of two side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer

from layergroups._formatting import say, show, show_json
from layergroups.reports import RunReport, check_page_name

PAGE = "run.html"


COMPARED = "compare.html"


def run(runs: Sequence[Path], *, compare: bool, out: Path | None, text: bool, json: bool) -> None:
    """Read the records of runs, and write a page, tables or JSON.

    Raises:
        LayerGroupsError: a folder has no record of a run, or the page cannot be written.
        typer.BadParameter: the number of runs or the options do not fit.
    """
    _check(runs, compare, text, json)
    asked = text or json
    if out is not None:
        check_page_name(out)
    report = RunReport.read(*runs)
    if json:
        show_json(report.to_dict())
    elif text:
        show(report)
    if not asked or out is not None:
        target = out or (Path(COMPARED) if compare else _folder(runs[0]) / PAGE)
        report.save(target)
        _tell(target, asked)


def _check(runs: Sequence[Path], compare: bool, text: bool, json: bool) -> None:
    """What needs no file to be seen."""
    if compare and len(runs) != 2:
        raise typer.BadParameter(f"--compare takes two runs, not {len(runs)}: --compare A B.")
    if not compare and len(runs) != 1:
        raise typer.BadParameter(
            f"{len(runs)} runs are given; a page is of one, or of two with --compare A B."
        )
    if text and json:
        raise typer.BadParameter("--text and --json are two formats; give one.")


def _folder(run: Path) -> Path:
    """Of a run that is given as a folder or as the record in it."""
    return run if run.is_dir() else run.parent


def _tell(page: Path, asked: bool) -> None:
    """Where the page is: on stdout, unless something else has been asked for there."""
    if asked:
        say(f"The page is in {page}.")
        return
    show(str(page))
    say("Open it in a browser; it is one file, and needs no network.")
