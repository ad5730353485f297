"""Render the page of one or two runs as a single HTML file."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from layergroups import _formatting as formatting
from layergroups.reports._images import MASKS_SHOWN
from layergroups.reports.page import _run_charts as charts
from layergroups.reports.page._charts import some_rows
from layergroups.reports.page._confusion_matrix import matrix_of, safe_picture, script_data
from layergroups.reports.run import (
    RunRecord,
    choices_in_words,
    differences,
    figures_in_words,
    figures_of,
    headline,
    phases_of,
    savings_of,
    savings_text,
    summary,
)
from layergroups.tasks import task_named

_FILTERS = ("count", "duration", "figure", "memory", "moment", "percent", "rate", "shape", "short")
_HEX = re.compile(r"#[0-9a-fA-F]{6}")


def run_page(record: RunRecord) -> str:
    """The page of a run, an HTML document; it depends only on the record."""
    task = task_named(record.outcome.task if record.outcome else "multiclass")
    outcome, phases = record.outcome, phases_of(record.epochs)
    matrix = matrix_of(outcome)
    calibration = charts.calibration_chart(outcome) if outcome else None
    sections = [
        ("training", "Training curves", record.epochs),
        ("results", "Results", outcome),
        ("confusion", "Confusion matrix", matrix),
        ("calibration", "Calibration", calibration),
        ("errors", "Largest errors", outcome and outcome.worst),
        ("network", "Network and layer groups", True),
        ("data", "Data", True),
        ("time", "Time and memory", phases),
        ("reproduce", "Reproduce", True),
    ]
    return _rendered(
        "run.html.j2",
        [record],
        sections,
        record=record,
        outcome=outcome,
        summary=summary(record),
        headline=headline(outcome) if outcome else None,
        figures=figures_in_words(outcome) if outcome else {},
        charts=charts.training_charts(record) if record.epochs else [],
        lanes=charts.lanes(record),
        choices=choices_in_words(record.plan),
        matrix=matrix,
        calibration=calibration,
        kind=(task.one, task.many),
        masks=MASKS_SHOWN if task.per_pixel else "",
        colours=task.colours(len(outcome.classes)) if outcome and task.per_pixel else [],
        scatter=charts.scatter_chart(outcome) if outcome and outcome.points else None,
        phases=phases,
        savings=savings_text(savings_of(record.epochs)),
    )


def compare_page(one: RunRecord, other: RunRecord) -> str:
    """The page of two runs side by side, an HTML document."""
    runs = (one, other)
    lanes = [charts.lanes(run) for run in runs]
    matrices = [matrix_of(run.outcome) for run in runs]
    recall = charts.compared_recall(runs)
    sections = [
        ("training", "Training curves", one.epochs or other.epochs),
        ("frozen", "Trained and frozen layer groups", any(lanes)),
        ("results", "Results", recall),
        ("confusion", "Confusion matrix", any(matrices)),
        ("reproduce", "Reproduce", True),
    ]
    return _rendered(
        "compare.html.j2",
        runs,
        sections,
        runs=runs,
        figures=figures_of(runs),
        charts=charts.compared_charts(runs),
        lanes=lanes,
        matrices=matrices,
        recall=recall,
        differences=differences(runs),
    )


def _rendered(
    template: str,
    records: Sequence[RunRecord],
    sections: Sequence[tuple[str, str, object]],
    **values: Any,
) -> str:
    script = _file("page.js")
    styles = [_file("page.css")]
    styles += [
        _group_styles(f".groups-{i}", [group.colour for group in record.network.groups])
        for i, record in enumerate(records)
    ]
    page = _environment().get_template(template)
    html = page.render(
        values,
        sections=[(name, heading) for name, heading, shown in sections if shown],
        title=" and ".join(record.title for record in records),
        policy=_policy(script),
        script=Markup(script),  # our own file
        style=Markup("".join(styles)),  # our own file and checked colours
        script_data=[script_data(record.outcome) for record in records],
        setup=records[-1].setup,
    )
    return formatting.printable(html)


@cache
def _environment() -> Environment:
    """The template environment; it escapes all text, such as a class named `<img onerror=…>`."""
    made = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {name: getattr(formatting, name) for name in _FILTERS}
    made.filters |= {"picture": safe_picture, "some_rows": some_rows}
    return made


def _group_styles(scope: str, colours: Sequence[str]) -> str:
    """The colours of layer groups as CSS variables; page.css gives them contrast."""
    checked = (c if _HEX.fullmatch(c) else "#808080" for c in colours)
    own = "".join(f"--g{i}:{colour};" for i, colour in enumerate(checked))
    return f"{scope}{{{own}}}" + "".join(f".g{i}{{--c:var(--g{i})}}" for i in range(len(colours)))


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """A content security policy that allows only embedded pictures, styles and this script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
