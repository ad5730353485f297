"""Two runs side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from layergroups._formatting import figure, moment, percent
from layergroups.reports.page._markup import Content, Html, tag
from layergroups.reports.page._page_charts import (
    Line,
    epoch_axis,
    line_chart,
    linear_axis,
    scrolled,
    table_of,
)
from layergroups.reports.page._sections import confusions, lanes
from layergroups.reports.run._narrative import differences, figures_of, per_class
from layergroups.reports.run._record import EpochFacts, RunRecord

LETTERS = ("A", "B")


def compared_header(runs: Sequence[RunRecord]) -> Html:
    """Which two runs these are, and their figures beside each other."""
    named = [
        tag("li", tag("span", letter, class_=f"letter run-{i}"), run.title, " ",
            tag("span", moment(run.setup.created), class_="when"))
        for i, (letter, run) in enumerate(zip(LETTERS, runs, strict=True))
    ]  # fmt: skip
    return tag(
        "header",
        tag("p", "Two runs of layergroups", class_="eyebrow"),
        tag("h1", _title(runs)),
        tag("ol", named, class_="runs"),
        figures_table(runs),
    )


def _title(runs: Sequence[RunRecord]) -> str:
    one, other = (run.title for run in runs)
    return f"{one}, two runs" if one == other else f"{one} and {other}"


def figures_table(runs: Sequence[RunRecord]) -> Html:
    """A row for each figure that one of them has."""
    rows = [(name, *values) for name, *values in figures_of(runs)]
    return scrolled(table_of(("", *LETTERS), rows), "figures of both runs")


def compared_learning(runs: Sequence[RunRecord]) -> Html:
    """Losses and metrics of both over the same epochs."""
    metrics = list(dict.fromkeys(n for run in runs for row in run.epochs for n in row.metrics))
    charts = [_both(runs, "Validation loss", "loss", lambda row: row.valid_loss)]
    charts += [_both(runs, name.capitalize(), name, partial(_metric, name)) for name in metrics]
    charts.append(_both(runs, "Training loss", "loss", lambda row: row.train_loss))
    return tag("div", [chart for chart in charts if chart is not None], class_="charts")


def _both(
    runs: Sequence[RunRecord], title: str, unit: str, value: Callable[[EpochFacts], float | None]
) -> Html | None:
    lines = [
        Line(letter, _known(run.epochs, value), f"run-{i}", dash=i)
        for i, (letter, run) in enumerate(zip(LETTERS, runs, strict=True))
    ]
    lines = [line for line in lines if line.points]
    if not lines:
        return None
    longest = max((run.epochs for run in runs), key=len)
    rows = [
        (str(i), *(figure(value(run.epochs[i])) if i < len(run.epochs) else "–" for run in runs))
        for i in range(len(longest))
    ]
    return line_chart(
        title, lines, epoch_axis([i for i, _ in enumerate(longest)]),
        linear_axis([b for line in lines for _, b in line.points]),
        table=table_of(("row", *LETTERS), rows), y_label=unit, x_label="row of the history",
    )  # fmt: skip


def _known(
    epochs: Sequence[EpochFacts], value: Callable[[EpochFacts], float | None]
) -> list[tuple[float, float]]:
    found = [(i + 0.5, value(row)) for i, row in enumerate(epochs)]
    return [(place, number) for place, number in found if number is not None]


def _metric(name: str, row: EpochFacts) -> float | None:
    return row.metrics.get(name)


def sides(runs: Sequence[RunRecord], parts: Sequence[Content]) -> Html:
    """A part of each run, beside each other where there is room."""
    columns = [
        tag("div", tag("h3", tag("span", letter, class_=f"letter run-{i}"), run.title), part,
            class_=f"side groups-{i}")
        for i, (letter, run, part) in enumerate(zip(LETTERS, runs, parts, strict=True))
    ]  # fmt: skip
    return tag("div", columns, class_="sides")


def compared_result(runs: Sequence[RunRecord]) -> Html:
    """Both matrices, and the recall of each class in both."""
    parts = [
        confusions(run.outcome, i) if run.outcome and run.outcome.task == "multiclass" else None
        for i, run in enumerate(runs)
    ]
    return tag("div", sides(runs, parts) if any(parts) else None, _classes(runs))


def compared_groups(runs: Sequence[RunRecord]) -> Html:
    """Which group trained when, in both."""
    return sides(runs, [lanes(run) for run in runs])


def compared_setup(runs: Sequence[RunRecord]) -> Html:
    """The commands, and all settings, versions and facts that differ."""
    commands = [
        tag("pre", tag("code", run.setup.command), tabindex=0, role="region", aria_label="command")
        for run in runs
    ]
    rows = differences(runs)
    table = scrolled(table_of(("what differs", *LETTERS), rows), "what differs")
    same = tag("p", "Settings, versions, machine and data are the same.", class_="hint")
    return tag("div", sides(runs, commands), table if rows else same)


def _classes(runs: Sequence[RunRecord]) -> Html | None:
    found = [
        {name: recall for name, _, _, recall, _ in per_class(run.outcome)} if run.outcome else {}
        for run in runs
    ]
    names = [name for name in found[0] if name in found[1]]
    if not names:
        return None
    rows = [(name, percent(found[0][name]), percent(found[1][name]), _points(found, name))
            for name in names]  # fmt: skip
    table = table_of(("recall", *LETTERS, "B − A"), rows)
    return tag("div", tag("h3", "Found of each class"), scrolled(table, "recall of each class"))


def _points(found: Sequence[dict[str, float | None]], name: str) -> str:
    one, other = (values[name] for values in found)
    return "–" if one is None or other is None else f"{(other - one) * 100:+.1f} points"
