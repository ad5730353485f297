"""The page of a run as text: whole, small, readable, and safe from what the data are called."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest
from tests.reports.runs import NASTY, made_up, numbers, picture, several_labels, tiny_run

from layergroups.reports.page import compare_page, run_page
from layergroups.reports.run import Cell, ShownItem

NAMES = ("tiny", "nasty", "several labels", "numbers", "bare", "two")


VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    """What a browser would make of a page: elements, their attributes, text, and what is open."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.wrong: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@cache
def pages() -> dict[str, str]:
    return {
        "tiny": run_page(tiny_run()),
        "nasty": run_page(made_up()),
        "several labels": run_page(several_labels()),
        "numbers": run_page(numbers()),
        "bare": run_page(replace(made_up(), epochs=(), outcome=None)),
        "two": compare_page(made_up(), tiny_run()),
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_element_is_closed_and_nothing_is_fetched(name: str) -> None:
    read = Reader(pages()[name])
    assert (read.wrong, read.open) == ([], [])
    for element, attributes in read.elements:
        source = attributes.get("src") or attributes.get("href") or ""
        assert source.startswith(("data:image/", "#")) or not source, source
        assert element not in ("link", "iframe", "object", "embed")
    text = pages()[name]
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    assert "url(" not in text


def test_names_from_the_data_are_shown_and_never_become_markup() -> None:
    for page in (run_page(made_up()), compare_page(made_up(), made_up())):
        read = Reader(page)
        scripts = [attributes for element, attributes in read.elements if element == "script"]
        assert [script.get("type") for script in scripts] == ["application/json", None]
        assert all("onerror" not in attributes for _, attributes in read.elements)
        assert all(not name.startswith("on") for _, a in read.elements for name in a)
        assert "<img src=x" not in page
        assert any(NASTY[0] in text for text in read.texts)


def test_a_policy_lets_only_the_own_script_run() -> None:
    read = Reader(run_page(made_up()))
    (policy,) = [a["content"] for _, a in read.elements if a.get("http-equiv")]
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'", policy)


def test_pictures_that_are_none_are_left_out() -> None:
    record = made_up()
    uris = ("https://example.org/x.jpg", 'data:image/jpeg;base64,"')
    bad = ShownItem("x.jpg", "a", "b", 0.5, 1.0, *uris)
    outcome = replace(record.outcome, worst=(bad,), shown=(bad,) * 3)
    page = run_page(replace(record, outcome=outcome))
    assert "example.org" not in page
    assert not [1 for element, _ in Reader(page).elements if element == "img"]


def test_the_largest_page_stays_below_five_megabytes() -> None:
    names = tuple(f"class number {i}" for i in range(1000))
    record = made_up(names, groups=40, epochs=3000)
    thumb = picture(side=112) + "A" * 3000
    photos = tuple(ShownItem(f"folder/{i}.jpg", "a", "b", 0.5, 1.0, thumb) for i in range(380))
    cells = tuple(Cell(i, (i * 7) % 1000, 3, (i % 380,)) for i in range(1000))
    outcome = replace(record.outcome, shown=photos, cells=cells, worst=photos[:9])
    large = replace(record, outcome=outcome)
    assert sum(len(photo.thumb) for photo in photos) > 1_400_000
    assert len(run_page(large).encode()) < 5_000_000
    assert len(compare_page(large, large).encode()) < 5_000_000


def test_the_page_tells_the_story_in_its_order() -> None:
    read = Reader(run_page(tiny_run()))
    sections = [a["id"] for element, a in read.elements if element == "section"]
    assert sections == [
        "training", "results", "confusion", "calibration", "errors", "network", "data",
        "time", "reproduce",
    ]  # fmt: skip
    text = " ".join(read.texts)
    assert "only “1” for 1 epoch, then all layer groups for 2 epochs" in text
    assert "layergroups train 'my photos'" in text
    assert "passes of the frozen layers" in text


def test_every_cell_with_items_is_a_button_with_a_name() -> None:
    record = tiny_run()
    buttons = [a for element, a in Reader(run_page(record)).elements if element == "button"]
    cells = {f"{cell.actual}-{cell.predicted}" for cell in record.outcome.cells}
    assert {button["data-cell"] for button in buttons} == cells
    assert all(button["aria-label"] for button in buttons)


def test_every_chart_has_its_numbers_in_a_table() -> None:
    read = Reader(run_page(tiny_run()))
    charts = [a for element, a in read.elements if element == "svg" and a.get("role") == "img"]
    assert len(charts) == 4  # loss, accuracy, learning rates, calibration
    assert all("The numbers are in the table below" in (a["aria-label"] or "") for a in charts)


def test_a_result_of_numbers_has_no_matrix_and_one_of_labels_none_either() -> None:
    for page, heading in ((run_page(numbers()), "actual"), (run_page(several_labels()), "sky")):
        assert 'class="matrix"' not in page
        assert heading in page
    assert "R²" in run_page(numbers())


def test_an_item_shows_prediction_confidence_and_truth() -> None:
    record = numbers()
    for confidence, shown in ((0.973, "97.3\xa0%"), (None, "")):
        item = ShownItem("a.jpg", "skirt", "dress", confidence, 7.5)
        page = run_page(replace(record, outcome=replace(record.outcome, worst=(item,))))
        part = re.sub(r"<[^>]+>", " ", page.split('<ul class="worst">')[1].split("</ul>")[0])
        assert re.search(rf"dress.*{shown}.*skirt.*a\.jpg.*7\.5", part, re.DOTALL)
        assert ("%" in part) is (confidence is not None)


def test_the_page_tells_the_calibration_error_of_the_record() -> None:
    calibration = made_up().outcome.calibration
    outcome = replace(made_up().outcome, calibration=replace(calibration, error=0.203))
    assert "20.3 %" in Reader(run_page(replace(made_up(), outcome=outcome))).texts
