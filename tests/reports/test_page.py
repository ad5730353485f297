"""The page of a run as text: whole, small, readable, and safe from what the data are called."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser

import pytest
from tests.reports.runs import NASTY, made_up, numbers, picture, several_labels, tiny_run

from layergroups.reports.page import compare_page, run_page
from layergroups.reports.page._markup import markup, script_json, tag
from layergroups.reports.page._page_charts import (
    DARK,
    LIGHT,
    cell_styles,
    contrast,
    linear_axis,
    rate_axis,
    visible,
)
from layergroups.reports.page._sections import worst
from layergroups.reports.run._record import Cell, Photo

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
    bad = Photo("x.jpg", "a", "b", 0.5, 1.0, *uris)
    outcome = replace(record.outcome, worst=(bad,), photos=(bad,) * 3)
    page = run_page(replace(record, outcome=outcome))
    assert "example.org" not in page
    assert not [1 for element, _ in Reader(page).elements if element == "img"]


def test_the_largest_page_stays_below_five_megabytes() -> None:
    names = tuple(f"class number {i}" for i in range(1000))
    record = made_up(names, groups=40, epochs=3000)
    thumb = picture(side=112) + "A" * 3000
    photos = tuple(Photo(f"folder/{i}.jpg", "a", "b", 0.5, 1.0, thumb) for i in range(380))
    cells = tuple(Cell(i, (i * 7) % 1000, 3, (i % 380,)) for i in range(1000))
    outcome = replace(record.outcome, photos=photos, cells=cells, worst=photos[:9])
    large = replace(record, outcome=outcome)
    assert sum(len(photo.thumb) for photo in photos) > 1_400_000
    assert len(run_page(large).encode()) < 5_000_000
    assert len(compare_page(large, large).encode()) < 5_000_000


def test_the_page_tells_the_story_in_its_order() -> None:
    read = Reader(run_page(tiny_run()))
    sections = [a["id"] for element, a in read.elements if element == "section"]
    assert sections == ["learning", "result", "losses", "network", "data", "cost", "again"]
    text = " ".join(read.texts)
    assert "First “1” alone trained for 1 epoch, then all layer groups for 2 epochs" in text
    assert "layergroups train 'my photos'" in text
    assert "passes of the frozen layers" in text


def test_every_cell_with_photos_is_a_button_with_a_name() -> None:
    record = tiny_run()
    buttons = [a for element, a in Reader(run_page(record)).elements if element == "button"]
    cells = {f"{cell.actual}-{cell.predicted}" for cell in record.outcome.cells}
    assert {button["data-cell"] for button in buttons} == cells
    assert all(button["aria-label"] for button in buttons)


def test_every_chart_has_its_numbers_in_a_table() -> None:
    read = Reader(run_page(tiny_run()))
    charts = [a for element, a in read.elements if element == "svg" and a.get("role") == "img"]
    assert len(charts) == 4
    assert all("The numbers are in the table below" in (a["aria-label"] or "") for a in charts)


def test_a_result_of_numbers_has_no_matrix_and_one_of_labels_none_either() -> None:
    for page, heading in ((run_page(numbers()), "actual"), (run_page(several_labels()), "sky")):
        assert 'class="matrix"' not in page
        assert heading in page
    assert "R²" in run_page(numbers())


def test_a_photo_tells_what_it_was_taken_for_and_what_it_is() -> None:
    photo = Photo("a.jpg", "skirt", "dress", 0.973, 7.5)
    said = " ".join(Reader(worst([photo], "multiclass")).texts)
    assert "taken for dress , 97.3 % sure is skirt" in re.sub(r"\s+", " ", said)
    said = " ".join(Reader(worst([replace(photo, score=None)], "regression")).texts)
    assert "said dress is skirt" in re.sub(r"\s+", " ", said)


def test_the_page_tells_the_calibration_error_of_the_record() -> None:
    outcome = replace(made_up().outcome, calibration_error=0.203)
    texts = Reader(run_page(replace(made_up(), outcome=outcome))).texts
    assert "expected calibration error" in texts
    assert "20.3 %" in texts


def test_colours_can_be_told_from_the_ground_and_text_can_be_read() -> None:
    for colour in ("#0b559f", "#5aaedb", "#d55e00", "#fde725", "#ffffff", "#000000"):
        assert contrast(visible(colour, LIGHT), LIGHT) >= 3
        assert contrast(visible(colour, DARK), DARK) >= 3
    shades = re.findall(r"background:(#\w{6});color:(#\w{6})", cell_styles())
    assert len(shades) == 44
    assert min(contrast(*pair) for pair in shades) >= 4.5


def test_axes_have_round_numbers_around_their_values() -> None:
    axis = linear_axis([0.13, 0.87])
    assert [label for _, label in axis.ticks] == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert (axis.low, axis.high) == (0.0, 1.0)
    assert linear_axis([2.0, 2.0]).low < 2 < linear_axis([2.0, 2.0]).high
    assert linear_axis([float("nan")]).high > linear_axis([]).low
    rates = rate_axis([1e-5, 3e-3])
    assert rates.log
    assert [label for _, label in rates.ticks] == ["1e-5", "1e-4", "1e-3", "1e-2"]
    assert rates.place(1e-5) == 0
    assert not rate_axis([1e-3, 2e-3]).log


def test_markup_escapes_everything_but_markup() -> None:
    made = tag("p", "<b>", tag("i", "&"), title='"<')
    assert made == '<p title="&quot;&lt;">&lt;b&gt;<i>&amp;</i></p>'
    assert markup(None, ["a", 1]) == "a1"
    assert tag("a", hidden=True, id=None, class_="x") == '<a hidden class="x"></a>'
    inside = script_json({"x": "</script><!-- &"})
    assert inside.count("</script>") == 1
    assert "<!--" not in inside
