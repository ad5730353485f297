"""What the page shows of a record: charts, calibration, confusion matrix."""

from __future__ import annotations

from dataclasses import replace

from tests.reports.runs import made_up

from layergroups.reports import Calibration
from layergroups.reports.page._run_charts import calibration_chart, training_charts


def test_dots_of_a_calibration_grow_with_the_predictions_behind_them() -> None:
    outcome = made_up().outcome
    calibration = Calibration.from_means([(0.1, 0.0, 1), (0.5, 0.4, 50), (0.9, 0.9, 400)])
    chart = calibration_chart(replace(outcome, calibration=calibration))
    single, some, many = (dot.size for dot in chart.dots(chart.lines[1]))
    assert single < some / 2 < some < many


def test_metrics_of_different_scale_have_a_chart_of_their_own() -> None:
    rows = [
        replace(row, metrics={"mae": 7.0, "accuracy": 0.5, "f1": 0.25}) for row in made_up().epochs
    ]
    lines = [{line.name for line in chart.lines} for chart in training_charts(
        replace(made_up(), epochs=tuple(rows))
    )]  # fmt: skip
    assert lines[1:3] == [{"accuracy", "f1"}, {"mae"}]
