"""Numbers, sizes, times and lists as they are written."""

from __future__ import annotations

import pytest
from rich.console import Group
from rich.text import Text

from layergroups._formatting import (
    Printable,
    count,
    duration,
    figure,
    first_few,
    memory,
    percent,
    plain_text,
    rate,
    short,
)
from layergroups.data import DataSummary
from layergroups.groups import Explanation
from layergroups.training import FoundRates, History


def test_lists_end_with_how_many_more_there_are() -> None:
    assert first_few(["a", "b"]) == "a, b"
    assert first_few("abcdef", 5) == "a, b, c, d, e and 1 more"
    assert first_few(range(2000), 2, "; ") == "0; 1 and 1,998 more"
    assert first_few([]) == ""


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (memory(None), "–"), (memory(0), "0 B"), (memory(44.8e6), "44.8 MB"),
        (memory(999.6e6), "1 GB"), (memory(2.5e9), "2.5 GB"), (memory(4e12), "4,000 GB"),
        (short(999), "999"), (short(12_345_678), "12.3 M"), (short(999_600), "1000 k"),
        (duration(8.34), "8.3 s"), (duration(59.96), "60 s"), (duration(125), "2 min 05 s"),
        (duration(11_520), "3 h 12 min"), (figure(None), "–"), (figure(float("nan")), "–"),
        (figure(0.5), "0.5000"), (figure(1e-6), "1e-06"), (percent(0.8734), "87.3 %"),
        (rate(2.5e-4), "2.5e-4"), (rate(1e-3), "1e-3"), (rate(0), "0"),
        (rate(0.1), "0.1"),
        (count(1, "class", "classes"), "1 class"), (count(1234, "photo"), "1,234 photos"),
    ],
)  # fmt: skip
def test_numbers(written: str, expected: str) -> None:
    assert written == expected


def test_what_prints_as_a_table_shows_in_a_notebook_too_and_escapes_its_text() -> None:
    class Shown(Printable):
        def __rich__(self) -> Text:
            return Text("a <b> & c")

    assert str(Shown()) == "a <b> & c"
    assert "a &lt;b&gt; &amp; c</pre>" in Shown()._repr_html_()


@pytest.mark.parametrize("kind", [History, DataSummary, Explanation, FoundRates])
def test_results_show_themselves_in_a_notebook(kind: type) -> None:
    assert issubclass(kind, Printable)


@pytest.fixture
def in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)


@pytest.mark.usefixtures("in_a_notebook")
def test_a_notebook_gets_text_and_no_picture_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert plain_text(Text("early")) == "early"
    assert capsys.readouterr().out == ""


def test_no_colours_no_markup_no_spaces_at_the_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert plain_text(Text("late  ", style="bold red")) == "late"
    assert plain_text("[bold]0.5") == "[bold]0.5"
    assert plain_text(Group("one", "two words"), width=5) == "one\ntwo\nwords"
