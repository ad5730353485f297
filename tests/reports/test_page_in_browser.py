"""The page of a run in a real browser: clicked, tabbed, narrow, dark, printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from tests.reports.browser import Browser, browser, why_no_browser
from tests.reports.runs import made_up, numbers, several_labels, tiny_run

from layergroups.reports import RunReport

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser()),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]
PHOTOS = "return [...document.querySelectorAll('.items img')].map((i) => i.naturalWidth);"
FOCUS = "return document.activeElement.getAttribute('aria-label') ?? document.activeElement.text;"
PAGES = ("tiny", "nasty", "numbers", "labels", "two", "twelve", "many")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    records = {
        "tiny": (tiny_run(),), "nasty": (made_up(),), "numbers": (numbers(),),
        "labels": (several_labels(),), "two": (tiny_run(), made_up()),
        "twelve": (made_up(tuple(f"class number {i}" for i in range(12))),),
        "many": (made_up(tuple(f"class number {i}" for i in range(60))),),
    }  # fmt: skip
    written = {name: RunReport(r).save(folder / f"{name}.html").path for name, r in records.items()}
    return {name: path for name, path in written.items() if path is not None}


def test_a_click_on_a_cell_shows_its_photos(seen: Browser, pages: dict[str, Path]) -> None:
    seen.look(1280)
    seen.open(pages["tiny"])
    for cell in tiny_run().outcome.cells:
        seen.run("document.querySelector(arguments[0]).click();",
                 f".matrix [data-cell='{cell.actual}-{cell.predicted}']")  # fmt: skip
        widths = seen.run(PHOTOS)
        assert len(widths) == cell.count
        assert all(width > 0 for width in widths)
    assert seen.run("return document.querySelectorAll('.matrix [aria-pressed=true]').length;") == 1


def test_the_keyboard_alone_is_enough(seen: Browser, pages: dict[str, Path]) -> None:
    from selenium.webdriver.common.keys import Keys

    seen.look(1280)
    seen.open(pages["tiny"])
    seen.press(Keys.TAB)
    assert seen.run(FOCUS) == "Skip to content"
    for _ in range(40):
        seen.press(Keys.TAB)
        if seen.run("return document.activeElement.matches('.matrix button');"):
            break
    first = seen.run(FOCUS)
    seen.press(Keys.ENTER)
    assert seen.run(PHOTOS)
    assert seen.run("return document.querySelector('.panel h3').textContent;") == first
    seen.press(Keys.ARROW_RIGHT)
    seen.press(Keys.ARROW_DOWN)
    assert seen.run(FOCUS) != first
    seen.press(Keys.SPACE)
    assert seen.run("return document.querySelector('.panel h3').textContent;") == seen.run(FOCUS)
    seen.press(Keys.HOME)
    assert seen.run(FOCUS) == first
    seen.press(Keys.TAB)
    assert not seen.run("return document.activeElement.matches('.matrix button');")


@pytest.mark.parametrize("name", PAGES)
def test_nothing_is_fetched_and_nothing_complains(
    seen: Browser, pages: dict[str, Path], name: str
) -> None:
    seen.look(1280)
    seen.requests(), seen.console()
    seen.open(pages[name])
    seen.run("document.querySelector('[data-cell]')?.click();")
    asked = [url for url in seen.requests() if not url.startswith("data:image/")]
    assert asked == [pages[name].as_uri()]
    assert seen.console() == []


def test_names_of_the_data_run_nothing(seen: Browser, pages: dict[str, Path]) -> None:
    seen.open(pages["nasty"])
    seen.run("for (const b of document.querySelectorAll('[data-cell]')) b.click();")
    assert seen.run("return document.querySelectorAll('img[onerror]').length;") == 0
    assert seen.run("return document.scripts.length;") == 2
    assert seen.run("return document.querySelector('.panel').textContent;").count("onerror") >= 1


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("width", [360, 768, 1280])
def test_it_fits_is_large_enough_and_has_contrast(
    seen: Browser, pages: dict[str, Path], tmp_path: Path, name: str, width: int
) -> None:
    for dark in (False, True):
        seen.look(width, dark=dark)
        seen.open(pages[name])
        seen.run("document.querySelectorAll('details').forEach((d) => { d.open = true; });")
        seen.run("document.querySelector('[data-cell]')?.click();")
        assert seen.too_wide() == []
        assert seen.run("return document.documentElement.scrollWidth;") <= width
        assert seen.too_small() == []
        assert seen.too_pale() == []
        with Image.open(seen.shot(tmp_path / f"{name}-{width}-{dark}.png")) as picture:
            assert picture.width == width
            corner = picture.convert("L").getpixel((2, 2))
        assert corner < 60 if dark else corner > 200


def test_no_table_of_a_result_or_of_costs_is_cut_on_a_phone(
    seen: Browser, pages: dict[str, Path]
) -> None:
    seen.look(360)
    seen.open(pages["tiny"])
    cut = """return [...document.querySelectorAll('#results .scroll, #time .scroll')]
      .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth)
      .map((e) => e.ariaLabel);"""
    assert seen.run(cut) == []
    values = "return [...document.querySelectorAll('.named dd')].map((e) => e.clientWidth);"
    assert min(seen.run(values)) > 180


def test_it_prints_on_white_also_from_a_dark_screen(
    seen: Browser, pages: dict[str, Path], tmp_path: Path
) -> None:
    seen.look(720, dark=True, media="print")
    seen.open(pages["tiny"])
    assert seen.too_pale() == []
    assert seen.run("return getComputedStyle(document.querySelector('nav')).display;") == "none"
    with Image.open(seen.shot(tmp_path / "print.png")) as picture:
        assert picture.convert("L").getpixel((2, 2)) == 255
    assert seen.pdf(tmp_path / "run.pdf").read_bytes().startswith(b"%PDF")
    seen.look(1280)


def test_colours_of_groups_can_be_told_from_the_ground(
    seen: Browser, pages: dict[str, Path]
) -> None:
    script = """
    const bare = document.createElement("canvas").getContext("2d");
    const rgb = (c) => { bare.fillStyle = c; bare.fillRect(0, 0, 1, 1);
      return [...bare.getImageData(0, 0, 1, 1).data].slice(0, 3); };
    const light = (c) => rgb(c).map((v) => v / 255)
      .map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
      .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const swatch = document.querySelector(".swatch");
    const ground = light(getComputedStyle(document.querySelector(".chart")).backgroundColor);
    return arguments[0].map((colour) => {
      swatch.style.setProperty("--c", colour);
      const own = light(getComputedStyle(swatch).backgroundColor);
      const [a, b] = [own, ground].sort((x, y) => y - x);
      return (a + 0.05) / (b + 0.05); });
    """
    seen.open(pages["tiny"])
    for dark in (False, True):
        seen.look(1280, dark=dark)
        colours = ["#0b559f", "#5aaedb", "#d55e00", "#fde725", "#c2df23", "#440154", "#000000"]
        assert min(seen.run(script, colours)) >= 3
