"""What the page shows of a record: charts, calibration, confusion matrix."""

from __future__ import annotations

import io
from base64 import b64decode
from dataclasses import replace

from PIL import Image
from tests.reports.runs import made_up

from layergroups.reports import Calibration
from layergroups.reports.page import run_page
from layergroups.reports.page._confusion_matrix import matrix_of
from layergroups.reports.page._run_charts import calibration_chart, training_charts
from layergroups.reports.run import Cell


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


def test_many_classes_are_a_heat_map_with_the_most_frequent_errors() -> None:
    names = tuple(f"class {i}" for i in range(200))
    right = [Cell(i, i, 9) for i in range(200)]
    wrong = [Cell(i, (i + 3) % 200, 1 + (i == 77)) for i in range(200)]
    record = made_up(names)
    outcome = replace(record.outcome, cells=(*right, *wrong))
    found = matrix_of(outcome)
    assert (found.rows, len(found.confused), found.errors) == ([], 10, 200)
    assert found.confused[0][1:] == ("class 77", "class 80", 11)
    with Image.open(io.BytesIO(b64decode(found.picture.partition(",")[2]))) as picture:
        assert picture.size == (200, 200)
        blank, correct, error = (picture.getpixel(at) for at in ((5, 0), (0, 0), (3, 0)))
    assert blank[3] == 0
    assert correct[2] > correct[0] > 0
    assert error[0] > error[2]
    assert run_page(replace(record, outcome=outcome)).count("<button") == 10
