"""The page as a whole: one file, which asks for nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from layergroups._formatting import moment
from layergroups.reports.page._markup import Content, Html, markup, script_json, tag
from layergroups.reports.page._page_charts import cell_styles, group_styles
from layergroups.reports.page._page_compare import (
    compared_groups,
    compared_header,
    compared_learning,
    compared_result,
    compared_setup,
)
from layergroups.reports.page._sections import (
    costs,
    data,
    header,
    learning,
    network,
    photos_for_script,
    result,
    setup,
    worst,
)
from layergroups.reports.run._record import RunRecord

DATA: Final = "run-data"
_WORST = (
    "As the model saw them; beside each photo the places that spoke for its answer (Grad-CAM), the "
    "brighter the more."
)
Section = tuple[str, str, Content]


def run_page(record: RunRecord) -> str:
    """The page of a run, a whole HTML document; it depends on the record only."""
    sections: list[Section] = []
    if record.epochs:
        sections.append(("learning", "How it learned", learning(record)))
    outcome = record.outcome
    if outcome is not None:
        title = "What it gets right, and what it mistakes"
        if outcome.task == "regression":
            title = "How near it comes"
        sections.append(("result", title, result(outcome)))
        if outcome.worst:
            shown = [tag("p", _WORST, class_="hint"), worst(outcome.worst, outcome.task)]
            sections.append(("losses", "The highest losses", shown))
    sections.append(("network", "The network in its layer groups", network(record.network)))
    sections.append(("data", "The data", data(record.data)))
    sections.append(("cost", "Time and memory", costs(record)))
    sections.append(("again", "How to do it again", setup(record.setup)))
    return _document(record.title, header(record), sections, [record])


def compare_page(one: RunRecord, other: RunRecord) -> str:
    """The page of two runs side by side, a whole HTML document."""
    runs = (one, other)
    sections: list[Section] = [
        ("learning", "How they learned", compared_learning(runs)),
        ("groups", "Which group trained when", compared_groups(runs)),
        ("result", "What they get right, and what they mistake", compared_result(runs)),
        ("again", "How they were made", compared_setup(runs)),
    ]
    title = f"{one.title} and {other.title}"
    return _document(title, compared_header(runs), sections, runs)


def _document(
    title: str, top: Html, sections: Sequence[Section], records: Sequence[RunRecord]
) -> str:
    script, style = (_file(name) for name in ("page.js", "page.css"))
    styles = [style, cell_styles()]
    styles += [
        group_styles(f".groups-{i}", [group.colour for group in record.network.groups])
        for i, record in enumerate(records)
    ]
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script)),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html("".join(styles))),
    )
    photos: list[Any] = [photos_for_script(record.outcome) for record in records]
    body = tag(
        "body",
        tag("a", "To the content", href="#main", class_="skip"),
        tag("div", top, _contents(sections), class_="top"),
        tag("main", [_section(*section) for section in sections], id="main"),
        tag("footer", _made(records)),
        script_json(photos, id=DATA),
        tag("script", Html(script)),
        class_="groups-0",
    )
    return f"<!doctype html>\n{tag('html', head, body, lang='en')}\n"


def _section(name: str, title: str, content: Content) -> Html:
    return tag("section", tag("h2", title), content, id=name, aria_label=title)


def _contents(sections: Sequence[Section]) -> Html:
    links = [tag("li", tag("a", title, href=f"#{name}")) for name, title, _ in sections]
    return tag("nav", tag("ul", links), aria_label="contents")


def _made(records: Sequence[RunRecord]) -> Html:
    last = records[-1].setup
    version = last.versions.get("layergroups", "")
    said = f"Made by layergroups {version}".strip()
    return markup(f"{said}, {moment(last.created)}" if last.created else said, ".")


def _file(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(script: str) -> str:
    """What a browser lets the page do: show itself, its own pictures, and run this script only."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
