"""The cells of the table of layer groups."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.laws.models import TinyResNet, image

from layergroups import LayerGroups
from layergroups._formatting import plain_text
from layergroups.groups._group_table import HEADINGS, GroupRow, GroupTable, group_cells

ROW = GroupRow(
    index=1, name="late", blocks=("a", "b", "c"), layers=7, parameters=1234, trainable=1234,
    by_user=0, frozen=False, rate=0.00025, reason="the resolution falls",
)  # fmt: skip


def test_a_cell_for_each_heading_and_the_reason() -> None:
    cells = dict(zip((*HEADINGS, "reason"), group_cells(ROW), strict=True))
    assert cells == {
        "#": "1", "group": "late", "blocks": "3: a … c", "layers": "7", "parameters": "1,234",
        "trainable": "1,234", "rate": "2.5e-4", "reason": "the resolution falls",
    }  # fmt: skip


@pytest.mark.parametrize(("blocks", "cell"), [((), "-"), (("fc",), "1: fc")])
def test_few_blocks(blocks: tuple[str, ...], cell: str) -> None:
    assert group_cells(replace(ROW, blocks=blocks))[2] == cell


@pytest.mark.parametrize(
    ("frozen", "trainable", "by_user", "cell"),
    [
        (True, 0, 0, "frozen"),
        (True, 20, 0, "20"),  # norms that train
        (False, 0, 1234, "frozen by user"),
        (False, 1000, 234, "1,000 (rest by user)"),
        (False, 0, 0, "0"),  # a rate of 0
    ],
)
def test_the_trainable_cell_names_the_reason(
    frozen: bool, trainable: int, by_user: int, cell: str
) -> None:
    row = replace(ROW, frozen=frozen, trainable=trainable, by_user=by_user)
    assert group_cells(row)[5] == cell
    assert ("frozen by the user" in repr(row)) == bool(by_user)


def test_the_table_has_a_row_for_each_group() -> None:
    text = plain_text(GroupTable([ROW, replace(ROW, index=2, name="head")], "Title"), 160)
    assert "Title" in text
    assert [line.split()[:2] for line in text.splitlines() if "1,234" in line] == [
        ["1", "late"],
        ["2", "head"],
    ]


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_the_table_fits_its_place_and_loses_nothing(width: int) -> None:
    long = replace(ROW, name="late-2", blocks=("0.body.blocks.3.0", "0.body.conv_head"))
    rows = [replace(long, reason="the resolution falls 16 → 8, 1/16 of the image"), long]
    text = plain_text(GroupTable(rows, "Layer groups of EfficientNet (rule: auto)"), width)
    assert max(map(len, text.splitlines())) <= width
    words = set(text.split())
    assert {"#", "trainable", "rate", "2.5e-4", "0.body.blocks.3.0", "1/16"} <= words
    reasons = [line for line in text.splitlines() if "falls 16" in line]
    assert ("2:" in reasons[0]) == (width >= 160)


def test_print_asks_the_terminal_for_its_width(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = LayerGroups(TinyResNet(), example_input=image())
    piped = str(groups)
    monkeypatch.setenv("COLUMNS", "80")
    assert str(groups) == piped
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert max(map(len, str(groups).splitlines())) <= 80 < max(map(len, piped.splitlines()))
