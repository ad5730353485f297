"""The confusion matrix of the page."""

from __future__ import annotations

import io
from base64 import b64decode
from dataclasses import replace

from PIL import Image
from tests.reports.runs import made_up

from layergroups.reports.page import run_page
from layergroups.reports.page._confusion_matrix import matrix_of
from layergroups.reports.run import Cell


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
