"""The network, the data, what it cost, and how to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from layergroups.reports.network_picture import Row, Stack
from layergroups.reports.page.charts import scrolled, table_of
from layergroups.reports.page.learning import swatch
from layergroups.reports.page.markup import Html, tag
from layergroups.reports.run_facts import DataFacts, NetworkFacts, SetupFacts
from layergroups.reports.run_record import RunRecord
from layergroups.reports.telling import phases_of, savings_of, savings_text
from layergroups.reports.words import count, duration, memory, rate, shape, short

_BROKEN: Final = 200
_OPEN_CLASSES: Final = 40


# The network


def network(facts: NetworkFacts) -> Html:
    """The blocks from input to output, in their groups; bars are in proportion to parameters."""
    blocks = [row for group in facts.groups for row in group.rows]
    most = max((row.parameters for row in blocks), default=1)
    groups = [_group(group, i, most) for i, group in enumerate(facts.groups)]
    rule = f" Divided by the rule: {facts.rule}." if facts.rule else ""
    words = f"Input on top, output below; bars are in proportion to parameters.{rule}"
    return tag("div", tag("p", words, class_="hint"), tag("ol", groups, class_="stack"))


def _group(group: Stack, i: int, most: int) -> Html:
    state = "frozen" if group.frozen else f"trains at {rate(group.rate)}"
    facts = (
        f"{count(group.blocks, 'block')}, {short(group.parameters)} parameters, {state} at the end"
    )
    reason = f"{group.reason[:1].upper()}{group.reason[1:]}"
    return tag(
        "li",
        tag("h3", swatch(i), group.name), tag("p", facts, class_="facts"),
        tag("p", f"Begins here: {group.reason}" if i else reason, class_="reason")
        if group.reason else None,
        tag("ol", [_block(row, most, group.frozen) for row in group.rows], class_="blocks"),
        class_="group", style=f"--c:var(--g{i},#808080)",
    )  # fmt: skip


def _block(row: Row, most: int, frozen: bool) -> Html:
    width = max(0.4, 100 * row.parameters / max(1, most))
    look = "fill frozen" if frozen else "fill"
    fill = tag("span", class_=look, style=f"width:{width:.1f}%")
    bar = tag("span", fill, class_="track", aria_hidden="true")
    return tag(
        "li", tag("span", row.name, class_="name"), bar,
        tag("span", short(row.parameters), class_="size"),
        tag("span", shape(row.shape), class_="shape"),
    )  # fmt: skip


# The data


def data(facts: DataFacts) -> Html:
    """How many items of each class, what was done to them, and which could not be read."""
    return tag("div", _counts(facts), pairs(facts.facts), _broken(facts))


def _counts(facts: DataFacts) -> Html | None:
    if not facts.counts:
        return None
    most = max(max(t, v) for _, t, v in facts.counts) or 1
    rows = [
        (name, f"{t:,}", _bar(t / most), f"{v:,}", _bar(v / most)) for name, t, v in facts.counts
    ]
    table = table_of(("class", "to learn from", "", "to measure with", ""), rows)
    shown = scrolled(table, "items of each class")
    if len(rows) <= _OPEN_CLASSES:
        return shown
    return tag("details", tag("summary", f"{len(rows)} classes"), shown)


def _bar(part: float) -> Html:
    return tag("svg", tag("rect", width=f"{100 * part:.1f}", height="10", class_="c0"),
               viewBox="0 0 100 10", preserveAspectRatio="none", class_="meter",
               aria_hidden="true")  # fmt: skip


def _broken(facts: DataFacts) -> Html:
    if not facts.broken:
        return tag("p", "No broken files were left out.", class_="hint")
    rows = [tag("li", tag("code", path), f": {reason}") for path, reason in facts.broken[:_BROKEN]]
    more = len(facts.broken) - _BROKEN
    title = f"{count(len(facts.broken), 'broken file')} left out"
    listed = tag("ul", rows, tag("li", f"and {more:,} more") if more > 0 else None, class_="broken")
    return tag("div", tag("h3", title), listed)


# What it cost


def costs(record: RunRecord) -> Html:
    """Time and memory of each phase, and what stored outputs saved."""
    phases = phases_of(record.epochs)
    total = record.seconds or 1.0
    devices = any(phase.device_memory is not None for phase in phases)
    headings = ["phase", "epochs", "time", "", "memory", *(["on the device"] if devices else [])]
    rows = [
        [p.name, str(len(p.rows)), duration(p.seconds), _bar(p.seconds / total), memory(p.memory),
         *([memory(p.device_memory)] if devices else [])]
        for p in phases
    ]  # fmt: skip
    savings = savings_of(record.epochs)
    saved = savings_text(savings) if savings else "No outputs of frozen layers were stored."
    caption = "Memory: the most that the process had held by the end of the phase."
    return tag("div", scrolled(table_of(headings, rows, caption), "time and memory"),
               tag("h3", "What the feature store saved"), tag("p", saved))  # fmt: skip


# How to do it again


def setup(facts: SetupFacts) -> Html:
    """Command, settings, versions, machine."""
    command = tag("pre", tag("code", facts.command), tabindex="0", role="region",
                  aria_label="command") if facts.command else None  # fmt: skip
    parts = (("Settings", facts.settings), ("Versions", facts.versions), ("Machine", facts.machine))
    listed = [
        tag("div", tag("h3", title), pairs(values)) for title, values in parts if values
    ]  # fmt: skip
    return tag("div", command, tag("div", listed, class_="columns"))


def pairs(values: Mapping[str, str]) -> Html | None:
    """Names and values, one below the other."""
    items = [tag("div", tag("dt", name), tag("dd", value)) for name, value in values.items()]
    return tag("dl", items, class_="named") if items else None
